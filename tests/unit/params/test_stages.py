"""Stages that read their own sections alone, and what they still must not overlook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.errors import ParamsError
from distillery.params.decoder import DecoderParams
from distillery.params.file import SECTIONS, Sections
from distillery.params.stages import (
    CacheStageParams,
    DistillStageParams,
    EvaluateStageParams,
    FetchStageParams,
    PrepareStageParams,
    RegistryParams,
    TeacherStageParams,
)
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params

ROOT = Path(__file__).resolve().parents[3]
STAGES: dict[str, type[Sections]] = {
    "prepare": PrepareStageParams,
    "fetch": FetchStageParams,
    "teacher": TeacherStageParams,
    "cache": CacheStageParams,
    "distill": DistillStageParams,
    "evaluate": EvaluateStageParams,
}
ALL = [*STAGES.values(), RegistryParams]


def complaint(model: type[Sections], tree: dict[str, Any], tmp_path: Path) -> str:
    """Return what loading some sections of these settings says."""
    write_params(tmp_path, tree)
    with pytest.raises(ParamsError) as caught:
        model.load(tmp_path / "params.yaml")
    return str(caught.value)


def test_the_sections_are_those_of_the_whole() -> None:
    assert tuple(Params.model_fields) == SECTIONS


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_stage_gets_what_the_whole_holds(model: type[Sections], tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params(cache={"num_threads": 3}, evaluate={"num_resamples": 200}))
    path = tmp_path / "params.yaml"
    part, everything = model.load(path), Params.load(path)
    for name, field in model.model_fields.items():
        assert getattr(part, name) == getattr(everything, name)
        assert field.annotation == Params.model_fields[name].annotation
        assert field.default == Params.model_fields[name].default


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_mistake_in_another_section_stops_no_stage(model: type[Sections], tmp_path: Path) -> None:
    others = [name for name in SECTIONS if name not in model.model_fields]
    for name in others:
        write_params(tmp_path, {**tiny_params(), name: {"misspelt": 1}})
        assert model.load(tmp_path / "params.yaml")
        with pytest.raises(ParamsError, match=rf"{name}.misspelt: unknown setting"):
            Params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_mistake_in_a_section_is_told_as_by_the_whole(
    model: type[Sections], tmp_path: Path
) -> None:
    for name in model.model_fields:
        tree = tiny_params()
        tree[name] = {**tree.get(name, {}), "misspelt": 1}
        told = complaint(model, tree, tmp_path)
        assert f"  {name}.misspelt: unknown setting" in told
        assert told == complaint(Params, tree, tmp_path)


@pytest.mark.parametrize("model", ALL, ids=lambda model: model.__name__)
def test_a_misspelt_section_is_never_taken_for_one_left_out(
    model: type[Sections], tmp_path: Path
) -> None:
    tree = {**tiny_params(), "cahe": {}}
    assert "cahe: unknown setting; did you mean 'cache'?" in complaint(model, tree, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_all_sections_that_dvc_follows_for_it(stage: str) -> None:
    followed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["params"]
    assert {name.split(".")[0] for name in followed} <= set(STAGES[stage].model_fields)


def student(**settings: Any) -> dict[str, Any]:
    """Return the tiny settings with a student that has these."""
    tree = tiny_params()
    tree["distill"]["students"]["conv"].update(settings)
    return tree


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (student(init="teacher"), "init is 'teacher', but the student is a separable_conv"),
        (
            student(features={"num_mels": 16, "hop_seconds": 0.015}),
            "one frame per 60 ms is no whole multiple of the teacher's 40",
        ),
        (
            {
                **student(objective={"hidden": {"layers": {"front": "recurrent.0"}}}),
                "cache": {"payload": {"hidden_layers": []}},
            },
            "learns hidden layer 'recurrent.0' of the teacher, which the cache does not keep",
        ),
        (
            student(objective={"sequence": {"num_hypotheses": 4}}),
            "learns from 4 hypotheses, the cache keeps 1",
        ),
        (
            tiny_params(cache={"payload": {"log_probs": "none"}}),
            "learns frames of the teacher, but cache.payload.log_probs is 'none'",
        ),
        (
            tiny_params(distill={"filter": {"max_disagreement": 0.5}}),
            "distill.filter.max_disagreement is 0.5, but the cache keeps one decoding",
        ),
        (
            {
                **tiny_params(
                    distill={"filter": {"max_disagreement": 0.5}},
                    cache={"payload": {"num_hypotheses": 4}},
                ),
                "language_model": {"for_teacher": True},
            },
            "with language_model.for_teacher both are what the language model chose",
        ),
    ],
)
def test_a_student_that_cannot_learn_is_told_when_distill_runs_alone(
    tree: dict[str, Any], words: str, tmp_path: Path
) -> None:
    told = complaint(DistillStageParams, tree, tmp_path)
    assert words in told
    assert told == complaint(Params, tree, tmp_path)


def test_chunks_that_nobody_hears_are_told_when_evaluate_runs_alone(tmp_path: Path) -> None:
    tree = tiny_params(evaluate={"stream_chunk_seconds": 0.5})
    told = complaint(EvaluateStageParams, tree, tmp_path)
    assert "evaluate.stream_chunk_seconds is 0.5, but no student streams" in told
    assert told == complaint(Params, tree, tmp_path)


@pytest.mark.parametrize("name", ["for_students", "learns_from"])
def test_settings_that_moved_say_where_to(name: str, tmp_path: Path) -> None:
    for model in (Params, EvaluateStageParams, CacheStageParams):
        told = complaint(model, tiny_params(language_model={name: False}), tmp_path)
        assert f"language_model: {name} is no setting any more: register.decoder" in told
        assert "remove it here" in told


def test_n_grams_of_no_files_are_told(tmp_path: Path) -> None:
    decoder = {"language_model": {"learns_from": "files"}}
    for model in (Params, EvaluateStageParams):
        told = complaint(model, tiny_params(register={"decoder": decoder}), tmp_path)
        assert "learns_from is files, and files names none" in told


@pytest.mark.parametrize(
    ("value", "is_on"), [(None, False), (False, False), (True, True), ({}, True)]
)
def test_a_decoder_is_switched_on_and_off(value: Any, is_on: bool) -> None:
    params = Params.model_validate(tiny_params(register={"decoder": value}))
    assert params.register.decoder == (DecoderParams() if is_on else None)


def test_hot_words_are_texts_or_have_a_weight() -> None:
    decoder = {"hot_words": ["flat white", {"text": "cortado", "weight": 6}]}
    found = Params.model_validate(tiny_params(register={"decoder": decoder})).register.decoder
    assert found is not None
    assert [(hot.text, hot.weight) for hot in found.hot_words] == [
        ("flat white", 4.0),
        ("cortado", 6.0),
    ]
