"""Words as subtitles."""

from __future__ import annotations

from distillery.data.units import Unit
from distillery.decoder.words import Word
from distillery.serve.subtitles import Cue, cues_of, srt, vtt


def words(text: str, seconds: float = 0.5, start: float = 0.0) -> list[Word]:
    """Return words, each of half of so many seconds, one after the other."""
    return [
        Word(word, start + seconds * at, start + seconds * (at + 0.5), 0.9)
        for at, word in enumerate(text.split())
    ]


def test_a_pause_ends_a_cue() -> None:
    found = list(cues_of([*words("a b c d"), *words("e f g h", start=10.0)]))
    assert found == [Cue(0.0, 1.75, "a b c d"), Cue(10.0, 11.75, "e f g h")]


def test_no_cue_is_longer_than_seven_seconds_or_two_lines() -> None:
    slow = list(cues_of(words("a b c d e f g h", seconds=1.5)))
    assert [cue.text for cue in slow] == ["a b c d e", "f g h"]
    fast = list(cues_of(words("twelve-chars " * 10, seconds=0.1)))
    line = "twelve-chars twelve-chars twelve-chars"
    assert [cue.text for cue in fast] == [f"{line}\n{line}", f"{line}\ntwelve-chars"]


def test_a_short_cue_stays_for_a_second_or_until_the_next() -> None:
    (alone,) = cues_of(words("a", 0.2))
    assert alone.end == 1.0
    first, second = cues_of([Word("a", 0.0, 0.01, None), Word("b", 0.85, 3.0, None)])
    assert (first.end, second.end) == (0.85, 3.0)


def test_characters_stand_together() -> None:
    (cue,) = cues_of([Word("日", 0.0, 0.5, None), Word("本", 0.5, 2.0, None)], Unit.CHARACTER)
    assert cue.text == "日本"


def test_nothing_said_is_no_cue() -> None:
    assert list(cues_of([])) == []


def test_forms() -> None:
    cue = Cue(1.0006, 3725.4999, "a b\nc")
    assert srt(3, cue) == "3\n00:00:01,001 --> 01:02:05,500\na b\nc\n\n"
    assert vtt(cue) == "00:00:01.001 --> 01:02:05.500\na b\nc\n\n"
