"""Learning curves as they lie on the disk."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from distillery.distill.generations import Finished, GenerationRecord
from distillery.files import read_json, write_json
from distillery.training import curves
from distillery.training.curves import Curves, run_digest
from distillery.training.points import Point, read_points

SAVED = """{"key": "train/loss", "value": 3.780735989411672, "step": 36, "timestamp": 1795968450763}
{"key": "train/utterances", "value": 12, "step": 36, "timestamp": 1795968450763}
{"key": "valid/wer", "value": Infinity, "step": 36, "timestamp": 1795968450764}
"""
"""As an earlier Distillery wrote it."""


def test_saved_curves_are_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text(SAVED)
    points = read_points(path)
    assert points[0] == Point("train/loss", 3.780735989411672, 36, 1795968450763)
    Curves(path, earlier=points[:1]).restore(points[1:])
    assert path.read_text() == SAVED


def test_the_curves_of_a_finished_generation_are_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    record = {"generation": 1, "num_epochs": 2, "num_hypotheses": 3, "valid_wer": 0.5}
    rows = [json.loads(line) for line in SAVED.splitlines()]
    write_json(path, {"rows": rows, "record": {**record, "weights": "w"}})
    before = path.read_text()
    found = read_json(path, Finished)
    assert found.record == GenerationRecord(1, 2, 3, 0.5, "w")
    assert found.rows == [Point(**row) for row in rows]
    write_json(path, asdict(found))
    assert path.read_text() == before


def test_an_iterator_has_the_digest_of_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of checkpoints that lie on disks are those of JSON arrays."""
    parts = ["run", {"b": 1, "a": Path("x")}, ["k1", "k2", float("nan"), "é", None], 3]
    whole = json.dumps(parts, sort_keys=True, default=str).encode()
    wanted = hashlib.sha256(whole).hexdigest()[:16]
    assert run_digest(*parts) == wanted
    for size in (1, 2, 5, 100):
        monkeypatch.setattr(curves, "ITEMS_AT_ONCE", size)
        assert run_digest(*parts[:2], iter(parts[2]), 3) == wanted
    assert run_digest(iter([])) == run_digest([])
