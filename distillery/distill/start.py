"""Where a student's first weights come from, when they are not random.

The control of a sliced student starts from random weights all the same: it measures all that the
teacher gives, its weights included. The control of a student that goes on from a registered one
goes on from it too, on transcripts alone: the gain then measures distillation, not the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillery.architectures.known import load_recogniser
from distillery.errors import ModelError
from distillery.models.recogniser import RECOGNISER, Recogniser, saved_kind
from distillery.params.base import INIT_TEACHER
from distillery.tracking.fetched import check_model

INIT_FILE = "init.json"


@dataclass(frozen=True)
class SlicedTeacher:
    """What init.json says of a student that took layers of its teacher."""

    source: str
    """The student's `init` in params.yaml."""
    weights: str
    """Digest of the teacher's weights."""
    teacher_layers: Sequence[int]
    """The teacher's layer that each of the student's was, first to last."""


@dataclass(frozen=True)
class RegisteredStudent:
    """What init.json says of a student that goes on from a registered one."""

    source: str
    """The student's `init` in params.yaml."""
    name: str
    """Of the registered model."""
    version: str
    """What an alias stood for when the model was fetched."""
    weights: str
    """Digest of its weights."""


Start = SlicedTeacher | RegisteredStudent


def initialise(
    student: Recogniser, name: str, source: str, models: Path, teacher_weights: str
) -> Start:
    """Give a student's network its first weights, and return what init.json says of them.

    The record holds nothing that differs between equal runs.

    Args:
        student: a new one; its network is changed in place.
        name: what params.yaml calls it.
        source: its `init` in params.yaml.
        models: the folder of all models.
        teacher_weights: digest of the weights that filled the cache.

    Raises:
        ModelError: the source is damaged, or does not fit the student.
        StageError: the source is a registered model that has not been fetched.
    """
    if source == INIT_TEACHER:
        return slice_teacher(student, models / "teacher", teacher_weights)
    return go_on_from(student, source, models / "registered/students" / name, f"student {name}")


def go_on_from(student: Recogniser, model: str, folder: Path, reader: str) -> RegisteredStudent:
    """Copy all weights of a registered student that has the same network and hears the same.

    Args:
        student: a new one.
        model: the registered one, as the settings name it.
        folder: where it was fetched to.
        reader: what the settings name it for, in words.

    Raises:
        StageError: it has not been fetched.
        ModelError: it is damaged; or architecture, features, tokens or sample rate differ.
    """
    source = check_model(folder, model, reader)
    registered = load_recogniser(folder)
    _check_fits(student, registered, model)
    student.network.load_state_dict(registered.network.state_dict())
    return RegisteredStudent(model, source.name, source.version, registered.weights_digest)


def _check_fits(student: Recogniser, registered: Recogniser, model: str) -> None:
    shapeless = {"dropout"}  # all of an architecture that changes no shape
    own_tokens, tokens = student.vocabulary.tokens, registered.vocabulary.tokens
    pairs: dict[str, tuple[Any, Any]] = {
        "architecture": (
            student.architecture.model_dump(exclude=shapeless),
            registered.architecture.model_dump(exclude=shapeless),
        ),
        "features": (student.features.model_dump(), registered.features.model_dump()),
        "sample rate": (student.sample_rate_hz, registered.sample_rate_hz),
        "tokens": (list(own_tokens), list(tokens)),
    }
    for what, (own, theirs) in pairs.items():
        if own == theirs:
            continue
        if isinstance(own, dict):  # what differs is enough
            names = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
            own, theirs = ({name: x.get(name) for name in names} for x in (own, theirs))
        raise ModelError(
            f"init: the student's {what} is {own}, that of {model} is {theirs}, expected the same; "
            "give the student what the registered one has, or set init to null"
        )


def slice_teacher(student: Recogniser, folder: Path, weights: str) -> SlicedTeacher:
    """Copy front end, output and evenly spaced layers of a teacher of the same architecture.

    Source: Gandhi et al. (2023), "Distil-Whisper", arXiv 2311.00430, section 4.

    Args:
        student: a new one, with as many layers as the teacher or fewer.
        folder: the teacher's.
        weights: digest that the teacher's weights must have.

    Raises:
        ModelError: the teacher is missing, damaged or not the cached one; or architecture,
            features, tokens or shapes differ.
    """
    if saved_kind(folder) != RECOGNISER:
        raise ModelError(
            f"init: the student takes layers of the teacher, but {folder} holds a pre-trained one, "
            "expected a teacher that was trained here; set init to null"
        )
    teacher = load_recogniser(folder)
    _check_same(teacher, student, folder, weights)
    theirs, state = teacher.network.state_dict(), {}
    stacks = student.network.layer_stacks
    chosen = spaced_layers(_num_layers(teacher), _num_layers(student))
    for name, tensor in student.network.state_dict().items():
        source = _source_name(name, stacks, chosen)
        if theirs[source].shape != tensor.shape:
            raise ModelError(
                f"init: the student's {name} has the shape {list(tensor.shape)}, the teacher's "
                f"{source} has {list(theirs[source].shape)}, expected equal ones; give the student "
                "the teacher's sizes, or more layers, or set init to null"
            )
        state[name] = theirs[source]
    student.network.load_state_dict(state)
    return SlicedTeacher(INIT_TEACHER, weights, chosen)


def spaced_layers(num_source: int, num_wanted: int) -> list[int]:
    """Return evenly spaced layers of a deeper network; the last is always among them.

    Raises:
        ModelError: it has fewer than are wanted.
    """
    if num_wanted > num_source:
        raise ModelError(
            f"init: the student has {num_wanted} layers, the teacher {num_source}, expected no "
            "more than the teacher's; lower num_layers"
        )
    layers = np.linspace(0, num_source - 1, num_wanted, dtype=int).tolist()
    return [*layers[:-1], num_source - 1]


def _check_same(teacher: Recogniser, student: Recogniser, folder: Path, weights: str) -> None:
    if (live := teacher.weights_digest) != weights:
        raise ModelError(
            f"{folder}: the weights hash to {live[:12]}, the cache was made with {weights[:12]}; "
            "run make teacher, then make cache"
        )
    pairs = {
        "architecture": (teacher.architecture.type, student.architecture.type),
        "features": (teacher.features, student.features),
        "tokens": (teacher.vocabulary.tokens, student.vocabulary.tokens),
        "sample rate": (teacher.sample_rate_hz, student.sample_rate_hz),
    }
    for what, (theirs, own) in pairs.items():
        if theirs != own:
            raise ModelError(
                f"init: the student's {what} is {own}, the teacher's {theirs}, expected the same; "
                "change one, or set init to null"
            )


def _num_layers(model: Recogniser) -> int:
    return len(model.network.get_submodule(model.network.layer_stacks[0]))  # type: ignore[arg-type]


def _source_name(name: str, stacks: tuple[str, ...], chosen: list[int]) -> str:
    """Return what the teacher calls the tensor that becomes the student's `name`."""
    for stack in stacks:
        if name.startswith(f"{stack}."):
            index, rest = name.removeprefix(f"{stack}.").split(".", 1)
            return f"{stack}.{chosen[int(index)]}.{rest}"
    return name
