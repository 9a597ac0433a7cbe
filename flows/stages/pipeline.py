"""Stages through DVC: is one up to date, run it, and believe the result only after a look.

`dvc repro` may return 0 although outputs did not reach its cache (full disk), and a crash can
leave a truncated dvc.lock. So a stage counts as done when dvc.lock reads well and DVC's own status
of the stage is empty. DVC must be asked from the main thread only.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distillery.errors import BusyError, StageError
from distillery.files import write_bytes
from distillery.params.whole import Params
from flows.stages import side_by_side
from flows.stages.lock import (
    forget_the_dead,
    lock_bytes,
    restore_if_damaged,
    wait_for_the_dying,
)
from flows.stages.objects import drop_damaged, drop_damaged_folders, locked_outs
from flows.stages.process import Emit, SayOnce, quiet_dvc, reason, run_dvc
from flows.stages.splits import recover_splits
from flows.stages.storage import RESTORE_ATTEMPTS, fetch_objects, pull_lacking

STAGES = ("prepare", "fetch", "teacher", "cache", "distill", "evaluate")
BUSY_SIGNS = ("is busy, it is being blocked", "Unable to acquire lock")
RESTORED_SIGN = "is cached - skipping run"

Outcome = Literal["unchanged", "ran", "restored"]
Changes = Sequence[str | Mapping[str, Mapping[str, object]]]
"""Why DVC would run a stage, in its own words: `changed command`, or under `changed deps` and
`changed outs` by path what became of it: `modified`, `deleted`, or of params.yaml by key."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRun:
    """What became of one stage."""

    target: str
    outcome: Outcome
    seconds: float


def targets(params: Params, stage: str) -> list[str]:
    """Return DVC's names of one stage: for `distill` one per student and seed."""
    if stage == "distill":
        distill = params.distill
        return [distill_target(name, seed) for name in distill.students for seed in distill.seeds]
    return [stage]


def distill_target(student: str, seed: int) -> str:
    """Return DVC's name of one student's stage under one seed, `distill@conv-0`."""
    return f"distill@{student}-{seed}"


def changed_targets(root: Path, names: Sequence[str]) -> Mapping[str, Changes]:
    """Return DVC's status of some stages: those that are up to date are absent.

    Raises:
        BusyError: another DVC process works here.
        StageError: DVC cannot tell, for instance because dvc.lock is damaged.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    def ask() -> Mapping[str, Changes]:
        # DVC takes targets relative to the current folder, whatever the repository.
        with quiet_dvc(), contextlib.chdir(root), Repo(str(root)) as repo:
            status: Mapping[str, Changes] = repo.status(targets=list(names))
            return status

    use_git_if_present(root)
    wait_for_the_dying(root)
    forget_the_dead(root)
    try:
        try:
            return ask()
        except (KeyError, TypeError, ValueError):  # what DVC makes of a damaged list of files
            if not (damaged := drop_damaged_folders(root)):
                raise
            logger.warning("damaged in DVC's cache, and dropped: %s", ", ".join(map(str, damaged)))
            return ask()
    except LockError as error:
        raise BusyError(f"DVC is busy in {root}: {error}; wait for it, then run again") from error
    except DvcException as error:
        if any(sign in str(error) for sign in BUSY_SIGNS):
            raise BusyError(f"DVC is busy in {root}: {error}") from error
        raise StageError(f"DVC cannot tell the state of {root}: {_chain(error)}") from error


def without_results(root: Path, names: Sequence[str]) -> list[str]:
    """Return those of some stages that DVC would run: not up to date, and not in its run cache.

    Raises:
        BusyError, StageError: as `changed_targets`.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    changed = changed_targets(root, names)
    found = []
    with quiet_dvc(), contextlib.chdir(root), Repo(str(root)) as repo:
        for name in filter(changed.__contains__, names):
            try:
                with repo.lock:
                    stage = repo.stage.load_one(name=name)
                    stage.save_deps()
                    for out in stage.outs:  # what it made before, of what it read before
                        out.hash_info = type(out.hash_info)()
                    repo.stage_cache.restore(stage, dry=True)
            except DvcException:  # what else is wrong, `dvc repro` says
                found.append(name)
    return found


def use_git_if_present(root: Path) -> None:
    """Let DVC work in a folder that came without its Git history, such as an unpacked archive."""
    local = root / ".dvc/config.local"
    if not any((folder / ".git").exists() for folder in [root, *root.parents]):
        text = local.read_text(encoding="utf-8") if local.exists() else ""
        if "no_scm" not in text:
            write_bytes(local, f"{text}[core]\n    no_scm = true\n".encode())


def run_stage(root: Path, target: str, emit: Emit) -> StageRun:
    """Bring one stage up to date, if it is not, and verify what DVC says about it.

    Args:
        root: the workspace.
        target: DVC's name of the stage, such as `distill@conv-0`.
        emit: receives each line that the stage writes.

    Raises:
        BusyError: another DVC process works here.
        StageError: the stage failed, or DVC does not confirm its outputs.
    """
    start = time.monotonic()
    if not changed_targets(root, [target]):
        return StageRun(target, "unchanged", time.monotonic() - start)
    if target == "prepare":
        recover_splits(root, emit)
    status, lines = _reproduce_whole(root, target, emit)
    if status:
        if any(sign in line for line in lines for sign in BUSY_SIGNS):
            raise BusyError(f"stage {target}: DVC is busy here; run again when it is done")
        raise StageError(f"stage {target}: {reason(lines, status)}")
    if left := changed_targets(root, [target]):
        raise StageError(
            f"stage {target}: ended well, but DVC does not confirm it: {left}; is the disk full? "
            "Make room, then run again"
        )
    restored = any(RESTORED_SIGN in line for line in lines)
    return StageRun(target, "restored" if restored else "ran", time.monotonic() - start)


def train_ahead(root: Path, params: Params, names: Sequence[str], emit: Emit) -> list[str]:
    """Train what some stages `distill` would train, side by side where there is room for two.

    Returns:
        The stages that have something to save now.

    Raises:
        BusyError: another DVC process works here.
        StageError: a training failed.
    """
    where = side_by_side.places(params)
    if len(where) == 1 or not names:
        return []
    ready = without_results(root, names)
    jobs = [job for name in ready for job in side_by_side.jobs_of(name, params)]
    if len(jobs) < 2:
        return []
    side_by_side.train(root, jobs, where, emit)
    return ready


class Pipeline:
    """One pass over the stages of a workspace.

    DVC is asked about all stages at once, and again for each stage only after one ran, or when
    `look_again` is called because files changed in between.
    """

    def __init__(self, root: Path, params: Params) -> None:
        self.root = root
        self.params = params
        self.anything_ran = False
        self._say = SayOnce()
        self._names = [name for stage in STAGES for name in targets(params, stage)]
        self._changed: Mapping[str, Changes] | None = None

    def look_again(self) -> None:
        """Forget what DVC said."""
        self._changed = None

    def changed(self) -> Mapping[str, Changes]:
        """Return DVC's status of all stages as it was last asked for; see `changed_targets`."""
        if self._changed is None:
            self._changed = changed_targets(self.root, self._names)
        return self._changed

    def pull(self, until: str, emit: Emit, seconds: float | None = None) -> None:
        """Bring what stages would else make anew, up to the stage `until`; see `pull_lacking`."""
        wanted = STAGES[: STAGES.index(until) + 1] if until in STAGES else STAGES
        stale = [name for name in self.changed() if name.partition("@")[0] in wanted]
        if pull_lacking(self.root, stale, emit, seconds):
            self.look_again()

    def will_train(self) -> bool:
        """Return whether a teacher or a student is not up to date, for all that is known."""
        names = [name for name in self._names if name.startswith(("teacher", "distill"))]
        changed = self._changed
        return self.anything_ran or changed is None or any(name in changed for name in names)

    def train_ahead(self, emit: Emit) -> list[str]:
        """Train what the stages `distill` would train, side by side; see side_by_side.py.

        Returns:
            The stages that have something to save now.
        """
        names = targets(self.params, "distill")
        if not self.anything_ran and self._changed is not None:
            names = [name for name in names if name in self._changed]
        return train_ahead(self.root, self.params, names, self._say.through(emit))

    def bring_up_to_date(self, target: str, emit: Emit) -> StageRun:
        """Run one stage if it needs to; see `run_stage`."""
        start = time.monotonic()
        if not self.anything_ran and target not in self.changed():
            return StageRun(target, "unchanged", time.monotonic() - start)
        done = run_stage(self.root, target, self._say.through(emit))
        self.anything_ran |= done.outcome != "unchanged"
        return done


def _reproduce_whole(root: Path, target: str, emit: Emit) -> tuple[int, Sequence[str]]:
    """Run a stage through DVC; what came from DVC's cache instead is whole, or made again."""
    for attempt in range(RESTORE_ATTEMPTS):
        status, lines = _reproduce(root, target, emit)
        if status:
            damaged = [str(path) for path in drop_damaged_folders(root)]
        elif any(RESTORED_SIGN in line for line in lines):
            outs = locked_outs(root, target)
            damaged = drop_damaged(root, outs)
        else:
            damaged = []
        if not damaged or attempt == RESTORE_ATTEMPTS - 1:
            break
        emit(f"{target}: damaged in DVC's cache, and dropped: {', '.join(damaged)}")
        if attempt == 0 and not status:
            fetch_objects(root, list(outs), emit)
    return status, lines


def _reproduce(root: Path, target: str, emit: Emit) -> tuple[int, Sequence[str]]:
    former = lock_bytes(root)
    try:
        return run_dvc(root, ["repro", "--single-item", target], emit)
    finally:
        restore_if_damaged(root, former)


def _chain(error: BaseException) -> str:
    parts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        parts.append(str(error))
    return ": ".join(part for part in parts if part)
