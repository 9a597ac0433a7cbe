"""Studies of objectives: settings, table, goals, and a whole one on the tiny corpus."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import common
from benchmarks.quality import runs as runs_module
from benchmarks.quality import selection
from benchmarks.quality import study as module
from benchmarks.quality.budgets import crossings, describe, equal_computing, plot_budgets
from benchmarks.quality.programme import next_time
from benchmarks.quality.runs import draw_part
from benchmarks.quality.settings import Sizes, Study, merged
from benchmarks.quality.study import report, run_study
from benchmarks.quality.tables import check_goal, markdown, plot_gains, summarise
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError, DistilleryError
from distillery.params.distill import DistillParams
from distillery.params.objective import ObjectiveParams
from distillery.studies.selection import Candidate
from tasks.prepare import prepare
from tests.tiny import tiny_params, write_corpus

STUDIES = sorted(Path(module.__file__).parent.glob("*.yaml"))


def heard(errors: list[int], parameters: int = 10, valid_wer: float = 0.5) -> dict[str, Any]:
    """Return a run on two utterances of ten words each."""
    return {
        "word_errors": errors,
        "words": [10, 10],
        "parameters": parameters,
        "valid_wer": valid_wer,
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
    assert "| 0.0 % | – |" in markdown({"one": row}).splitlines()[-1]


def test_of_each_seed_the_better_on_validation_is_kept_whatever_the_test_split_says() -> None:
    """The second control is better on validation, and worse on test than its student is."""
    students = [heard([2, 2], valid_wer=0.3), heard([4, 4], valid_wer=0.41)]
    students.append(heard([1, 1], valid_wer=0.2))
    controls = [heard([6, 6], valid_wer=0.31), heard([8, 4], valid_wer=0.4)]
    controls.append(heard([3, 3], valid_wer=0.2))
    row = summarise(students, controls, heard([0, 0]))
    assert row["kept_wer_by_seed"] == pytest.approx([4 / 20, 12 / 20, 2 / 20])
    assert row["kept_gain_wer_by_seed"] == pytest.approx([8 / 20, 0, 4 / 20])
    assert row["controls_kept"] == 1, "equal keeps the student"
    assert row["kept_gain_wer"] == pytest.approx(0.2)
    # Per utterance 4 + 0 + 2 words over three seeds: each resample gives the same.
    assert (row["kept_gain_wer_low"], row["kept_gain_wer_high"]) == pytest.approx((0.2, 0.2))
    head, _, cells = markdown({"one": row}).splitlines()
    assert head.endswith("| as kept, % | gain as kept, points (95 %) | control kept |")
    assert cells.endswith("| 30.0 (20.0, 60.0, 10.0) | 20.0 (20.0 to 20.0) | 1 of 3 |")


def test_without_controls_nothing_is_said_of_what_is_kept() -> None:
    row = summarise([heard([1, 1])], [], heard([1, 1]))
    assert not [name for name in row if "kept" in name]
    assert "as kept" not in markdown({"one": row})


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
    assert next(iter(study.rows.values())) == {}, "the first row is the default"
    assert set(study.chosen or study.rows) == set(study.rows), "how each was chosen"
    for row in study.rows:
        settings = study.settings_of(row, 2)
        assert list(settings.students) == [study.student]
        assert settings.training.seed == 2
        layers = settings.objective.hidden.layers.values()
        kept = present.cache.payload.hidden_layers
        assert kept == "auto" or set(layers) <= set(kept)


def test_a_study_with_a_misspelt_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"settings": "params.yaml", "seeds": [0], "titel": "x"}))
    with pytest.raises(DistilleryError, match="titel"):
        Study.read(path, tmp_path)


def tiny_study(workspace: Path, **more: Any) -> Study:
    settings = tiny_params()
    settings["distill"]["training"]["num_epochs"] = 1
    settings["teacher"]["training"]["num_epochs"] = 1
    rows = {"default": {}, "plain": {"objective": {"teacher_share": 0.0}}}
    return Study("tiny", "Tiny", "conv", (0, 1), settings, rows, {"wer": 0.0}, workspace, **more)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


def test_a_study_trains_each_model_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    study = tiny_study(tmp_path / "work")
    results, outcome = run_study(study, corpus, rows=["default"], write=False)
    assert outcome.num_finished == 4
    first = results.to_json()
    assert list(first["rows"]) == ["default"], "what is not finished is no row"
    assert len(first["unfinished"]) == 2, "the controls of the other row are there already"
    assert len(list((tmp_path / "work/runs").glob("control-*.json"))) == 2
    both = run_study(study, corpus, write=False)[0].to_json()
    assert len(list((tmp_path / "work/runs").glob("control-*.json"))) == 2, "rows share them"
    assert both["rows"]["default"] == first["rows"]["default"]
    assert both["unfinished"] == []
    plain = both["rows"]["plain"]
    assert plain["wer_by_seed"] == plain["control_wer_by_seed"], "no teacher: the control itself"
    assert all(seconds > 0 for seconds in plain["cpu_seconds"] + plain["control_cpu_seconds"])
    assert plain["converged"] == [False, False]
    assert both["teacher_pass"]["cpu_seconds"] > 0
    monkeypatch.setattr(runs_module, "Distillation", refuse)
    again = run_study(study, corpus, write=False)[0].to_json()
    assert again["rows"] == both["rows"]
    assert again["teacher_pass"] == both["teacher_pass"], "a pass of hits costs nothing more"
    plot_gains(both, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    study.settings["register"]["decoder"] = {}  # type: ignore[index]
    served = run_study(study, corpus, rows=["default"], write=False)[0].to_json()["rows"]["default"]
    assert served["wer"] == both["rows"]["default"]["wer"], "a decoder needs no other training"
    for name in ("wer_lm", "control_wer_lm", "gain_wer_lm"):
        assert len(served[f"{name}_by_seed"]) == 2
    assert served["gain_wer_lm"] == pytest.approx(served["control_wer_lm"] - served["wer_lm"])
    head, _, cells = markdown({"default": served}).splitlines()[:3]
    assert "| as served, % | its control |" in head
    assert f"{100 * served['control_wer_lm']:.1f} (" in cells


def test_parts_and_budgets_are_trained_beside_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "write_rows", lambda _, content: written.append(content))
    corpus = write_corpus(tmp_path / "corpus")
    more = {"budgets": Sizes((1, 2), ("default",)), "parts": Sizes((8,), ("default",))}
    study = tiny_study(tmp_path / "work", chosen={"default": "validation"}, **more)
    results, _ = run_study(study, corpus, ["budgets", "parts"])
    found = results.to_json()
    assert written[-1] == found, "results are written as they come"
    assert found["rows"] == {}
    part = found["parts"]["8"]
    assert part["transcripts"] == 8
    assert part["rows"]["default"]["chosen"] == "validation"
    curves = found["budgets"]["default"]
    assert [point["epochs"] for point in curves["student"]] == [1, 2]
    assert "gains" in curves, "none where the two curves have no CPU second in common"
    lines = report(found, tmp_path / "plots", "tiny")
    assert any("default: errors against CPU seconds" in line for line in lines)
    assert any(line.startswith("the teacher's pass: ") for line in lines)
    assert (tmp_path / "plots/tiny_budgets.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_another_workspace_stay_if_the_same_trainings_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (common, module):
        monkeypatch.setattr(place, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(common.surroundings, "settle", lambda: None)
    corpus = write_corpus(tmp_path / "corpus")
    more = {"parts": Sizes((8,), ("default",)), "budgets": Sizes((1, 2), ("default",))}
    first = run_study(tiny_study(tmp_path / "one", **more), corpus, rows=["default"])[0].to_json()
    again = tiny_study(tmp_path / "two", chosen={"default": "said later"}, **more)
    other = run_study(again, corpus, ["convergence"], rows=["plain"])[0].to_json()
    assert list(other["rows"]) == ["default", "plain"]
    assert other["rows"]["default"] == {**first["rows"]["default"], "chosen": "said later"}
    assert other["budgets"] == first["budgets"]
    assert other["parts"]["8"]["hours"] == first["parts"]["8"]["hours"]
    assert len(other["unfinished"]) == 14, "what this workspace has not trained"
    more["parts"] = Sizes((8,), ("plain",))
    changed = tiny_study(tmp_path / "three", **more)
    changed.settings["distill"]["training"]["learning_rate"] = 2e-3  # type: ignore[index]
    found = run_study(changed, corpus, ["convergence"], rows=["plain"])[0].to_json()
    assert list(found["rows"]) == ["plain"], "settings of before made the other row"
    assert found["parts"] == found["budgets"] == {}


def test_what_the_time_did_not_suffice_for_is_left_and_resumed(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    study = tiny_study(tmp_path / "work")
    past = datetime.now() - timedelta(minutes=1)
    results, outcome = run_study(study, corpus, rows=["plain"], until=past, write=False)
    assert outcome.num_finished == 0
    assert len(outcome.left) == 4
    assert results.to_json()["rows"] == {}
    assert str(results.write()).startswith("no row is complete yet")
    long = tiny_study(tmp_path / "work")
    long.settings["distill"]["training"]["num_epochs"] = 100_000  # type: ignore[index]
    now = datetime.now()
    outcome = run_study(long, corpus, rows=["plain"], until=now + timedelta(seconds=3))[1]
    assert outcome.num_finished == 0
    assert len(outcome.left) == 4, "what was under way is broken off, and nothing else begun"
    assert datetime.now() - now < timedelta(minutes=10)
    soon = datetime.now() + timedelta(hours=1)
    _, outcome = run_study(study, corpus, rows=["plain"], until=soon, write=False)
    assert (outcome.num_finished, outcome.left) == (4, [])


@pytest.mark.slow
def test_processes_side_by_side_find_what_one_finds(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    one, two = (tiny_study(tmp_path / name) for name in ("one", "two"))
    found = [
        run_study(study, corpus, jobs=jobs, write=False)[0].to_json()["rows"]
        for study, jobs in ((one, 1), (two, 2))
    ]
    for rows in found:
        for row in rows.values():
            del row["cpu_seconds"], row["control_cpu_seconds"]
    assert found[0] == found[1]


def test_a_clock_means_the_next_time_that_it_shows_it() -> None:
    now = datetime(2026, 11, 30, 1, 50)
    assert next_time("02:20", now) == datetime(2026, 11, 30, 2, 20)
    assert next_time("01:20", now) == datetime(2026, 12, 1, 1, 20)


def test_a_part_is_drawn_by_hash_and_smaller_ones_lie_inside_larger_ones(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    study = tiny_study(tmp_path / "work")
    study.write_settings(corpus)
    prepare(study.workspace)
    data = PreparedData.open(study.workspace / "data/prepared")
    parts = {(count, seed): draw_part(data, count, seed) for count in (6, 12) for seed in (0, 1)}
    ids = {key: set(part.split("train")["utterance_id"]) for key, part in parts.items()}
    assert {key: len(found) for key, found in ids.items()} == {key: key[0] for key in ids}
    assert ids[6, 0] < ids[12, 0]
    assert ids[6, 0] != ids[6, 1]
    assert draw_part(data, 6, 0).split("train").equals(parts[6, 0].split("train"))
    for split in ("valid", "test"):
        assert parts[6, 0].split(split).equals(data.split(split))
    with pytest.raises(CorpusError, match="parts: 32 utterances of a training split that has 32"):
        draw_part(data, 32, 0)


def budget(seconds: float, errors: list[int]) -> dict[str, Any]:
    return {"cpu_seconds": seconds, "word_errors": errors, "valid_wer": 0.5}


def test_curves_are_compared_at_equal_seconds_and_cross_where_the_gain_changes_its_sign() -> None:
    runs = {
        "student": {10: [budget(20, [8, 8])], 20: [budget(40, [4, 4])], 40: [budget(80, [4, 4])]},
        "control": {10: [budget(10, [9, 9])], 20: [budget(40, [6, 6])], 40: [budget(160, [2, 2])]},
    }
    row = equal_computing(runs, np.array([10, 10]))
    gains = [(gain["cpu_seconds"], gain["gain_wer"]) for gain in row["gains"]]
    # The control has 7.5 errors in ten words at 20 s, half-way between 10 and 40 in logarithms.
    assert np.array(gains) == pytest.approx(np.array([(20, -0.05), (40, 0.2), (80, 0.0)]))
    (crossing,) = row["crossings"]
    assert crossing == pytest.approx(20 * 2 ** (0.05 / 0.25))
    assert "the curves cross at 23 CPU s" in describe("default", row)[-1]


def test_curves_that_do_not_cross_say_who_is_lower() -> None:
    runs = {
        role: {epochs: [budget(epochs, [errors, errors])] for epochs in (10, 20)}
        for role, errors in (("student", 3), ("control", 5))
    }
    row = equal_computing(runs, np.array([10, 10]))
    assert row["crossings"] == []
    assert describe("x", row)[-1].strip() == (
        "the curves cross nowhere between 10 and 20 CPU s: the student is lower"
    )
    assert crossings([]) == []


def test_a_curve_of_students_alone_has_no_gain(tmp_path: Path) -> None:
    runs = {"student": {epochs: [budget(epochs, [3, 3])] for epochs in (10, 20)}}
    row = equal_computing(runs, np.array([10, 10]))
    assert list(row) == ["student"]
    plot_budgets("Tiny", row, tmp_path / "budgets.png")
    assert (tmp_path / "budgets.png").exists()


def test_a_budget_is_a_cosine_of_so_many_epochs_from_an_even_start(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    study.settings["distill"]["training"] |= {  # type: ignore[index]
        "num_epochs": "auto",
        "max_epochs": 7,
        "min_epoch_steps": 1,
        "warmup_steps": 3,
        "patience": 2,
    }
    training = study.settings_of("default", 1, 40).training
    assert (training.known_epochs, training.starts_even, training.seed) == (40, True, 1)
    assert training.averaged_steps == 0
    assert study.settings_of("default", 1).training.max_epochs == 7


def test_a_control_that_was_still_improving_is_named_under_the_table() -> None:
    def run(converged: bool) -> dict[str, Any]:
        return {**heard([1, 1]), "cpu_seconds": 12.0, "converged": converged}

    row = summarise([run(True), run(True)], [run(True), run(False)], heard([0, 0]))
    lines = markdown({"default": row}).splitlines()
    assert "| 3 / 3 | 12 / 12 | 2 of 2 / 1 of 2 |" in lines[2]
    assert lines[-1] == (
        "default: 1 of 2 controls were still improving: part of the gain may be speed"
    )
    assert row["valid_wer_by_seed"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"parts": {"utterances": [50], "rows": ["no such"]}}, r"parts.rows names \['no such'\]"),
        ({"budgets": {"epochs": [10], "row": ["default"]}}, "unknown keys"),
        ({"budgets": {"rows": ["default"]}}, "'epochs'"),
        ({"chosen": {"other": "x"}}, r"chosen names \['other'\]"),
    ],
)
def test_sections_of_a_study_that_cannot_be_are_errors(
    section: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    content = {
        "settings": "params.yaml",
        "title": "x",
        "student": "conv",
        "seeds": [0],
        "goal": {},
        "rows": {"default": {}},
        **section,
    }
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DistilleryError, match=message):
        Study.read(path, tmp_path)


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
    for name in ("fsdd", "fsdd_seeds", "an4_all", "an4_partly"):
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
