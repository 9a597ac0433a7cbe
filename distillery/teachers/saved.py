"""Saved teachers, loaded again: by `kind` in config.json, which is missing where it was made here.

Apart from kinds.py, so that whoever loads a teacher does not depend on the code that trains one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distillery.architectures.known import load_recogniser
from distillery.errors import ModelError
from distillery.models.base import LoadTeacher, Teacher
from distillery.models.recogniser import CONFIG_FILE, RECOGNISER, saved_kind
from distillery.teachers import ensemble, onnx_file, torchaudio_bundle, transformers_ctc, whisper


def load_teacher(folder: Path, device: str = "cpu") -> Teacher:
    """Load a saved teacher of any kind.

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


LOADERS: Mapping[str, LoadTeacher] = {
    RECOGNISER: load_recogniser,
    ensemble.KIND: lambda folder, device: ensemble.load(folder, device, load_teacher),
    onnx_file.KIND: onnx_file.load,
    torchaudio_bundle.KIND: torchaudio_bundle.load,
    transformers_ctc.KIND: transformers_ctc.load,
    whisper.KIND: whisper.load,
}
"""One line for each form that teachers are saved in; what is fine-tuned is saved in its base's."""
