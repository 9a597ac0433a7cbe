"""Spellings of one speaker."""

from __future__ import annotations

from pathlib import Path

from distillery.corpora.base import Recording
from distillery.prepare.speakers import say_unified, unify_speakers


def unified(*names: str | None) -> tuple[list[str | None], str | None]:
    recordings = [
        Recording(str(index), "x", name, None, None, Path("x")) for index, name in enumerate(names)
    ]
    found, changed = unify_speakers(recordings)
    return [r.speaker for r in found], say_unified(changed) if changed else None


def test_names_that_differ_otherwise_stay_as_they_are() -> None:
    assert unified("s1", "s2", None, "José") == (["s1", "s2", None, "José"], None)


def test_the_commonest_spelling_stays_without_blanks() -> None:
    names, note = unified("S00 ", "s00", "S00 ", "Anna  Berg", "anna berg")
    assert names == ["S00", "S00", "S00", "Anna Berg", "Anna Berg"]
    assert note is not None
    assert "'S00 ', 's00' as 'S00'" in note
    assert "'Anna  Berg', 'anna berg' as 'Anna Berg'" in note


def test_composed_and_decomposed_names_are_one() -> None:
    names, _ = unified("Jos\u00e9", "Jose\u0301")
    assert len(set(names)) == 1


def test_a_name_of_blanks_is_none() -> None:
    names, note = unified("  ", "anna")
    assert names == [None, "anna"]
    assert note is not None
    assert "'  ' as None" in note
