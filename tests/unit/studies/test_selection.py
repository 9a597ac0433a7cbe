"""Which recordings are worth transcribing."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from distillery.data.manifest import PreparedData
from distillery.errors import CacheMismatch, CorpusError
from distillery.studies.selection import (
    COLUMNS,
    Candidate,
    as_csv,
    choose,
    disagreement,
    find_candidates,
)
from distillery.teacher_cache.store import TeacherCache
from tests.tiny_students import talking_student
from tests.tiny_workspaces import put_cache

NOTHING = pd.DataFrame({"text": [], "speaker": []})


def candidate(name: str, **changes: object) -> Candidate:
    base = Candidate(name, f"{name}.wav", None, 1.0, "one two", 0.9, None)
    return replace(base, **changes)  # type: ignore[arg-type]


def names(candidates: list[Candidate], count: int, known: pd.DataFrame = NOTHING) -> list[str]:
    return [pick.candidate.utterance_id for pick in choose(candidates, count, known)]


def test_the_least_sure_teacher_comes_first_where_all_else_is_equal() -> None:
    found = [candidate(str(place), confidence=0.1 + 0.2 * place) for place in range(4)]
    assert names(found[::-1], 1) == ["0"]


def test_disagreement_counts_as_much_as_confidence() -> None:
    found = [candidate("a", disagreement=0.0), candidate("b", disagreement=0.5)]
    assert names(found, 1) == ["b"]


def test_what_was_picked_or_is_transcribed_is_worth_less() -> None:
    same = [candidate(f"same-{place}", confidence=0.5) for place in range(4)]
    other = candidate("other", text="quite something else", confidence=0.5)
    assert "other" in names([*same, other], 2)
    known = pd.DataFrame({"text": ["quite something else"] * 9, "speaker": [None] * 9})
    assert "other" not in names([*same, other], 2, known)


def test_picks_spread_over_speakers() -> None:
    found = [candidate(f"{who}{n}", speaker=who) for who in "abc" for n in range(5)]
    assert sorted(name[0] for name in names(found, 3)) == ["a", "b", "c"]
    known = pd.DataFrame({"text": ["one two"] * 3, "speaker": ["a", "b", "b"]})
    assert names(found, 1, known)[0][0] == "c"


def test_neither_the_shortest_nor_the_longest_are_taken_for_their_length() -> None:
    """A mean over trigrams would be 1 for both, a sum 4 times as much for the long one."""
    long = candidate("long", text="abcdefghijklmnopqrstuvwxyz")
    short = candidate("short", text="abcd")
    first, second = choose([long, short], 2, NOTHING)
    assert first.candidate == long
    assert first.novelty == 1
    assert choose([short, long], 1, NOTHING)[0].candidate == long
    assert 0 < second.novelty < first.novelty
    sure = replace(long, confidence=0.95)
    assert names([sure, short], 1) == ["short"]


@pytest.mark.parametrize("count", [0, 1])
def test_few_candidates_and_empty_texts_are_no_error(count: int) -> None:
    found = [candidate(str(place), text="", confidence=0.0) for place in range(count)]
    assert names(found, 5) == [str(place) for place in range(count)]


def test_texts_differ_by_their_letters_over_all_pairs() -> None:
    assert disagreement(["ab", "ab"]) == 0
    assert disagreement(["ab", ""]) == 1
    assert disagreement(["ab", "ab", "cd"]) == pytest.approx(2 / 3)
    assert disagreement(["ab"]) == 0


def test_candidates_are_the_untranscribed_training_recordings_alone(tmp_path: Path) -> None:
    root = put_cache(tmp_path)
    data = PreparedData.open(root / "data/prepared")
    cache = TeacherCache.open_current(root / "data/teacher_cache")
    train = data.split("train")
    bare = train[train["text"].isna()]
    alone = find_candidates(data, cache, {})
    assert {item.utterance_id for item in alone} == set(bare["utterance_id"])
    assert all(item.disagreement is None and 0 <= item.confidence <= 1 for item in alone)
    heard = find_candidates(data, cache, {"talking": talking_student()})
    assert all(0 <= item.disagreement <= 1 for item in heard if item.disagreement is not None)
    assert any(item.disagreement for item in heard)
    picks = choose(heard, 3, train[train["text"].notna()])
    assert len({pick.candidate.speaker for pick in picks}) == 3
    rows = list(csv.DictReader(io.StringIO(as_csv(picks).decode("utf-8-sig"))))
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert {row["text"] for row in rows} == {""}
    assert all("confidence" in row["why"] and "letters" in row["why"] for row in rows)


def test_without_candidates_or_cache_it_says_what_to_do(tmp_path: Path) -> None:
    root = put_cache(tmp_path)
    data = PreparedData.open(root / "data/prepared")
    cache = TeacherCache.open_current(root / "data/teacher_cache")
    with pytest.raises(CorpusError, match="all 32 recordings have a transcript, expected some"):
        find_candidates(replace(data, frame=data.frame.fillna({"text": "a"})), cache, {})
    stranger = data.frame.assign(audio_key="0" * 64, text=None)
    with pytest.raises(CacheMismatch, match="run make cache"):
        find_candidates(replace(data, frame=stranger), cache, {})
