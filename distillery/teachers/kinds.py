"""Every kind of teacher by the name it has in params.yaml: the one list.

A kind is a file of this room, its settings in distillery/params/teacher.py and a line here, and one
in saved.py where it is saved in a form of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillery.teachers.base import GetTeacher, ReadyTeacher, Workplace
from distillery.teachers.fine_tuned import fine_tune_teacher
from distillery.teachers.huggingface import take_model
from distillery.teachers.joined import join_teachers
from distillery.teachers.onnx_file import take_onnx
from distillery.teachers.registered import take_registered
from distillery.teachers.torchaudio_bundle import take_bundle
from distillery.teachers.trained import train_teacher


def take_teacher(settings: Any, place: Workplace) -> ReadyTeacher:
    """Get a teacher of any kind ready.

    Args:
        settings: of its kind.
        place: what it may be made from, and where.

    Raises:
        DistilleryError: what its kind raises.
    """
    return KINDS[settings.kind](settings, place)


# tasks/code.py reads this as text: the file that an entry names is that kind's own.
KINDS: Mapping[str, GetTeacher] = {
    "ensemble": lambda settings, place: join_teachers(settings, place, take_teacher),
    "fine_tuned": fine_tune_teacher,
    "onnx": take_onnx,
    "registry": take_registered,
    "torchaudio": take_bundle,
    "trained": train_teacher,
    "transformers": take_model,
}
