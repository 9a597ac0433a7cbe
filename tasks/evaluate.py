"""Stage `evaluate`: teacher, students and controls on the test split."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from distillery.data.judged import judged
from distillery.data.manifest import ORIGINS, PreparedData
from distillery.data.workspace import (
    CURVES,
    EVALUATION,
    METRICS_FILE,
    PREPARED,
    TEACHER,
    TEACHER_CACHE,
)
from distillery.decoder.making import Learnt, learn
from distillery.distill.kept_texts import language_model_texts
from distillery.evaluate.dvc_metrics import dvc_metrics
from distillery.evaluate.evaluate import evaluate_models
from distillery.evaluate.made_here import note_made_here
from distillery.evaluate.tables import render_table
from distillery.files import write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import EvaluateStageParams
from tasks.stage import STARTER, run_stage

logger = logging.getLogger(__name__)


def evaluate(root: Path) -> None:
    """Write reports/evaluation and reports/metrics.json under `root`."""
    settings = EvaluateStageParams.load(root / PARAMS_FILE)
    data = judged(PreparedData.open(root / PREPARED, without=ORIGINS), root / TEACHER)
    summary = evaluate_models(
        data,
        root / "models",
        root / CURVES,
        list(settings.distill.students),
        settings.distill.seeds,
        settings.evaluate,
        root / EVALUATION,
        settings.language_model,
        _learnt(root, data, settings),
    )
    write_json(root / METRICS_FILE, dvc_metrics(summary))
    note_made_here(root)
    if STARTER not in os.environ:  # the flow shows the table itself, at its end
        logger.info("\n%s", render_table(summary))


def _learnt(root: Path, data: PreparedData, settings: EvaluateStageParams) -> Learnt | None:
    """Return n-grams and words that students are served with; None: best paths."""
    decoder = settings.register.decoder
    if decoder is None:
        return None
    learns_from = decoder.language_model.learns_from
    cache = root / TEACHER_CACHE
    texts = language_model_texts(data, cache, settings.distill.filter, learns_from)
    return learn(root, data, texts, decoder)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(evaluate, Path.cwd())


if __name__ == "__main__":
    main()
