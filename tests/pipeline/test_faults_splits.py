"""Splits through DVC: what was decided outlives the prepared data, and data of old show it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import yaml

from flows.stages import pipeline
from tests.pipeline.conftest import environment
from tests.tiny import RATE_HZ, speak


@pytest.fixture
def place(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose stages find this Python."""
    for name, value in environment(workspace).items():
        monkeypatch.setenv(name, value)
    return workspace


def test_splits_stay_as_data_grow_and_macos_changes_nothing(place: Path) -> None:
    write(place, range(5))
    before = prepared(place)
    assert set(before.values()) == {"train", "valid", "test"}
    (place / "corpus/.DS_Store").write_bytes(b"x")
    (place / "corpus/._t0.wav").write_bytes(b"x")
    assert pipeline.run_stage(place, "prepare", print).outcome == "unchanged"
    write(place, range(31))
    after = prepared(place)
    assert len(after) == 62
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_splits_stay_in_a_clone_and_through_an_upgrade(place: Path) -> None:
    """Drawn by themselves, 31 of these speakers have w14 for validation, and 5 have w4."""
    write(place, range(5))
    before = prepared(place)
    (place / "data/splits.csv").unlink()
    shutil.rmtree(place / "data/prepared")
    write(place, range(31))
    cloned = prepared(place)
    assert {name: cloned[name] for name in before} == before

    # As if all of this had been prepared by a version that kept nothing.
    (place / "data/splits.csv").unlink()
    lock = place / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    stage = content["stages"]["prepare"]
    stage["outs"] = [out for out in stage["outs"] if out["path"] != "data/splits.csv"]
    lock.write_text(yaml.safe_dump(content))
    write(place, range(32))
    upgraded = prepared(place)
    assert {name: upgraded[name] for name in cloned} == cloned


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
