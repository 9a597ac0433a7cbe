"""Every kind of teacher: the one list, of how a kind is made and how a saved one is loaded.

A kind is a file of this room, its settings in distillery/params/teacher.py and an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.architectures.known import load_recogniser
from distillery.errors import ModelError
from distillery.models.base import LoadTeacher, Teacher
from distillery.models.recogniser import CONFIG_FILE, saved_kind
from distillery.teachers import (
    endpoint,
    ensemble,
    onnx_file,
    texts,
    torchaudio_bundle,
    transformers_ctc,
    whisper,
)
from distillery.teachers import faster_whisper as faster
from distillery.teachers.base import GetTeacher, ReadyTeacher, Workplace
from distillery.teachers.fine_tuned import fine_tune_teacher
from distillery.teachers.huggingface import take_model
from distillery.teachers.joined import join_teachers
from distillery.teachers.registered import take_registered
from distillery.teachers.trained import train_teacher


@dataclass(frozen=True)
class Kind:
    """What is done with teachers of one kind."""

    make: GetTeacher | None = None
    """Makes one from its settings; None for a form that another kind saves."""
    load: LoadTeacher | None = None
    """Loads a saved one; None where it is saved in another kind's form."""


def take_teacher(settings: Any, place: Workplace) -> ReadyTeacher:
    """Get a teacher of any kind ready.

    Args:
        settings: of its kind.
        place: what it may be made from, and where.

    Raises:
        DistilleryError: what its kind raises.
    """
    make = KINDS[settings.kind].make
    assert make is not None  # of every kind that settings may name
    return make(settings, place)


def load_teacher(folder: Path, device: str = "cpu") -> Teacher:
    """Load a saved teacher of any kind, by `kind` in its config.json.

    Args:
        folder: as `Teacher.save` left it.
        device: where it is to run.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    kind = saved_kind(folder)
    load = KINDS.get(kind, Kind()).load
    if load is None:
        known = sorted(name for name, kind in KINDS.items() if kind.load is not None)
        raise ModelError(f"{folder / CONFIG_FILE}: kind {kind!r}, expected one of {known}")
    return load(folder, device)


# tasks/code.py reads this as text: the files that an entry names are that kind's own.
KINDS: Mapping[str, Kind] = {
    "endpoint": Kind(endpoint.take_endpoint, endpoint.load),
    "ensemble": Kind(
        lambda settings, place: join_teachers(settings, place, take_teacher),
        lambda folder, device: ensemble.load(folder, device, load_teacher),
    ),
    "faster_whisper": Kind(faster.take_faster_whisper, faster.load),
    "fine_tuned": Kind(fine_tune_teacher),  # saved as its base is
    "onnx": Kind(onnx_file.take_onnx, onnx_file.load),
    "registry": Kind(take_registered),  # saved as what was made here
    "texts": Kind(texts.take_texts, texts.load),
    "torchaudio": Kind(torchaudio_bundle.take_bundle, torchaudio_bundle.load),
    "trained": Kind(train_teacher),
    "transformers": Kind(take_model, transformers_ctc.load),
    "recogniser": Kind(load=load_recogniser),  # what was made here
    "whisper": Kind(load=whisper.load),  # what `transformers` makes of a Whisper model
}
