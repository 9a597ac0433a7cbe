"""Whose evaluation it is: this workspace's, or one that was pulled."""

from __future__ import annotations

from pathlib import Path

from distillery.data.workspace import EVALUATION
from distillery.evaluate.made_here import MADE_HERE_FILE, is_made_here, note_made_here


def test_an_evaluation_is_made_here_until_another_takes_its_place(tmp_path: Path) -> None:
    summary = tmp_path / EVALUATION / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text("{}")
    assert not is_made_here(tmp_path)
    note_made_here(tmp_path)
    assert is_made_here(tmp_path)
    summary.write_text('{"of": "another clone"}')
    assert not is_made_here(tmp_path)
    summary.write_text("{}")
    assert is_made_here(tmp_path)


def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / MADE_HERE_FILE).write_text("{")
    assert not is_made_here(tmp_path)
