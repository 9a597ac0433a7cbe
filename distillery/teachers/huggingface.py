"""A model in Hugging Face's layout as the teacher: its config.json says which class reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from distillery.errors import ModelError
from distillery.models.recogniser import CONFIG_FILE
from distillery.params.teacher import TransformersTeacherParams
from distillery.teachers.backend import Published
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.published import find_folder, import_transformers, read_config
from distillery.teachers.transformers_ctc import take_ctc
from distillery.teachers.whisper import take_whisper


def take_model(params: TransformersTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return a model in Hugging Face's layout as the teacher.

    Raises:
        ModelError: transformers is missing; the model is of a class that is not read here, is not
            here and cannot be fetched, brings code, or its files do not fit one another.
    """
    import_transformers()
    folder = find_folder(params, place.root, "teacher")
    config, model_class = read_config(folder, CLASSES)
    if (folder / "model.bin").exists() and "architectures" not in config:
        raise ModelError(
            f"{folder}: holds a model in CTranslate2's format (model.bin), expected Hugging Face's "
            "layout; set teacher.kind to faster_whisper"
        )
    if model_class not in CLASSES:
        raise ModelError(
            f"{folder / CONFIG_FILE}: architecture {model_class!r}, expected one of "
            f"{', '.join(CLASSES)}; an encoder without output layer is for teacher.kind fine_tuned"
        )
    return CLASSES[model_class](params, place, folder, config)


TakeModel = Callable[[TransformersTeacherParams, Workplace, Path, Published], ReadyTeacher]
"""Takes settings, workplace, the folder of a published model and its config.json."""


CLASSES: Mapping[str, TakeModel] = {
    "Wav2Vec2ForCTC": take_ctc,
    "HubertForCTC": take_ctc,
    "WavLMForCTC": take_ctc,
    "WhisperForConditionalGeneration": take_whisper,
}
"""By the first entry of `architectures` in config.json."""
