"""Studies of objectives: settings, table, goals, and a whole one on the tiny corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmarks.quality import selection
from benchmarks.quality import study as module
from benchmarks.quality.study import Study, check_goal, markdown, merged, run_study, summarise
from distillery.errors import DistilleryError
from distillery.params.distill import DistillParams
from distillery.params.objective import ObjectiveParams
from distillery.studies.selection import Candidate
from tests.tiny import tiny_params, write_corpus

STUDIES = sorted(Path(module.__file__).parent.glob("*.yaml"))


def heard(errors: list[int], parameters: int = 10) -> dict[str, Any]:
    """Return a run on two utterances of ten words each."""
    return {
        "word_errors": errors,
        "words": [10, 10],
        "parameters": parameters,
        "valid_wer": 0.5,
        "num_epochs": 3,
    }


def test_a_row_compares_the_means_over_the_seeds() -> None:
    students = [heard([2, 2]), heard([4, 4])]
    controls = [heard([6, 6]), heard([6, 6])]
    row = summarise(students, controls, heard([1, 1], parameters=150))
    assert row["wer"] == pytest.approx(0.3)
    assert row["wer_by_seed"] == pytest.approx([0.2, 0.4])
    assert row["control_wer"] == pytest.approx(0.6)
    assert row["gain_wer"] == pytest.approx(0.3)
    assert row["relative_gain"] == pytest.approx(0.5)
    assert row["gap_closed"] == pytest.approx(0.3 / 0.5)
    assert row["times_smaller"] == 15


def test_a_gain_on_one_utterance_of_two_has_an_interval_that_touches_nothing() -> None:
    row = summarise([heard([0, 6])], [heard([6, 6])], heard([0, 0]))
    assert (row["gain_wer_low"], row["gain_wer_high"]) == pytest.approx((0.0, 0.6))
    assert check_goal(row, {"relative_gain": 0.5, "significant": True}) == {
        "relative_gain": True,
        "significant": False,
    }


def test_a_goal_that_names_no_figure_is_an_error() -> None:
    with pytest.raises(DistilleryError, match=r"goal: \['speed'\] is no figure"):
        check_goal({"wer": 0.1}, {"speed": 1})


def test_without_a_gap_nothing_is_closed() -> None:
    row = summarise([heard([1, 1])], [heard([1, 1])], heard([1, 1]))
    assert row["gap_closed"] is None
    assert check_goal(row, {"gap_closed": 0.5}) == {"gap_closed": False}
    assert markdown({"one": row}).splitlines()[-1].endswith("| 0.0 % | – |")


def test_objectives_are_replaced_and_other_sections_merged() -> None:
    base = {"objective": {"a": 1}, "training": {"num_epochs": 3, "num_threads": 1}}
    changes = {"objective": {"b": 2}, "training": {"num_epochs": 4}}
    expected = {"objective": {"b": 2}, "training": {"num_epochs": 4, "num_threads": 1}}
    assert merged(base, changes) == expected
    assert base["objective"] == {"a": 1}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_row_of_every_study_has_settings_that_hold(path: Path, tmp_path: Path) -> None:
    study = Study.read(path, tmp_path)
    present = study.write_settings(tmp_path)
    runs = module.Runs(study, present)
    assert next(iter(study.rows.values())) == {}, "the first row is the default"
    for row in study.rows:
        settings = runs.settings_of(row, 2)
        assert list(settings.students) == [study.student]
        assert settings.training.seed == 2
        layers = settings.objective.hidden.layers.values()
        assert set(layers) <= set(present.cache.payload.hidden_layers)


def test_a_study_with_a_misspelt_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"settings": "params.yaml", "seeds": [0], "titel": "x"}))
    with pytest.raises(DistilleryError, match="titel"):
        Study.read(path, tmp_path)


def tiny_study(workspace: Path) -> Study:
    settings = tiny_params()
    settings["distill"]["training"]["num_epochs"] = 1
    settings["teacher"]["training"]["num_epochs"] = 1
    rows = {"default": {}, "plain": {"objective": {"teacher_share": 0.0}}}
    return Study("tiny", "Tiny", "conv", (0, 1), settings, rows, {"wer": 0.0}, workspace)


def test_a_study_trains_each_model_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    study = tiny_study(tmp_path / "work")
    first = run_study(study, corpus, ["default"])
    assert len(list((tmp_path / "work/runs").glob("control-*.json"))) == 2
    both = run_study(study, corpus, ["default", "plain"])
    assert len(list((tmp_path / "work/runs").glob("control-*.json"))) == 2, "rows share them"
    assert both["rows"]["default"] == first["rows"]["default"]
    plain = both["rows"]["plain"]
    assert plain["wer_by_seed"] == plain["control_wer_by_seed"], "no teacher: the control itself"

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "Distillation", refuse)
    assert run_study(study, corpus, ["default", "plain"])["rows"] == both["rows"]
    module.plot_gains(both, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")


def test_other_settings_of_the_teacher_are_refused(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "work")
    study.write_settings(tmp_path)
    study.settings["teacher"]["training"]["num_epochs"] = 2  # type: ignore[index]
    with pytest.raises(DistilleryError, match="made with other settings"):
        study.write_settings(tmp_path)


def test_the_ready_settings_carry_the_objective_that_was_measured() -> None:
    """AN4's differ in one number: a student that is far behind bears more of the hidden states."""
    root = Path(module.__file__).parents[2]
    ready = ["params.yaml", "examples/fsdd.yaml", "examples/an4.yaml"]
    ready += ["examples/manifest.yaml", "examples/coffee.yaml"]
    default, fsdd, an4, *untranscribed = (
        DistillParams.model_validate(yaml.safe_load((root / name).read_text())["distill"]).objective
        for name in ready
    )
    assert fsdd == default
    alone = default.model_copy(update={"teacher_share": 1.0})
    assert all(objective == alone for objective in untranscribed)
    assert default.uses_hidden and default.uses_sequence and not default.uses_frames
    more = default.hidden.model_copy(update={"weight": 6.0})
    assert an4 == default.model_copy(update={"hidden": more})
    for name in ("fsdd", "fsdd_seeds", "an4_all", "an4_partly", "an4_partly_strong_teacher"):
        study = Study.read(Path(module.__file__).parent / f"{name}.yaml", root)
        assert ObjectiveParams.model_validate(study.settings["distill"]["objective"]) == default


def test_the_ways_to_choose_recordings_take_as_many_and_repeat() -> None:
    found = [
        Candidate(f"u{place}", f"{place}.wav", None, 1.0, "one two", place / 100, None)
        for place in range(60)
    ]
    known = pd.DataFrame({"text": [], "speaker": []})
    for how in selection.ROWS.values():
        ids = how(found, known, 1)
        assert len(set(ids)) == selection.COUNT
        assert how(found[::-1], known, 1) == ids
    assert selection.ROWS["random"](found, known, 2) != selection.ROWS["random"](found, known, 1)
