"""A student made again from its lineage, and compared: python -m flows.looking_back.reproduce RUN.

A Git worktree under scratch/reproduce holds the code that the run was made with, the settings and
dvc.lock that it logged, and what dvc.lock names, by its hash from DVC's cache: prepared data,
teacher, teacher cache and, for scoring, all other models. In it the student alone is trained again,
without its control, which its weights do not depend on, and the models of its seed are scored
again. With `--from teacher` teacher and cache are made again, too. Nothing of this workspace
is touched, apart from DVC's cache, which may grow.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from distillery.console import new_table
from distillery.data.workspace import EVALUATION, PREPARED, TEACHER, TEACHER_CACHE
from distillery.errors import DistilleryError, StageError
from distillery.evaluate.summary import Summary
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.metrics import model_metrics
from distillery.tracking.store import MODEL_TAG, PARENT_TAG, Tracking
from distillery.tracking.versions import version_of
from flows import environment
from flows.stages import pipeline as stages
from flows.stages.process import reason, run_dvc
from tasks.lineage import LOCK_FILE, PATCH_FILE, locked_outputs

PLACE = "scratch/reproduce"
REQUIREMENTS = "requirements.txt"
COMPARED = re.compile(
    r"^(test/(wer|cer|substitutions|deletions|insertions)|valid/best_wer|gain/wer)$"
)
"""Metrics that depend on weights and data alone; seconds are measured anew each time."""
EXIT_DIFFERENT = 1
TEACHER_STAGES = {"teacher": TEACHER, "cache": TEACHER_CACHE}
"""The stages before a student's that can be made again, and what each makes."""
STARTS = ("teacher", "distill")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """A student's run, and what it says it was made from."""

    run: str
    model: str
    """Such as `students/conv/seed-0`."""
    parent: str
    commit: str
    md5: str
    """Of the student's DVC output."""
    metrics: Mapping[str, float]

    @property
    def stage(self) -> str:
        """DVC's name of the stage that trained it."""
        student = self.model.split("/")[1]
        return stages.distill_target(student, self.seed)

    @property
    def seed(self) -> int:
        """What it was trained from."""
        return int(self.model.rpartition("/seed-")[2])

    @property
    def control(self) -> str:
        """Its control, such as `controls/conv/seed-0`."""
        return self.model.replace("students/", "controls/", 1)


@dataclass(frozen=True)
class Compared:
    """One thing then and now."""

    what: str
    then: str
    now: str

    @property
    def equal(self) -> bool:
        """Whether the two are the same."""
        return self.then == self.now


def find_origin(tracking: Tracking, model_name: str, wanted: str) -> Origin:
    """Return the student's run that somebody means.

    Args:
        tracking: the connection to MLflow.
        model_name: the registered model, for a version that is given by its number alone.
        wanted: id of a student's run or of its parent, which means the registered student;
            `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or a version's number.

    Raises:
        StageError: it is no student, or was not made from a Git commit.
        TrackingError: MLflow cannot be reached, or knows no such thing.
    """
    with tracking.explained():
        run = tracking.client.get_run(run_of(tracking, model_name, wanted))
        tags = run.data.tags
        if tags.get("distillery.role") == "pipeline":
            version = tags.get("registered.version")
            if version is None:
                raise StageError(
                    f"run {wanted}: is a pipeline's that registered no student; name "
                    "a student's run"
                )
            run = tracking.client.get_run(run_of(tracking, tags["registered.model"], version))
            tags = run.data.tags
    model = tags.get(MODEL_TAG, "")
    if not model.startswith("students/") or "dvc.md5" not in tags:
        raise StageError(
            f"run {wanted}: is of {model or tags.get('distillery.role', 'something else')}, "
            "expected a student that was trained and evaluated to the end; name another run"
        )
    if (commit := tags.get("git.commit", "none")) == "none":
        raise StageError(
            f"run {wanted}: was made outside Git, so its code is not known; runs of a clone can be "
            "made again"
        )
    return Origin(
        str(run.info.run_id), model, tags[PARENT_TAG], commit, tags["dvc.md5"], run.data.metrics
    )


def run_of(tracking: Tracking, model_name: str, wanted: str) -> str:
    """Return the run that `models:/NAME/VERSION`, `models:/NAME@ALIAS` or a number stands for.

    Raises:
        TrackingError: the registry does not hold it.
    """
    if re.fullmatch(r"\d+", wanted):
        wanted = f"models:/{model_name}/{wanted}"
    if re.fullmatch(r"models:/([^/@]+)(/\d+|@.+)", wanted):
        return str(version_of(tracking, wanted).run_id)
    return wanted


def reproduce(root: Path, wanted: str, start: str = "distill") -> list[Compared]:
    """Make a student again and return how it compares, item by item.

    Args:
        root: the workspace.
        wanted: as in `find_origin`.
        start: the first stage that is made again, one of STARTS.

    Raises:
        StageError: what it was made from is gone, or a stage fails.
        TrackingError: MLflow cannot be reached, or lacks what the run logged.
    """
    settings = Params.load(root / PARAMS_FILE).register
    tracking = Tracking(settings, root, again="make reproduce")
    origin = find_origin(tracking, settings.model_name, wanted)
    logger.info("reproduce: %s, run %s, commit %s", origin.model, origin.run, origin.commit[:12])
    with worktree(root, origin) as place:
        _lay_out(tracking, origin, place)
        _bring_data(root, place, origin)
        then = locked_outputs(place / LOCK_FILE)
        before = list(TEACHER_STAGES) if start == "teacher" else []
        for line in _plan(origin, then, before, _seconds_of_training(tracking, origin)):
            logger.info("%s", line)
        for stage in before:
            shutil.rmtree(place / TEACHER_STAGES[stage])  # the cache would be found complete
            _rerun(place, stage)
        _train_alone(place, origin)
        now = locked_outputs(place / LOCK_FILE)
        _score(place, origin)
        return _compare(place, origin, then, now, before)


def _plan(
    origin: Origin, locked: Mapping[str, str], before: Sequence[str], seconds: float | None
) -> list[str]:
    """Return what will be made again and what not, in sentences."""
    taken = [PREPARED, *(path for stage, path in TEACHER_STAGES.items() if not before)]
    took = "" if seconds is None else f", whose training took {seconds:.0f} s then"
    return [
        "As it was, from DVC's cache: "
        + ", ".join(f"{path} ({locked[path][:12]})" for path in taken if path in locked)
        + ", all other models.",
        f"Made again: {', '.join([*before, origin.model])} without its control{took}. "
        f"Then the models of seed {origin.seed} are scored again.",
    ]


def _seconds_of_training(tracking: Tracking, origin: Origin) -> float | None:
    """Return how long the student trained, from the times of its losses; None: they do not say."""
    with tracking.explained():
        points = tracking.client.get_metric_history(origin.run, "train/loss")
    times = sorted(point.timestamp for point in points)
    if len(times) < 2:
        return None
    return (times[-1] - times[0]) / 1000 * len(times) / (len(times) - 1)  # the first epoch, too


@contextlib.contextmanager
def worktree(root: Path, origin: Origin) -> Iterator[Path]:
    """Yield a worktree of the run's commit; it stays where something goes wrong.

    Args:
        root: the workspace.
        origin: the run; what a former call for it left behind is removed first.

    Raises:
        StageError: the commit is not in this clone.
    """
    place = root / PLACE / origin.run
    shutil.rmtree(place, ignore_errors=True)
    _git(root, "worktree", "prune")  # Git may still know a folder of that name
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _git(root, "worktree", "add", "--detach", str(place), origin.commit)
    except StageError as error:
        raise StageError(
            f"commit {origin.commit[:12]}: not in this clone ({error}); fetch the branch that "
            "holds it, then run make reproduce again"
        ) from None
    yield place
    _git(root, "worktree", "remove", "--force", str(place))


def _git(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"git {arguments[0]}: {done.stderr.strip()}")


def _lay_out(tracking: Tracking, origin: Origin, place: Path) -> None:
    """Put the settings, the lock and the changes that were not committed into the worktree."""
    with tracking.explained():
        names = {item.path for item in tracking.client.list_artifacts(origin.parent)}
    if missing := [name for name in (PARAMS_FILE, LOCK_FILE) if name not in names]:
        raise StageError(
            f"run {origin.parent}: holds no {missing[0]} among its artifacts, from which it could "
            "be made again; choose a run that ended well"
        )
    with tracking.explained():
        for name in names & {PARAMS_FILE, LOCK_FILE, PATCH_FILE}:
            tracking.client.download_artifacts(origin.parent, name, str(place))
    if (place / PATCH_FILE).exists():
        _git(place, "apply", "--whitespace=nowarn", PATCH_FILE)


def _bring_data(root: Path, place: Path, origin: Origin) -> None:
    """Check out what dvc.lock names, from this workspace's DVC cache or else from the remote."""
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=environment.for_stages(),
    ).stdout.strip()
    (place / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    for command in (["checkout", "--force"], ["pull", "--force"]):
        status, lines = run_dvc(place, command, _say_nothing)
        if status == 0:
            break
    else:
        tail = "\n".join([*lines][-5:])
        raise StageError(
            f"{origin.model}: data or models that dvc.lock names are neither in DVC's cache here "
            f"nor at its remote; run `dvc pull` where they are, or `dvc push` there\n{tail}"
        )
    then, now = (
        path.read_bytes() if path.exists() else b""
        for path in (place / REQUIREMENTS, root / REQUIREMENTS)
    )
    if then != now:
        logger.warning(
            "reproduce: %s differs from the present one, but the packages of this workspace are "
            "used; other versions may give other bits",
            REQUIREMENTS,
        )


def _say_nothing(_: str) -> None:
    pass


def _train_alone(place: Path, origin: Origin) -> None:
    """Train the student in a worktree without its control, which is put back as it was."""
    lock, path = place / LOCK_FILE, place / PARAMS_FILE
    settings, text = yaml.safe_load(path.read_text("utf-8")), path.read_bytes()
    if not settings["distill"].get("control"):
        _rerun(place, origin.stage)
        return
    outs = [f"models/{origin.control}", f"curves/{origin.control}.jsonl"]
    was = lock.read_bytes()
    _change(path, "control", False)
    _rerun(place, origin.stage)
    path.write_bytes(text)
    made = lock.read_bytes()
    lock.write_bytes(was)
    status, lines = run_dvc(place, ["checkout", "--force", *outs], _say_nothing)
    if status:
        raise StageError("\n".join([f"{origin.control}: cannot be put back", *lines]))
    lock.write_bytes(made)


def _score(place: Path, origin: Origin) -> None:
    """Score the models of the student's seed; those of others say nothing about it."""
    _change(place / PARAMS_FILE, "seeds", [origin.seed])
    _rerun(place, "evaluate")


def _change(path: Path, setting: str, value: object) -> None:
    """Write settings with another value in the section `distill`."""
    settings = yaml.safe_load(path.read_text("utf-8"))
    settings["distill"][setting] = value
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _rerun(place: Path, target: str) -> None:
    logger.info("reproduce: %s", target)
    arguments = ["repro", "--single-item", "--force", "--no-run-cache", target]
    # Of what DVC says, advice about Git and pushing is not for a worktree that goes.
    status, lines = run_dvc(place, arguments, partial(logger.info, "%s"))
    if status:
        raise StageError(
            f"stage {target}: failed in {place}, which is kept: {reason(lines, status)}"
        )


def _compare(
    place: Path,
    origin: Origin,
    then: Mapping[str, str],
    now: Mapping[str, str],
    before: Sequence[str],
) -> list[Compared]:
    compared = [
        Compared(f"{stage}, MD5 by DVC", then[path], now[path])
        for stage, path in TEACHER_STAGES.items()
        if stage in before
    ]
    md5 = now[f"models/{origin.model}"]
    compared.append(Compared("model, MD5 by DVC", origin.md5, md5))
    metrics = _metrics(place, origin.model)
    for name in sorted(filter(COMPARED.match, origin.metrics)):
        value = metrics.get(name)
        compared.append(
            Compared(name, repr(origin.metrics[name]), "missing" if value is None else repr(value))
        )
    return compared


def _metrics(place: Path, model: str) -> dict[str, float]:
    """Return the metrics that the run made again would log, as the code of today names them."""
    summary = Summary.read(place / EVALUATION)
    for row in summary.trained:
        if row.model == model:
            return model_metrics(row, summary)
    raise StageError(f"{place}: its evaluation holds no {model}")


def render(compared: Sequence[Compared]) -> Table:
    """Return the comparison as a table."""
    table = new_table()
    for header in ("", "then", "now", "equal"):
        table.add_column(header)
    for item in compared:
        table.add_row(item.what, item.then, item.now, "yes" if item.equal else "NO")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a student of the current workspace's MLflow again, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.looking_back.reproduce", description=__doc__
    )
    parser.add_argument("run", help="an MLflow run, models:/NAME/VERSION, models:/NAME@ALIAS, or N")
    parser.add_argument(
        "--from",
        dest="start",
        choices=STARTS,
        default="distill",
        help="teacher: make the teacher and the teacher cache again, too, not the student alone",
    )
    options = parser.parse_args(arguments)
    root = Path.cwd()
    environment.apply(root)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        compared = reproduce(root, options.run, options.start)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 1
    Console(width=120, highlight=False).print(render(compared))
    if all(item.equal for item in compared):
        logger.info("The student was made again, bit for bit.")
        return 0
    logger.info(
        "It differs. On another processor, with other packages or on a GPU the last bits may; "
        "settings, data and code were those of the run."
    )
    return EXIT_DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
