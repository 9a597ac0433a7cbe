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
from distillery.data.units import Unit
from distillery.decoder.decoder import texts_of
from distillery.evaluate.listening import COPIED_COLUMNS
from distillery.evaluate.models import TrainedModel
from distillery.evaluate.predictions import error_columns
from distillery.evaluate.rates import rates
from distillery.evaluate.searched import Searches, with_texts
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.evaluate.summary import CONTROL_FOLDER, Export, ExportedFigures
from distillery.files import whole_folder
from distillery.models.base import Teacher
from distillery.models.decoding import greedy_text
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.serve.export import export_student
from distillery.serve.onnx_recogniser import CONFIG_FILE, MODEL_FILES, TOKENS_FILE, OnnxRecogniser

EXPORTED_FOLDER = "exported"
"""Under models/, beside the students."""


@dataclass(frozen=True)
class ExportedResult:
    """What a student in one format gave on the test split."""

    num_bytes: int
    """Size of the exported file."""
    texts: list[str]
    """What it heard in each utterance."""
    max_log_prob_difference: float
    """From PyTorch's, over all tokens of all frames of all utterances, in nats."""
    searched_texts: list[str] | None
    """What the search that it is served with found; None where it is served by best paths."""
    speed: SpeedResult
    """As it is served, on the recording that all models are timed on."""


def measure_exports(
    data: PreparedData,
    rows: pd.DataFrame,
    clip: np.ndarray,
    students: Mapping[TrainedModel, Teacher],
    models: Path,
    predictions: pd.DataFrame,
    params: EvaluateParams,
    searches: Searches,
) -> tuple[pd.DataFrame, dict[str, Export]]:
    """Export students into models/exported, and score each format beside PyTorch's.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        clip: the recording `(samples,)` on which speed is measured.
        students: of each student the seed that may be registered.
        models: folder of the saved models.
        predictions: of `predict`.
        params: settings of the stage.
        searches: the decoders that they are served with; they are written beside them.

    Returns:
        Predictions, one row per student, format and utterance, and the figures of each student.
    """
    parts, exports = [], {}
    with whole_folder(models / EXPORTED_FOLDER) as folder:
        for trained, student in students.items():
            assert isinstance(student, Recogniser)  # students are trained here
            assert trained.seed is not None
            name = trained.model.partition("/")[2]
            target = folder / name
            target.mkdir(parents=True)
            searches.save(trained, target)
            searches.save(TrainedModel(f"controls/{name}", trained.seed), target / CONTROL_FOLDER)
            results = export_and_listen(
                student, models / trained.path, data, rows, clip, params, target
            )
            of_it = (predictions["model"] == trained.model) & (predictions["seed"] == trained.seed)
            figures = {}
            for exported_format, result in results.items():
                part, figures[exported_format] = _score(
                    predictions[of_it], exported_format, result, params, data.unit_of("test")
                )
                parts.append(part)
            exports[name] = Export(seed=trained.seed, formats=figures)
    return pd.concat(parts, ignore_index=True), exports


def _score(
    in_pytorch: pd.DataFrame,
    exported_format: str,
    result: ExportedResult,
    params: EvaluateParams,
    unit: Unit,
) -> tuple[pd.DataFrame, ExportedFigures]:
    """Return the predictions of a student in one format, and its figures.

    Args:
        in_pytorch: predictions of the same student as PyTorch runs it.
        exported_format: the format.
        result: what the student gave in it.
        params: settings of the stage.
        unit: what errors are counted in.
    """
    part = in_pytorch[COPIED_COLUMNS].reset_index(drop=True)
    part.insert(2, "format", exported_format)
    part["hypothesis"] = result.texts
    part = part.join(error_columns(part["text"], result.texts, unit))
    if result.searched_texts is not None:
        part = with_texts(part, result.searched_texts, unit)
    same = part["hypothesis"].to_numpy() == in_pytorch["hypothesis"].to_numpy()
    figures = ExportedFigures(
        **dict(rates(part, params)),
        bytes=result.num_bytes,
        max_log_prob_difference=result.max_log_prob_difference,
        same_texts_fraction=float(same.mean()),
        real_time_factor=result.speed.real_time_factor,
    )
    return part, figures


def export_and_listen(
    student: Recogniser,
    saved: Path,
    data: PreparedData,
    rows: pd.DataFrame,
    clip: np.ndarray,
    params: EvaluateParams,
    folder: Path,
) -> dict[str, ExportedResult]:
    """Export a student into a folder, and run it in each format over some utterances.

    One that streams is exported, too, as it hears whole utterances.

    Args:
        student: the student.
        saved: where it lies.
        data: prepared data.
        rows: its utterances to recognise.
        clip: the recording `(samples,)` on which speed is measured.
        params: settings of the stage.
        folder: what receives the exported student; it may hold a decoder.

    Returns:
        By format, a key of MODEL_FILES.
    """
    for name in (CONFIG_FILE, TOKENS_FILE):
        shutil.copyfile(saved / name, folder / name)
    export_student(student, data, folder)
    exported = {name: OnnxRecogniser(folder, name) for name in MODEL_FILES}
    heard, differences = _listen(student, exported, data, rows)
    seconds = len(clip) / data.sample_rate_hz
    return {
        name: ExportedResult(
            model.num_bytes,
            [greedy_text(item, model.vocabulary) for item in heard[name]],
            max(differences[name], default=0.0),
            None if model.decoder is None else texts_of(model.decoder, heard[name]),
            measure_real_time_factor(model.transcribe, clip, seconds, params.speed_repeats),
        )
        for name, model in exported.items()
    }


def _listen(
    student: Recogniser,
    exported: Mapping[str, OnnxRecogniser],
    data: PreparedData,
    rows: pd.DataFrame,
) -> tuple[dict[str, list[np.ndarray]], dict[str, Sequence[float]]]:
    """Return log-probabilities in each format, and how far they are from PyTorch's at most."""
    heard: dict[str, list[np.ndarray]] = {name: [] for name in exported}
    differences: dict[str, list[float]] = {name: [] for name in exported}
    bar = tqdm(rows.itertuples(), total=len(rows), desc="exported", unit="utt", leave=False)
    for row in bar:
        waveform = data.waveform(row)
        (expected,) = student.forward(*student.extract([waveform])).items
        for name, model in exported.items():
            (found,) = model.log_probs([waveform])
            heard[name].append(found)
            differences[name].append(float(np.abs(found - expected).max(initial=0.0)))
    return heard, dict(differences)
