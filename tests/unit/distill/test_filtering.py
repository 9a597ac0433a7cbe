"""Which of the teacher's hypotheses may be learnt from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from distillery.data.units import Unit
from distillery.distill.filtering import Candidate, fault, filter_hypotheses, repeats_more_than
from distillery.errors import ParamsError
from distillery.params.distill import FilterParams
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params


def candidate(**changes: Any) -> Candidate:
    """Return a hypothesis that passes: 13 characters in 2 seconds, without a transcript."""
    return Candidate(**{"hypothesis": "one two three", "confidence": 0.9, "seconds": 2.0} | changes)


def test_a_sane_hypothesis_passes() -> None:
    assert fault(candidate(), FilterParams()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hypothesis": ""}, "too_few_characters"),
        ({"seconds": 27.0}, "too_few_characters"),  # 13 / 27 = 0.48 a second
        ({"seconds": 0.3}, "too_many_characters"),  # 13 / 0.3 = 43.3 a second
        ({"confidence": 0.59}, "low_confidence"),
        ({"hypothesis": "no no no no no no"}, "repetition"),
    ],
)
def test_each_fault_has_its_reason(changes: dict[str, Any], reason: str) -> None:
    assert fault(candidate(**changes), FilterParams()) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 26.0},  # 0.5 characters a second
        {"seconds": 0.325},  # 40 a second
        {"confidence": 0.6},
        {"hypothesis": "no no no no no"},
    ],
)
def test_a_value_at_its_limit_passes(changes: dict[str, Any]) -> None:
    assert fault(candidate(**changes), FilterParams()) is None


def test_a_transcript_decides_alone_and_by_word_errors() -> None:
    settings = FilterParams(max_wer=0.5)
    # One substitution and one deletion in four words: 0.5; another substitution: 0.75.
    half = candidate(hypothesis="one two six", reference="one two three four", confidence=0.0)
    assert fault(half, settings) is None
    worse = candidate(hypothesis="one nine six", reference="one two three four")
    assert fault(worse, settings) == "word_errors"
    assert fault(worse, FilterParams(max_wer=0.75)) is None


def test_word_errors_may_exceed_the_words_spoken() -> None:
    babble = candidate(hypothesis="a b c", reference="a")  # two insertions over one word
    assert fault(babble, FilterParams(max_wer=1.9)) == "word_errors"
    assert fault(babble, FilterParams(max_wer=2.0)) is None


def test_decodings_that_disagree_are_told_by_character_errors() -> None:
    # "one two tree" against "one two three": one deletion in 13 characters, 0.077.
    split = candidate(hypothesis="one two tree", other_decoding="one two three")
    assert fault(split, FilterParams(max_disagreement=0.07)) == "decodings_disagree"
    assert fault(split, FilterParams(max_disagreement=0.08)) is None
    assert fault(split, FilterParams()) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a", 1),
        ("a b a b", 2),
        ("x a a a y", 3),
        ("a b c a b c a b c a", 3),  # the fourth round is not complete
        ("a b a b x a b", 2),  # the third stands apart
        ("a a b a a b", 2),
    ],
)
def test_repetitions_are_counted_in_a_row(text: str, count: int) -> None:
    exceeded = [limit for limit in range(1, 5) if repeats_more_than(text.split(), limit)]
    assert exceeded == list(range(1, count))


def test_repetitions_equal_a_plain_search() -> None:
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        words = [str(word) for word in random.choice(["a", "b"], size=random.integers(0, 12))]
        limit = int(random.integers(1, 4))
        plain = any(
            words[start : start + size * (limit + 1)] == words[start : start + size] * (limit + 1)
            for size in range(1, len(words) + 1)
            for start in range(len(words) - size * (limit + 1) + 1)
        )
        assert repeats_more_than(words, limit) == plain
        seen.add(plain)
    assert seen == {True, False}


def test_the_report_counts_reasons_hours_and_confidences() -> None:
    filtered = filter_hypotheses(
        [
            candidate(confidence=0.95, seconds=9.0),
            candidate(confidence=1.0 + 1e-7, seconds=9.0),  # rounding in single precision
            candidate(confidence=0.05, seconds=9.0),
            candidate(confidence=0.75, seconds=9.0, hypothesis=""),
            candidate(confidence=0.55, seconds=9.0, hypothesis=""),
        ],
        FilterParams(),
    )
    assert filtered.fit.tolist() == [True, True, False, False, False]
    assert asdict(filtered.report()) == {
        "num_hypotheses": 5,
        "num_kept": 2,
        "dropped": {"low_confidence": 1, "too_few_characters": 2},
        "hours": 0.0125,  # 45 seconds
        "hours_kept": 0.005,
        "confidence": {
            "edges": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
            "kept": [0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            "dropped": [1, 0, 0, 0, 0, 1, 0, 1, 0, 0],
        },
    }
    assert filtered.lines() == [
        "filter: 2 of 5 hypotheses kept, 0.005 of 0.013 hours",
        "filter: dropped low_confidence 1",
        "filter: dropped too_few_characters 2",
        "filter: kept+dropped by confidence, tenths from 0 to 1: "
        "0+1 0+0 0+0 0+0 0+0 0+1 0+0 0+1 0+0 2+0",
    ]
    kept = filter_hypotheses([candidate(seconds=9.0)], FilterParams())
    assert kept.lines() == ["filter: 1 of 1 hypotheses kept, 0.003 of 0.003 hours"]


# --- settings ----------------------------------------------------------------------------------


def test_speeds_that_nothing_can_have_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_characters_per_second 9 is not below max_.* 9"):
        FilterParams(min_characters_per_second=9.0, max_characters_per_second=9.0)


def test_a_threshold_of_a_filter_that_is_off_is_refused() -> None:
    with pytest.raises(ValidationError, match="enabled is false, so max_wer would not be read"):
        FilterParams(enabled=False, max_wer=0.5)
    again = FilterParams.model_validate(FilterParams(enabled=False).model_dump())
    assert not again.enabled


def test_decodings_are_compared_only_where_the_cache_keeps_several(tmp_path: Path) -> None:
    settings = tiny_params(distill={"filter": {"max_disagreement": 0.1}})
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError, match="max_disagreement is 0.1, but the cache keeps one"):
        Params.load(tmp_path / "params.yaml")
    settings["cache"]["payload"] = {"num_hypotheses": 2}
    write_params(tmp_path, settings)
    assert Params.load(tmp_path / "params.yaml").distill.filter.max_disagreement == 0.1
    settings["language_model"] = {"for_teacher": True}
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError, match="both are what the language model chose"):
        Params.load(tmp_path / "params.yaml")


# --- languages without spaces --------------------------------------------------------------------


def test_a_wrong_character_of_twelve_is_no_wrong_sentence() -> None:
    heard = candidate(hypothesis="今天的天气非常好我很高", reference="今天的天气非常好我很高兴")
    assert fault(heard, FilterParams(), Unit.CHARACTER) is None  # 1 of 12
    assert fault(heard, FilterParams(max_wer=0.08), Unit.CHARACTER) == "character_errors"
    assert fault(heard, FilterParams()) == "word_errors"  # one word, and that wrong


@pytest.mark.parametrize("loop", ["谢谢", "ありがとう", "ขอบคุณ", "哈"])
def test_repetition_is_seen_without_spaces(loop: str) -> None:
    long = candidate(hypothesis=loop * 6, seconds=4.0)
    assert fault(long, FilterParams(), Unit.CHARACTER) == "repetition"
    assert fault(long, FilterParams()) is None
    assert fault(candidate(hypothesis=loop * 2), FilterParams(), Unit.CHARACTER) is None


def test_spaces_are_no_errors_where_characters_count() -> None:
    spaced = candidate(hypothesis="你好 世界", reference="你好世界")
    assert fault(spaced, FilterParams(max_wer=0.0), Unit.CHARACTER) is None
    filtered = filter_hypotheses([spaced], FilterParams(max_wer=0.0), Unit.CHARACTER)
    assert filtered.fit.tolist() == [True]
