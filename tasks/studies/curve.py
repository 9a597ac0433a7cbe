"""`make curve`: students and controls on shares of the training data, and WER against hours.

No stage of DVC's: nothing depends on it, and a full run should not pay for it. What it trains lies
in models/curve, each model with a digest of all it was made from, so a model is trained again only
where that changed. The models of all data are those of the stage `distill`.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED, TEACHER
from distillery.distill.distillation import Distillation, Trained
from distillery.distill.generations import Generations
from distillery.errors import StageError
from distillery.files import whole_folder
from distillery.models.recogniser import WEIGHTS_FILE
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.studies import curve_report, data_curve
from distillery.studies.curve_results import CurveResults, score
from distillery.studies.data_curve import CurveModel
from distillery.teacher_cache.filling.audit import audit_before_training
from distillery.teacher_cache.filling.expected import Places, open_expected
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.curves import run_digest
from tasks.stage import Snapshot, run_stage, snapshot
from tasks.studies.made_from import Note, Study, inputs_of, read_note, rows_of, write_note
from tasks.studies.report_run import LoggedRun, Report, log_report

ROLE = "curve"
MADE_FROM_FILE = "made_from.json"

logger = logging.getLogger(__name__)


def curve(root: Path) -> CurveResults:
    """Train what is missing on the curves, score them, and write reports/curve.csv and .png.

    Args:
        root: a workspace whose cache is up to date, and `distill` too where all data are a point.

    Returns:
        All figures.
    """
    settings = Params.load(root / PARAMS_FILE)
    data = judged(PreparedData.open(root / PREPARED), root / TEACHER)
    data_curve.amounts(data, settings)  # raises before anything is trained
    models = data_curve.models_of(settings)
    for model in models:
        if model.is_stages and not (model.folder(root) / WEIGHTS_FILE).exists():
            raise StageError(f"{model.folder(root)}: holds no {model.role}; run make distill")
    _train_all(CurveStudy(root, settings, data), [m for m in models if not m.is_stages])
    results = score(root, data, settings)
    curve_report.write_report(results, root / "reports")
    return results


class TrainedNote(Note):
    """What is written down of a model on a curve."""

    num_epochs: int
    """Those of its training; a control takes as many as its student."""
    valid_wer: float
    """WER of its best epoch on the validation split, as a fraction."""


class CurveStudy(Study):
    """What all trainings of a curve share."""

    @cached_property
    def cache(self) -> TeacherCache:
        """The teacher's outputs, checked to be those of the present teacher."""
        settings, places = self.settings, Places.in_workspace(self.root)
        return open_expected(places, settings.cache, settings.distill.teacher_layers)

    def audit(self) -> None:
        """Compare the cache with the live teacher, before anything is trained."""
        teacher = Places.in_workspace(self.root).teacher
        for line in audit_before_training(
            self.cache, self.data, teacher, load_teacher, self.settings.cache
        ):
            logger.info("%s", line)

    def run_of(self, model: CurveModel) -> Distillation:
        """Return the training of a student and its control on their share of the data."""
        return Distillation(
            data_curve.draw(self.data, model.fraction),
            self.cache,
            model.student,
            self.settings.distill.for_seed(model.seed),
            self.root / "scratch",
            self.root / "models",
            speed_factors=self.settings.cache.speed_factors,
            root=self.root,
            pace=self.data,
            checkpoint_seconds=self.settings.training.checkpoint_seconds,
        )

    def digest_of(self, model: CurveModel) -> str:
        """Return a digest of code, settings and data that a model is made from."""
        run, seed = self.run_of(model), str(model.seed)
        return run_digest(
            inputs_of(self.root, "distill", model.student, seed),
            model.student,
            seed,
            run.cache.manifest_digest,
            rows_of(run.data, "train", "valid"),
            run.pace_keys,
            self.sounds,
            run.data.sample_rate_hz,
            self.registered_student(model.student),
        )


def _train_all(study: CurveStudy, models: list[CurveModel]) -> None:
    digests = {model: study.digest_of(model) for model in models}
    missing = [model for model in models if not _is_made(study.root, model, digests[model])]
    logger.info("curve: %d of %d models are up to date", len(models) - len(missing), len(models))
    if not missing:
        return
    study.audit()
    with logging_redirect_tqdm(), tqdm(missing, desc="curve", unit="model", smoothing=0) as bar:
        for model in bar:
            before = _inputs(study.root, model)
            _train(study, model, digests[model])
            if _inputs(study.root, model) != before:
                (model.folder(study.root) / MADE_FROM_FILE).unlink()
                raise StageError(
                    f"{model}: code, settings or data changed while it was trained, so it fits "
                    "neither state; run make curve again"
                )


def _is_made(root: Path, model: CurveModel, digest: str) -> bool:
    note = _note_of(root, model)
    return note is not None and note.digest == digest


def _note_of(root: Path, model: CurveModel) -> TrainedNote | None:
    return read_note(TrainedNote, model.folder(root) / MADE_FROM_FILE)


def _inputs(root: Path, model: CurveModel) -> Snapshot:
    return snapshot(root, "distill", model.student, str(model.seed))


def _train(study: CurveStudy, model: CurveModel, digest: str) -> None:
    """Train one model and save it; what was interrupted goes on from its last epoch."""
    run, root = study.run_of(model), study.root
    name = f"{model.item}-{data_curve.percent(model.fraction)}".replace("/", "-")
    curves = root / "scratch/curve" / f"{name}.jsonl"
    logger.info("curve: %s: %d utterances", model, len(run.data.split("train")))
    if model.role == "student":
        generations = Generations(run, study.data.folder, study.settings.cache)
        last, _ = generations.train_earlier(curves)
        trained = last.train_student(curves)
    else:
        student = _note_of(root, model._replace(role="student"))
        assert student is not None  # it stands in front of its control
        trained = run.train_control(curves, student.num_epochs)
    _save(trained, model.folder(root), digest, curves)
    if model.role == "student":
        generations.clean_up()


def _save(trained: Trained, folder: Path, digest: str, curves: Path) -> None:
    with whole_folder(folder) as temporary:
        trained.recogniser.save(temporary)
        (temporary / data_curve.LEARNING_CURVE_FILE).write_bytes(curves.read_bytes())
        note = TrainedNote(
            digest=digest, num_epochs=trained.num_epochs, valid_wer=trained.valid_wer
        )
        write_note(temporary / MADE_FROM_FILE, note)
    trained.checkpoint.unlink(missing_ok=True)
    curves.unlink()


def log_curve(root: Path, results: CurveResults) -> LoggedRun:
    """Log the curves as an MLflow run of their own; equal curves and settings are logged once.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; the report stays where it is.
    """
    return log_report(
        root,
        Report(
            ROLE,
            "make curve",
            made_from=(PREPARED, TEACHER),
            text=curve_report.render(results),
            files=(curve_report.CSV_FILE, curve_report.PLOT_FILE),
            points=curve_report.metrics(results, int(time.time() * 1000)),
        ),
    )


def main() -> None:
    """Train, score and draw in the current folder; MLflow is left to `make curve`."""
    run_stage(curve, Path.cwd(), guard=False)


if __name__ == "__main__":
    main()
