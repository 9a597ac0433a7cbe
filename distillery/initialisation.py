"""Where a student's first weights come from, when they are not random.

The control never comes here: it measures all that the teacher gives, its weights included, so it
starts from random ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distillery.errors import ModelError
from distillery.params import INIT_TEACHER
from distillery.recogniser import Recogniser
from distillery.teachers import TEACHERS

INIT_FILE = "init.json"
Record = dict[str, Any]


def initialise(student: Recogniser, source: str, models: Path, teacher_weights: str) -> Record:
    """Give a student's network its first weights, and return what init.json says of them.

    The record holds nothing that differs between equal runs.

    Args:
        student: a new one; its network is changed in place.
        source: a student's `init` in params.yaml.
        models: the folder of all models.
        teacher_weights: digest of the weights that filled the cache.

    Raises:
        ModelError: the source is unknown, missing or damaged, or does not fit the student.
    """
    if source == INIT_TEACHER:
        return slice_teacher(student, models / "teacher", teacher_weights)
    raise ModelError(
        f"init: found {source!r}, expected {INIT_TEACHER!r}; change the student's init"
    )


def slice_teacher(student: Recogniser, folder: Path, weights: str) -> Record:
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
    teacher = Recogniser.load(folder, TEACHERS)
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
    return {
        "source": INIT_TEACHER,
        "weights": weights,
        "teacher_layers": chosen,  # of each of the student's layers, first to last
    }


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
