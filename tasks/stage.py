"""What every stage does around its one function: logging, readable errors, guards.

A stage is a process of its own. It dies with the DVC that started it, and it fails when its
inputs changed while it ran: DVC records dependencies as they are when a stage ends, so a late edit
would otherwise be blessed by results that never saw it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypedDict

import psutil
import yaml

from distillery.commands import surroundings
from distillery.errors import DistilleryError, StageError
from distillery.params.file import PARAMS_FILE

PIPELINE_FILE = "dvc.yaml"
CODE_FOLDER = "models/code"
"""Which code each model has to itself; code.py writes it."""
LEARNT_LAYERS_FILE = "models/learnt_layers.json"
"""Which of the teacher's hidden layers students learn from; fetch.py writes it."""
FOR_DVC = (CODE_FOLDER, LEARNT_LAYERS_FILE)
"""What stages depend on so that DVC runs them, and none of them reads."""
PR_SET_PDEATHSIG = 1
STARTER = "DISTILLERY_STARTER"
"""Environment variable: the process that must outlive those that it started."""
EXIT_ERROR = 1
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EXIT_TERMINATED = 128 + signal.SIGTERM

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""dvc.yaml is read four times before a stage begins: 0.2 s without libyaml."""
logger = logging.getLogger(__name__)
Snapshot = Mapping[str, object]


class StageSpec(TypedDict, total=False):
    """A stage in dvc.yaml, as far as this file reads it."""

    deps: list[str]
    """Files and folders, `${…}` in them."""
    params: list[str]
    """Keys of params.yaml, `${…}` in them."""
    matrix: dict[str, object]
    """By axis: what it goes through."""
    outs: list[str | dict[str, object]]
    """Files and folders that it makes, `${…}` in them; with options, a mapping of one entry."""


def run_stage(function: Callable[..., object], *arguments: object, guard: bool = True) -> NoReturn:
    """Run one stage as this process, and end the process with its exit status.

    Args:
        function: the stage; its name is the stage's in dvc.yaml.
        arguments: its arguments: the workspace, and the items of a `matrix` stage in the order of
            its axes.
        guard: whether to fail when what the stage reads changes while it runs; off for the stage
            that dvc.yaml does not know.
    """
    surroundings.settle()
    if STARTER in os.environ or "DVC_STAGE" in os.environ:
        die_with_parent()
    if "DVC_STAGE" in os.environ and _left_by_dvc():
        sys.exit(EXIT_TERMINATED)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if guard:
            guarded(function, *arguments)
        else:
            function(*arguments)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if (full := lack_of_room(error)) is None:
            raise
        sys.stdout.flush()
        sys.stderr.write(
            f"error: stage {function.__name__}: {full}; make room, then run again: it goes on with "
            "what is done\n"
        )
        sys.exit(EXIT_ERROR)
    sys.exit(0)


def lack_of_room(error: BaseException) -> str | None:
    """Return what says that a disk or quota is full, None where something else went wrong.

    Libraries wrap the system's error in ones of their own, so what an error came from counts, too.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in NO_ROOM:
            return str(current)
        if os.strerror(errno.ENOSPC) in str(current):
            return str(current).strip().splitlines()[0]
        current = current.__cause__ or current.__context__
    return None


def guarded(function: Callable[..., object], *arguments: object) -> None:
    """Call a stage's function and make sure that nothing it reads changed meanwhile.

    Raises:
        StageError: a dependency or a setting changed.
        DistilleryError: what the stage raises.
    """
    root = Path(str(arguments[0]))
    items = [str(argument) for argument in arguments[1:]]
    check_inputs(root, function.__name__)
    before = snapshot(root, function.__name__, *items)
    function(*arguments)
    after = snapshot(root, function.__name__, *items)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise StageError(
            f"stage {function.__name__}: {changed[0]}{more} changed while it ran, so its results "
            f"fit neither state; run make {function.__name__} again"
        )


def check_inputs(root: Path, stage: str, to_come: Collection[str] = ()) -> None:
    """Make sure that what other stages make for one is there.

    Args:
        root: the workspace.
        stage: its name in dvc.yaml.
        to_come: stages that will have run by then.

    Raises:
        StageError: something is missing; the message names the stage to run first.
    """
    stages: dict[str, StageSpec] = _read(root / PIPELINE_FILE)["stages"]
    if stage not in stages:
        return
    lacking = _lacking(root, stages, stage)
    todo = [name for name in lacking if name not in to_come]
    while todo:  # what they need in turn
        more = _lacking(root, stages, todo.pop())
        todo += [name for name in more if name not in lacking and name not in to_come]
        lacking = {**more, **lacking}
    for first in stages:
        if first in lacking and first not in to_come:
            raise StageError(
                f"stage {stage}: {root / lacking[first]} is not there yet; stage {first} makes it: "
                f"run make {first} first, or make run, which runs every stage that is due"
            )


def _lacking(root: Path, stages: Mapping[str, StageSpec], stage: str) -> dict[str, str]:
    """Return the stages whose results one stage reads and does not find: by name what is missing.

    Of a dependency that differs by item the part that all items share counts; FOR_DVC does not.
    """
    params = _read(root / PARAMS_FILE)
    found: dict[str, str] = {}
    for template in stages[stage].get("deps", []):
        dependency = Path(template.partition("/${item.")[0])
        if any(dependency.is_relative_to(name) for name in FOR_DVC):
            continue
        for name, spec in stages.items():
            for out in _outs(spec, params):
                reads_part, reads_all = (
                    dependency.is_relative_to(out),
                    out.is_relative_to(dependency),
                )
                wanted = dependency if reads_part else out
                if (reads_part or reads_all) and not (root / wanted).exists():
                    found.setdefault(name, str(wanted))
    return found


def _outs(spec: StageSpec, params: Any) -> Iterator[Path]:
    """Yield what a stage makes, in the workspace, for every item of a `matrix`."""
    axes = spec.get("matrix", {})
    values = [look_up(params, str(axis).strip("${}")) or [] for axis in axes.values()]
    for items in itertools.product(*values):
        variables = dict(zip((f"item.{axis}" for axis in axes), map(str, items), strict=True))
        for out in spec.get("outs", []):
            template = out if isinstance(out, str) else next(iter(out))
            yield Path(_resolve(template, params, variables))


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies, however it dies.

    The environment says who that is where it was one of ours: it may be dead by now, which nothing
    else tells.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    starter = os.environ.get(STARTER)
    ancestors = {process.pid for process in psutil.Process().parents()}
    orphaned = starter is not None and int(starter) not in ancestors
    if orphaned or os.getppid() != parent:  # it died before Linux knew
        sys.exit(EXIT_TERMINATED)


def _left_by_dvc() -> bool:
    """Return whether a DVC that somebody ran by hand died before the stage began: init has it."""
    return os.getppid() == 1 and not any("dvc" in word for word in psutil.Process(1).cmdline())


def snapshot(root: Path, stage: str, *items: str) -> Snapshot:
    """Return the state of everything a stage depends on, by name.

    Code and files named in dvc.yaml count by content, other files inside a folder by size and time
    of change, settings by value.

    Args:
        root: the workspace.
        stage: its name in dvc.yaml.
        items: one item of each axis of a `matrix` stage.
    """
    params = _read(root / PARAMS_FILE)
    spec = _stage_spec(root, stage)
    variables = dict(zip((f"item.{axis}" for axis in spec.get("matrix", {})), items, strict=True))
    state: dict[str, object] = {}
    for name in spec.get("params", []):
        key = _resolve(name, params, variables)
        state[f"{PARAMS_FILE}: {key}"] = look_up(params, key)
    for name in spec.get("deps", []):
        state.update(_file_states(root, _resolve(name, params, variables)))
    return state


def look_up(values: Any, dotted: str) -> Any:
    """Return the value under a dotted key, or None."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, yaml.YAMLError) as error:
        raise StageError(f"{path}: cannot be read: {error}") from error


def _stage_spec(root: Path, stage: str) -> StageSpec:
    stages = _read(root / PIPELINE_FILE)["stages"]
    if stage not in stages:
        raise StageError(f"{root / PIPELINE_FILE}: has no stage {stage!r}, only {sorted(stages)}")
    spec: StageSpec = stages[stage]
    return spec


def _resolve(template: str, params: Any, variables: Mapping[str, str]) -> str:
    return re.sub(
        r"\$\{([^}]+)\}",
        lambda found: variables.get(found[1]) or str(look_up(params, found[1])),
        template,
    )


def _file_states(root: Path, name: str) -> Iterator[tuple[str, object]]:
    path = root / name
    if path.is_file():
        yield name, _digest(path)
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for file in files:
            if file == ".DS_Store" or file.startswith("._"):  # as in .dvcignore
                continue
            found = Path(folder) / file
            status = found.stat()
            state = (status.st_size, status.st_mtime_ns)
            is_code = found.suffix == ".py"
            yield f"{name}/{found.relative_to(path)}", _digest(found) if is_code else state


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
