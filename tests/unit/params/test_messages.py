"""A problem's path holds what stands in the file, whatever pydantic calls members of unions."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distillery.errors import ParamsError
from distillery.params.messages import parts_in_file
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params

Place = tuple[int | str, ...]

ARCHITECTURES = ("conv_bilstm", "conformer", "separable_conv", "causal_conv", "crnn")
BUNDLE = {"kind": "torchaudio", "bundle": "WAV2VEC2_BASE"}
SINGLE: dict[str, dict[str, Any]] = {
    "trained": {"kind": "trained"},
    "registry": {"kind": "registry", "model": "models:/tiny/1"},
    "torchaudio": BUNDLE,
    "transformers": {"kind": "transformers", "model": "folder"},
    "onnx": {"kind": "onnx", "model": "a.onnx", "tokens": "a.txt"},
    "fine_tuned": {"kind": "fine_tuned", "base": BUNDLE},
}
TAGS = (*ARCHITECTURES, *SINGLE, "ensemble", "single", "number", "schedule")
NAMES = (*TAGS, "student", "str")
WRONG = (*TAGS, "teacher", "hiden_size", "constrained-int", "[key]", "1")
"""Names of settings that no section has."""


def reported(tree: dict[str, Any]) -> list[Place]:
    """Return the places of all problems, as their paths name them."""
    with pytest.raises(ValidationError) as caught:
        Params.model_validate(tree)
    return [tuple(parts_in_file(Params, item["loc"])) for item in caught.value.errors()]


def misspell(tree: dict[str, Any], *places: Place) -> set[Place]:
    """Put every wrong setting at every place of the tree, and return where they then stand."""
    expected = set()
    for place in places:
        target: Any = tree
        for part in place:
            target = target[part] if isinstance(target, list) else target.setdefault(part, {})
        target.update(dict.fromkeys(WRONG, 1))
        expected |= {(*place, wrong) for wrong in WRONG}
    return expected


def check_teacher(tree: dict[str, Any], teacher: Place, places: list[Place]) -> None:
    """Misspell settings of one teacher, and assert that each is told once, under its place."""
    expected = misspell(tree, *((*teacher, *place) for place in places))
    assert sorted(reported(tree), key=str) == sorted(expected, key=str)


def teachers(kind: str) -> Iterator[tuple[dict[str, Any], list[Place]]]:
    """Yield teachers of one kind, and where in each of them settings stand."""
    if kind == "ensemble":
        for member in SINGLE:
            for settings, places in teachers(member):
                inside: list[Place] = [("members", 1, *place) for place in places]
                members = [dict(SINGLE["onnx"]), settings, dict(SINGLE["registry"])]
                yield {"kind": kind, "members": members}, [(), *inside]
    elif kind == "trained":
        for architecture in ("conv_bilstm", "conformer"):
            settings = {"kind": kind, "architecture": {"type": architecture}}
            yield settings, [(), ("architecture",), ("features",), ("training", "specaugment")]
    elif kind == "fine_tuned":
        for base in ("torchaudio", "transformers"):
            yield {"kind": kind, "base": SINGLE[base]}, [(), ("base",), ("training",), ("frozen",)]
    else:
        yield SINGLE[kind], [(), ("whisper",)] if kind == "transformers" else [()]


TEACHERS = [
    pytest.param(*found, id=f"{kind}-{number}")
    for kind in (*SINGLE, "ensemble")
    for number, found in enumerate(teachers(kind))
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_students_may_be_called_as_members_of_unions(architecture: str) -> None:
    tree = tiny_params()
    tree["distill"]["students"] = {name: {"architecture": {"type": architecture}} for name in NAMES}
    expected = set()
    for name in NAMES:
        student = ("distill", "students", name)
        weight = (*student, "objective", "frame", "weight")
        tree["distill"]["students"][name]["objective"] = {"frame": {"weight": {"start": 1}}}
        places = (student, (*student, "architecture"), (*student, "objective"), weight)
        expected |= misspell(tree, *places) | {(*weight, "end")}  # the last is missing
    assert sorted(reported(tree), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(("settings", "places"), TEACHERS)
def test_every_part_of_a_teachers_path_is_told(
    settings: dict[str, Any], places: list[Place]
) -> None:
    tree = {**tiny_params(), "teacher": deepcopy(settings)}
    check_teacher(tree, ("teacher",), places)


@pytest.mark.parametrize(("settings", "places"), TEACHERS)
def test_candidates_may_be_called_as_members_of_unions(
    settings: dict[str, Any], places: list[Place]
) -> None:
    for name in NAMES:
        candidates = {"teachers": {name: deepcopy(settings)}}
        tree = {**tiny_params(), "teacher_candidates": candidates}
        check_teacher(tree, ("teacher_candidates", "teachers", name), places)


def test_layers_may_be_called_as_members_of_unions() -> None:
    tree = tiny_params()
    tree["distill"]["objective"] = {"hidden": {"layers": dict.fromkeys(TAGS, 1)}}
    tree["teacher"] = {**SINGLE["onnx"], "hidden_outputs": dict.fromkeys(TAGS, 1)}
    layers = ("distill", "objective", "hidden", "layers")
    assert set(reported(tree)) == {
        *((*layers, tag) for tag in TAGS),
        *(("teacher", "hidden_outputs", tag) for tag in TAGS),
    }


@pytest.mark.parametrize(
    ("section", "value", "lines"),
    [
        (
            "cache",
            {"workers": -1},
            [
                "cache.workers: Input should be greater than or equal to 0 (found -1)",
                "cache.workers: Input should be a valid string (found -1)",
            ],
        ),
        ("teacher", None, ["teacher: kind should be 'endpoint', 'faster_whisper', "]),
        (
            "teacher",
            {"kind": "ensemble", "members": [SINGLE["onnx"], 3, SINGLE["registry"]]},
            ["teacher.members.1: kind should be 'endpoint', 'faster_whisper', "],
        ),
        (
            "teacher",
            {**SINGLE["onnx"], "blank": -1},
            [
                "teacher.blank: Input should be greater than or equal to 0 (found -1)",
                "teacher.blank: Input should be a valid string (found -1)",
            ],
        ),
        (
            "distill",
            {"students": {"crnn": {"architecture": {"type": "crnn", "hiden_size": 96}}}},
            [
                "distill.students.crnn.architecture.hiden_size: unknown setting; did you mean "
                "'hidden_size'?"
            ],
        ),
        (
            "distill",
            {"objective": {"teacher_share": "much"}, "students": {"a": {"architecture": 3}}},
            [
                "distill.objective.teacher_share: Input should be a valid number, unable to parse",
                "distill.students.a.architecture: Input should be a valid dictionary",
            ],
        ),
    ],
)
def test_paths_hold_nothing_that_stands_in_no_file(
    tmp_path: Path, section: str, value: object, lines: list[str]
) -> None:
    write_params(tmp_path, {**tiny_params(), section: value})
    with pytest.raises(ParamsError) as caught:
        Params.load(tmp_path / "params.yaml")
    told = [line.strip() for line in str(caught.value).splitlines()[1:]]
    for line, expected in zip(told, lines, strict=True):
        assert line.startswith(expected)
