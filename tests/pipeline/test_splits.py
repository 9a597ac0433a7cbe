"""Splits through DVC: what was decided outlives the prepared data, and data of old show it."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import yaml

from flows.stages import pipeline
from tests.pipeline.conftest import environment
from tests.tiny import RATE_HZ, speak


def test_splits_stay_through_dvc_and_an_upgrade(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(workspace).items():
        monkeypatch.setenv(name, value)
    write(workspace, range(5))
    before = prepared(workspace)
    assert set(before.values()) == {"train", "valid", "test"}
    (workspace / "corpus/.DS_Store").write_bytes(b"x")
    (workspace / "corpus/._s00-0.wav").write_bytes(b"x")
    assert pipeline.run_stage(workspace, "prepare", print).outcome == "unchanged"

    write(workspace, range(30))
    after = prepared(workspace)
    assert len(after) == 60
    assert {name: after[name] for name in before} == before

    # As if all of this had been prepared by a version that kept nothing.
    (workspace / "data/splits.csv").unlink()
    lock = workspace / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    stage = content["stages"]["prepare"]
    stage["outs"] = [out for out in stage["outs"] if out["path"] != "data/splits.csv"]
    lock.write_text(yaml.safe_dump(content))
    write(workspace, range(31))
    upgraded = prepared(workspace)
    assert {name: upgraded[name] for name in after} == after


def write(root: Path, speakers: range) -> None:
    """Write two recordings of each speaker, no split decided."""
    with open(root / "corpus/manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "speaker"))
        for number in (2 * speaker + take for speaker in speakers for take in range(2)):
            name = f"t{number}.wav"
            soundfile.write(root / "corpus" / name, speak("ab", number), RATE_HZ)
            writer.writerow((name, "ab", f"w{number // 2}"))


def prepared(root: Path) -> dict[str, str]:
    """Run the stage and return the split of each recording."""
    assert pipeline.run_stage(root, "prepare", print).outcome == "ran"
    frame = pd.read_parquet(root / "data/prepared/manifest.parquet")
    return dict(zip(frame["source_path"], frame["split"], strict=True))
