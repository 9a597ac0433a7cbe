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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.data.manifest import PreparedData
from distillery.evaluate.evaluate import SECONDS_PER_HOUR
from distillery.params import whole as params
from distillery.studies import teacher_choice
from tasks.stage import run_stage
from tasks.studies.contest import ROLE, Contest
from tasks.studies.report_run import Report, log_report


def teachers(root: Path, failed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compare all candidates, and write reports/teachers.json, .csv and .png.

    Args:
        root: a workspace with prepared data, and the configured teacher and its cache.
        failed: why some candidates cannot be tried, by name.

    Returns:
        What `teacher_choice.summarise` returns.

    Raises:
        CorpusError: the validation split holds no transcripts, or the pilot's share no audio.
    """
    settings = params.load(root / params.PARAMS_FILE)
    contest = Contest(root, settings, PreparedData.open(root / "data/prepared"))
    found = contest.run(failed or {})
    hours = contest.share.split("train")["duration_seconds"].sum() / SECONDS_PER_HOUR
    summary = teacher_choice.summarise(found, contest.valid_rows, float(hours), settings)
    teacher_choice.write_report(summary, root / "reports")
    return summary


def log(root: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Log the comparison as an MLflow run of its own; an equal one is logged once.

    Returns:
        Where the run is: `tracking_uri`, `experiment_id` and, in `runs`, `parent`.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; the report stays where it is.
    """
    choice = teacher_choice
    return log_report(
        root,
        Report(
            ROLE,
            "make teachers",
            made_from=("data/prepared",),
            text=choice.render(summary),
            files=(choice.CSV_FILE, choice.JSON_FILE, choice.PLOT_FILE),
            metrics=choice.metrics(summary),
        ),
    )


def main() -> None:
    """Compare in the current folder; MLflow is left to `make teachers`."""
    run_stage(teachers, Path.cwd(), guard=False)


if __name__ == "__main__":
    main()
