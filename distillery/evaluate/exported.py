"""Students as they were exported, on the test split beside the same students in PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.manifest import PreparedData
from distillery.evaluate.candidates import Run
from distillery.evaluate.listening import COPIED_COLUMNS
from distillery.evaluate.predictions import (
    error_columns,
    rates,
)
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.files import whole_folder
from distillery.models.base import Teacher
from distillery.models.decoding import greedy_text
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.serve.export import export_student
from distillery.serve.onnx_recogniser import CONFIG_FILE, MODEL_FILES, TOKENS_FILE, OnnxRecogniser


@dataclass(frozen=True)
class ExportedForm:
    """What one exported form of a student gave on the test split."""

    num_bytes: int
    texts: list[str]
    max_log_prob_difference: float
    """From PyTorch's, over all tokens of all frames of all utterances, in nats."""
    speed: SpeedResult


def export_and_listen(
    student: Recogniser,
    saved: Path,
    data: PreparedData,
    rows: pd.DataFrame,
    clip: np.ndarray,
    params: EvaluateParams,
    folder: Path,
) -> dict[str, ExportedForm]:
    """Export a student into a folder, and run each exported form over some utterances.

    One that streams is exported, too, as it hears whole utterances.

    Args:
        student: the student.
        saved: where it lies.
        data: prepared data.
        rows: its utterances to recognise.
        clip: the recording `(samples,)` on which speed is measured.
        params: settings of the stage.
        folder: what receives the exported student; it is created.

    Returns:
        By format, a key of MODEL_FILES.
    """
    folder.mkdir(parents=True)
    for name in (CONFIG_FILE, TOKENS_FILE):
        shutil.copyfile(saved / name, folder / name)
    export_student(student, data, folder)
    forms = {name: OnnxRecogniser(folder, name) for name in MODEL_FILES}
    texts, differences = _listen(student, forms, data, rows)
    seconds = len(clip) / data.sample_rate_hz
    return {
        name: ExportedForm(
            form.num_bytes,
            texts[name],
            max(differences[name], default=0.0),
            measure_real_time_factor(form.transcribe, clip, seconds, params.speed_repeats),
        )
        for name, form in forms.items()
    }


def _listen(
    student: Recogniser,
    forms: Mapping[str, OnnxRecogniser],
    data: PreparedData,
    rows: pd.DataFrame,
) -> tuple[dict[str, list[str]], dict[str, Sequence[float]]]:
    """Return each form's texts, and how far its log-probabilities are from PyTorch's at most."""
    texts: dict[str, list[str]] = {name: [] for name in forms}
    differences: dict[str, list[float]] = {name: [] for name in forms}
    bar = tqdm(rows.itertuples(), total=len(rows), desc="exported", unit="utt", leave=False)
    for row in bar:
        waveform = data.waveform(row)
        (expected,) = student.forward(*student.extract([waveform])).items
        for name, form in forms.items():
            (found,) = form.log_probs([waveform])
            texts[name].append(greedy_text(found, form.vocabulary))
            differences[name].append(float(np.abs(found - expected).max(initial=0.0)))
    return texts, dict(differences)


EXPORTED = "exported"  # beside the students


EXPORTED_FILE = "exported.parquet"


def measure_exports(
    data: PreparedData,
    rows: pd.DataFrame,
    clip: np.ndarray,
    students: Mapping[Run, Teacher],
    models: Path,
    predictions: pd.DataFrame,
    params: EvaluateParams,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Export students into models/exported, and score each form beside PyTorch's.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        clip: the recording `(samples,)` on which speed is measured.
        students: of each student the run that may be registered.
        models: folder of the saved models.
        predictions: of `predict`.
        params: settings of the stage.

    Returns:
        Predictions, one row per student, format and utterance, and by student its `seed` and, in
        `formats`, the figures of each format.
    """
    parts, exports = [], {}
    with whole_folder(models / EXPORTED) as folder:
        for run, student in students.items():
            assert isinstance(student, Recogniser)  # students are trained here
            name = run.model.partition("/")[2]
            forms = export_and_listen(
                student, models / run.path, data, rows, clip, params, folder / name
            )
            of_run = (predictions["model"] == run.model) & (predictions["seed"] == run.seed)
            eager = predictions[of_run]
            figures = {}
            for form_name, form in forms.items():
                part = eager[COPIED_COLUMNS].reset_index(drop=True)
                part.insert(2, "format", form_name)
                part["hypothesis"] = form.texts
                part = part.join(error_columns(part["text"], form.texts))
                parts.append(part)
                same = part["hypothesis"].to_numpy() == eager["hypothesis"].to_numpy()
                figures[form_name] = {
                    "bytes": form.num_bytes,
                    **rates(part, params),
                    "max_log_prob_difference": form.max_log_prob_difference,
                    "same_texts_fraction": float(same.mean()),
                    "real_time_factor": form.speed.real_time_factor,
                }
            exports[name] = {"seed": run.seed, "formats": figures}
    return pd.concat(parts, ignore_index=True), exports
