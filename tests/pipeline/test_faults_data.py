"""New data that is broken, files that were damaged, a champion that is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillery import history
from tests.pipeline.conftest import run_module
from tests.pipeline.test_flow import lock, outputs, query, versions
from tests.pipeline.test_retraining import add_recording, settings


def test_one_broken_recording_is_left_out_by_name_and_all_else_goes_on(copy: Path) -> None:
    settings(copy)
    add_recording(copy, "whole")
    whole = (copy / "corpus/whole.wav").read_bytes()
    (copy / "corpus/cut.wav").write_bytes(whole[: len(whole) // 2])
    with open(copy / "corpus/manifest.csv", "a", encoding="utf-8") as file:
        file.write("cut.wav,,s05,train\n")
    run_module(copy, "flows.run", "--retrain")
    (record,) = history.read_history(copy)
    assert (record.status, record.num_utterances, record.teacher_forwards) == ("finished", 49, 1)
    dropped = (copy / "data/prepared/dropped.csv").read_text()
    assert "cut.wav" in dropped
    assert "whole" not in dropped


@pytest.mark.slow
def test_new_data_that_is_all_broken_changes_nothing_and_is_taken_when_it_is_mended(
    copy: Path,
) -> None:
    settings(copy)
    run_module(copy, "flows.run", "--retrain")  # registers
    champion, before = versions(copy), (copy / "dvc.lock").read_bytes()
    good = {path: path.read_bytes() for path in (copy / "corpus").glob("*.wav")}
    for path in good:
        path.write_bytes(b"no audio")
    failed = run_module(copy, "flows.run", "--retrain", check=False)
    assert failed.returncode == 1
    assert "max_dropped_fraction" in failed.stdout
    assert "Traceback" not in failed.stdout
    record = history.read_history(copy)[-1]
    assert (record.status, record.step) == ("failed", "prepare")
    page = (copy / f"reports/retraining/{record.run}.md").read_text()
    assert "max_dropped_fraction" in page
    assert "ended at the step `prepare`" in page
    assert (copy / "dvc.lock").read_bytes() == before
    assert versions(copy) == champion
    for path, content in good.items():
        path.write_bytes(content)
    run_module(copy, "flows.run", "--retrain")
    last = history.read_history(copy)[-1]
    assert (last.status, last.why) == ("finished", ["the last run failed at prepare"])
    assert set(last.stages.values()) <= {"unchanged", "restored"}
    assert (copy / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        pytest.param("flipped", marks=pytest.mark.slow),
        pytest.param("deleted", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_student_is_noticed_and_made_whole(copy: Path, damage: str) -> None:
    before, stage = outputs(copy), lock(copy)["distill@conv-0"]
    weights = copy / "models/students/conv/seed-0/model.safetensors"
    content = weights.read_bytes()
    if damage == "flipped":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    else:
        weights.unlink()
    output = run_module(copy, "flows.run", "--only", "distill").stdout
    assert "distill@conv-0: restored" in output or "distill@conv-0: ran" in output
    assert weights.read_bytes() == content
    assert outputs(copy) == before
    assert lock(copy)["distill@conv-0"] == stage


@pytest.mark.slow
def test_a_champion_that_was_deleted_is_said_so_and_the_next_run_crowns_another(
    copy: Path,
) -> None:
    settings(copy)
    run_module(copy, "flows.run", "--retrain")
    query(copy, "client.delete_model_version('tiny', '1'); print(0)")
    gone = run_module(copy, "distillery.cli", "transcribe", "corpus/s00-0.wav", check=False)
    assert gone.returncode != 0
    assert "models:/tiny@champion: not in the registry" in gone.stdout
    assert "Traceback" not in gone.stdout
    run_module(copy, "flows.run", "--retrain", "--force")
    record = history.read_history(copy)[-1]
    assert (record.why, record.former_champion) == (["forced"], None)
    assert record.version is not None
    assert record.champion == record.version
    assert json.loads((copy / "reports/registered.json").read_text())["alias"] == "champion"
    run_module(copy, "distillery.cli", "transcribe", "corpus/s00-0.wav")
