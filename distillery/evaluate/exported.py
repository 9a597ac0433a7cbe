"""Students as they were exported, on the test split beside the same students in PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.manifest import PreparedData
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.models.decoding import greedy_text
from distillery.models.recogniser import Recogniser
from distillery.params.whole import EvaluateParams
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
