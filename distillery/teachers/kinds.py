"""A saved teacher of any kind, loaded again; config.json says which kind it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from distillery.architectures.known import load_recogniser
from distillery.errors import ModelError
from distillery.models.base import Teacher
from distillery.models.recogniser import CONFIG_FILE, RECOGNISER, saved_kind
from distillery.params.teacher import OnnxTeacherParams
from distillery.teachers import torchaudio_bundle, transformers_ctc, whisper
from distillery.teachers.base import GetTeacher, ReadyTeacher, Workplace
from distillery.teachers.ensemble import load_ensemble
from distillery.teachers.fine_tuned import fine_tune_teacher
from distillery.teachers.huggingface import take_model
from distillery.teachers.joined import join_teachers
from distillery.teachers.registered import take_registered
from distillery.teachers.torchaudio_bundle import take_bundle
from distillery.teachers.trained import train_teacher


def _load_ensemble(folder: Path, device: str) -> Teacher:
    return load_ensemble(folder, device, load_teacher)


def _load_onnx(folder: Path, device: str) -> Teacher:
    from distillery.teachers import onnx_file  # a second for its libraries

    return onnx_file.load(folder, device)


LOADERS: Mapping[str, Callable[[Path, str], Teacher]] = {
    "ensemble": _load_ensemble,
    RECOGNISER: load_recogniser,
    torchaudio_bundle.KIND: torchaudio_bundle.load,
    transformers_ctc.KIND: transformers_ctc.load,
    whisper.KIND: whisper.load,
    "onnx": _load_onnx,
}
"""By `kind` in config.json; where that is missing, a model made here."""


def load_teacher(folder: Path, device: str = "cpu") -> Teacher:
    """Load a saved teacher.

    Args:
        folder: as `Teacher.save` left it.
        device: where it is to run.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    kind = saved_kind(folder)
    if kind not in LOADERS:
        raise ModelError(
            f"{folder / CONFIG_FILE}: kind {kind!r}, expected one of {sorted(LOADERS)}"
        )
    return LOADERS[kind](folder, device)


def _take_onnx(settings: OnnxTeacherParams, place: Workplace) -> ReadyTeacher:
    from distillery.teachers.onnx_file import take_onnx  # a second for its libraries

    return take_onnx(settings, place)


SOURCES: dict[str, GetTeacher] = {
    "ensemble": lambda settings, place: join_teachers(settings, place, SOURCES),
    "fine_tuned": fine_tune_teacher,
    "onnx": _take_onnx,
    "registry": take_registered,
    "torchaudio": take_bundle,
    "trained": train_teacher,
    "transformers": take_model,
}


"""By teacher.kind."""
