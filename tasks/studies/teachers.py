"""`make teachers`: candidates for the teacher, compared before one is chosen.

No stage of DVC's: nothing depends on it. The configured teacher is that of the stages `teacher` and
`cache`; all others are made in scratch/teachers, one folder each:

    NAME/teacher/           the teacher, as the stage would save it, and what it was made from
    NAME/cache/             what it says of the pilot's share of the training audio
    NAME/heard.json         what it heard on the validation split, and what that cost
    NAME/pilot-seed-S.json  what the pilot's student heard there
    controls/…json          the same of controls, which teachers of equal tokens share

Each part bears a digest of all that it was made from: it is made again only where that changed, and
an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED
from distillery.errors import DistilleryError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.studies import teacher_report
from distillery.studies.teacher_choice import Candidate, TeacherChoice, summarise
from tasks.stage import run_stage
from tasks.studies.report_run import LoggedRun, Report, log_report
from tasks.studies.teacher_study import TeacherStudy
from tasks.studies.trial import Progress, Trial
from tasks.teacher import KeptCheckpoint

ROLE = "teachers"
PHASES = 3  # of every candidate: made, examined, cached; its pilots come on top

logger = logging.getLogger(__name__)


def teachers(root: Path, failed: Mapping[str, str] | None = None) -> TeacherChoice:
    """Compare all candidates, and write reports/teachers.json, .csv and .png.

    Args:
        root: a workspace with prepared data, and the configured teacher and its cache.
        failed: why some candidates cannot be tried, by name.

    Returns:
        All figures.

    Raises:
        CorpusError: the validation split holds no transcripts, or the pilot's share no audio.
    """
    settings = Params.load(root / PARAMS_FILE)
    study = TeacherStudy(root, settings, PreparedData.open(root / PREPARED))
    rows = study.valid_rows  # where there are none, nothing is tried
    found = try_all(study, failed or {})
    hours = study.share.split("train")["duration_seconds"].sum() / SECONDS_PER_HOUR
    choice = summarise(found, rows, float(hours), settings, study.data.unit_of("valid"))
    teacher_report.write_report(choice, root / "reports")
    return choice


def try_all(study: TeacherStudy, failed: Mapping[str, str]) -> list[Candidate]:
    """Try all candidates, the ones made of others behind these.

    Args:
        study: the workspace.
        failed: why some candidates cannot be tried, by name.

    Raises:
        CorpusError: the validation split holds no transcripts, or the pilot's share no audio.
    """
    _ = study.share, study.valid_rows  # raise before anything is made
    settings = study.settings.all_candidates
    seeds = study.settings.teacher_candidates.pilot.seeds
    trials = [Trial(study, name, wanted) for name, wanted in settings.items()]
    trials.sort(key=lambda trial: str(trial.settings.kind) == "ensemble")
    found = {
        trial.name: Candidate(trial.name, trial.settings.kind, failed.get(trial.name))
        for trial in trials
    }
    _remove_outdated_checkpoints(study.root, trials)
    with (
        logging_redirect_tqdm(),
        tqdm(total=len(trials) * (PHASES + len(seeds)), desc="teachers", unit="step") as bar,
    ):
        # Teachers first: what is wrong with the last one shows before the first pilot.
        for phase in (Trial.examine, Trial.teach):
            for trial in trials:
                candidate, done = found[trial.name], bar.n
                if candidate.problem is None:
                    found[trial.name] = _attempt(phase, trial, candidate, bar.update)
                steps = 2 if phase is Trial.examine else PHASES - 2 + len(seeds)
                bar.update(max(0, done + steps - bar.n))
    return [found[name] for name in settings]


def _remove_outdated_checkpoints(root: Path, trials: Sequence[Trial]) -> None:
    """Remove what was trained by other code or on other data, and would be gone on with."""
    wanted = set(KeptCheckpoint(root).checkpoints)
    wanted.update(path for trial in trials if trial.is_made for path in trial.checkpoints)
    for trial in trials:
        for path in trial.checkpoints:
            if path not in wanted:
                path.unlink(missing_ok=True)


def _attempt(
    phase: Callable[[Trial, Candidate, Progress], Candidate],
    trial: Trial,
    candidate: Candidate,
    progress: Progress,
) -> Candidate:
    """Return what a phase found out; what goes wrong with one candidate stops no other."""
    try:
        return phase(trial, candidate, progress)
    except DistilleryError as error:
        why = str(error)
    except Exception as error:  # a library's, perhaps for want of memory: the others may well work
        logger.exception("%s: failed", trial.name)
        why = f"{type(error).__name__}: {error}"
    logger.warning("%s: %s", trial.name, why)
    if candidate.texts is None:
        return replace(candidate, problem=why)
    return replace(candidate, pilot_problem=why)


def log_teachers(root: Path, choice: TeacherChoice) -> LoggedRun:
    """Log the comparison as an MLflow run of its own; an equal one is logged once.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; the report stays where it is.
    """
    return log_report(
        root,
        Report(
            ROLE,
            "make teachers",
            made_from=(PREPARED,),
            text=teacher_report.render(choice),
            files=(teacher_report.CSV_FILE, teacher_report.JSON_FILE, teacher_report.PLOT_FILE),
            metrics=teacher_report.metrics(choice),
        ),
    )


def main() -> None:
    """Compare in the current folder; MLflow is left to `make teachers`."""
    run_stage(teachers, Path.cwd(), guard=False)


if __name__ == "__main__":
    main()
