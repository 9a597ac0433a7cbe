"""Each rule of the gate at its edge, on error counts made by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distillery.data.units import Unit
from distillery.errors import StageError
from distillery.params.register import GateParams
from distillery.register.gate.rules import (
    Match,
    Rule,
    ScoredFormat,
    is_tie,
    judge,
    rule_gain,
    rule_real_time_factor,
    rule_sanity,
    rule_size,
    rule_speakers,
    rule_utterances,
    rule_wer,
    rule_wer_interval,
)
from distillery.register.gate.verdict import Ruling, Verdict, markdown, parse_verdict, render

NUM_RESAMPLES = 4000


def form(errors: list[int], **changes: Any) -> ScoredFormat:
    """Return one that makes so many errors in utterances of ten words, two speakers in turn."""
    table = pd.DataFrame(
        {
            "utterance_id": [f"u{index}" for index in range(len(errors))],
            "speaker": [("ann", "bob")[index % 2] for index in range(len(errors))],
            "words": 10,
            "word_errors": errors,
        }
    )
    plain = ScoredFormat("torch", table, num_bytes=1000, real_time_factor=0.01)
    return replace(plain, **changes)


def ruling(
    rule: Rule,
    own: ScoredFormat,
    champion: ScoredFormat | None = None,
    control: list[int] | None = None,
    **settings: Any,
) -> Ruling | None:
    errors = None if control is None else np.array(control)
    return rule(Match(own, champion, errors, GateParams(**settings), NUM_RESAMPLES))


def passed(
    rule: Rule, own: ScoredFormat, champion: ScoredFormat | None = None, **more: Any
) -> bool:
    found = ruling(rule, own, champion, **more)
    assert found is not None
    return found.passed


def test_one_utterance_proves_nothing_whatever_its_interval_says() -> None:
    champion, own = form([2]), form([2])
    interval = ruling(rule_wer_interval, own, champion)
    assert interval is not None
    assert interval.passed
    assert interval.figure == 0.0  # without width: every resample is the one utterance
    found = ruling(rule_utterances, own, champion)
    assert found is not None
    assert not found.passed
    assert "1 test utterances; 20 are needed to compare with a champion" in found.sentence
    assert found.shown(1234.0) == "1,234 utterances"
    assert passed(rule_utterances, own, champion, min_utterances=0)


def test_a_test_split_of_the_least_size_may_decide() -> None:
    assert passed(rule_utterances, form([1] * 20), form([1] * 20))
    assert not passed(rule_utterances, form([1] * 19), form([1] * 19))


def test_a_first_champion_is_not_asked_for_utterances() -> None:
    assert ruling(rule_utterances, form([1])) is None


def test_a_wer_may_be_equal_and_no_higher() -> None:
    champion = form([2, 0, 2, 0])
    assert passed(rule_wer, form([0, 2, 0, 2]), champion)
    worse = ruling(rule_wer, form([2, 0, 2, 1]), champion)
    assert worse is not None
    assert not worse.passed
    assert worse.figure == pytest.approx(1 / 40)
    assert worse.sentence == "WER 12.50% against the champion's 10.00%"


def test_a_margin_below_zero_asks_for_that_much_improvement() -> None:
    champion = form([2, 2, 2, 2])
    better_by_ten_points = form([1, 1, 1, 1])
    for rule in (rule_wer, rule_wer_interval):
        assert passed(rule, better_by_ten_points, champion, wer_margin=-0.1)
        assert not passed(rule, better_by_ten_points, champion, wer_margin=-0.1001)


def test_an_improvement_that_may_be_chance_needs_a_margin_as_wide_as_the_doubt() -> None:
    champion, mixed = form([2, 0] * 20), form([0, 2] * 19 + [0, 1])
    assert passed(rule_wer, mixed, champion)
    found = ruling(rule_wer_interval, mixed, champion)
    assert found is not None
    assert not found.passed
    assert passed(rule_wer_interval, mixed, champion, wer_margin=found.figure)
    assert not passed(rule_wer_interval, mixed, champion, wer_margin=found.figure - 1e-9)
    # differences of ±20 points: a standard error of 20 / √40, of which 1.645 from -0.25 points
    assert found.figure == pytest.approx(1.645 * 0.2 / 40**0.5 - 0.0025, abs=0.004)


def test_an_equal_loss_everywhere_leaves_no_doubt() -> None:
    champion, worse = form([1] * 10), form([2] * 10)
    assert passed(rule_wer_interval, worse, champion, wer_margin=0.1)
    assert not passed(rule_wer_interval, worse, champion, wer_margin=0.0999)
    assert not passed(rule_wer, worse, champion, wer_margin=0.1)  # no margin for being worse


def test_no_speaker_may_lose_more_than_the_limit() -> None:
    champion = form([0, 5, 0, 5])  # 20 words each
    own = form([2, 0, 2, 0])  # ann +20 points, bob -50
    found = ruling(rule_speakers, own, champion, min_speaker_words=20, max_speaker_loss=0.2)
    assert found is not None
    assert found.passed
    assert found.figure == 0.2
    assert "of 2 speakers with 20 words or more, ann lost most: +20.0 points" in found.sentence
    assert not passed(rule_speakers, own, champion, min_speaker_words=20, max_speaker_loss=0.1999)


def test_speakers_of_few_words_or_no_name_are_not_judged() -> None:
    champion, own = form([0] * 4), form([9] * 4)
    assert ruling(rule_speakers, own, champion, min_speaker_words=21) is None
    nameless = replace(own, predictions=own.predictions.assign(speaker=None))
    assert ruling(rule_speakers, nameless, champion, min_speaker_words=1) is None


def test_a_control_may_be_as_good_but_not_clearly_better() -> None:
    champion, own = form([3] * 4), form([2] * 4)
    assert passed(rule_gain, own, champion, control=[2] * 4)
    assert passed(rule_gain, own, champion, control=[9] * 4)
    assert passed(rule_gain, own, champion, control=[0, 4, 0, 3])  # better, perhaps by chance
    assert not passed(rule_gain, own, champion, control=[1] * 4)
    assert ruling(rule_gain, own, champion) is None  # none was trained


def test_a_first_champion_is_compared_with_its_control_as_pytorch_runs_both() -> None:
    own = form([2] * 4)
    assert ruling(rule_gain, own, None) is None
    assert not passed(rule_gain, own, None, control=[1] * 4)
    assert passed(rule_gain, own, None, control=[0, 4, 0, 3])
    exported = replace(own, name="onnx-int8")
    assert ruling(rule_gain, exported, None, control=[1] * 4) is None


def test_size_is_limited_by_the_champions_and_by_itself() -> None:
    own, champion = form([0], num_bytes=2000), form([0], num_bytes=1000)
    assert passed(rule_size, own, champion, max_size_factor=2.0)
    assert not passed(rule_size, replace(own, num_bytes=2001), champion, max_size_factor=2.0)
    assert passed(rule_size, own, champion, max_bytes=2000)
    assert not passed(rule_size, own, champion, max_bytes=1999)
    assert not passed(rule_size, own, max_bytes=1999)
    assert ruling(rule_size, own, champion, max_size_factor=None) is None
    assert ruling(rule_size, own) is None


def test_speed_is_limited_by_the_champions_and_by_real_time() -> None:
    own, champion = form([0], real_time_factor=0.5), form([0], real_time_factor=0.25)
    assert passed(rule_real_time_factor, own, champion, max_slowdown_factor=2.0)
    slower = replace(own, real_time_factor=0.501)
    assert not passed(rule_real_time_factor, slower, champion, max_slowdown_factor=2.0)
    assert passed(rule_real_time_factor, slower, champion, max_slowdown_factor=None)
    assert passed(rule_real_time_factor, slower)
    assert not passed(rule_real_time_factor, slower, max_real_time_factor=0.5)
    searched = replace(slower, is_searched=True)  # a decoder is switched on for its words
    assert passed(rule_real_time_factor, searched, champion)
    assert not passed(rule_real_time_factor, searched, replace(champion, is_searched=True))
    assert not passed(rule_real_time_factor, searched, champion, max_real_time_factor=0.5)
    assert not passed(rule_real_time_factor, slower, replace(champion, is_searched=True))


def test_a_model_that_says_nothing_is_broken() -> None:
    assert not passed(rule_sanity, form([10, 10]))
    assert passed(rule_sanity, form([10, 9]))  # 95 %
    assert not passed(rule_sanity, form([10, 9]), max_wer=0.9499)


def test_every_form_is_judged_against_the_champions_of_that_name() -> None:
    own = [form([1] * 4), form([2] * 4, name="int8"), form([1] * 4, name="onnx")]
    champion = [form([1] * 4), form([2] * 4, name="int8")]
    found = judge(own, champion, None, GateParams(min_utterances=4), NUM_RESAMPLES)
    assert {(item.form, item.rule): item.passed for item in found} == {
        (name, rule): True
        for name in ("torch", "int8", "onnx")
        for rule in ("utterances", "wer", "wer_interval", "size", "real_time_factor", "sanity")
    }
    against_torch = judge(own, champion[:1], None, GateParams(min_utterances=4), NUM_RESAMPLES)
    assert [(item.form, item.rule) for item in against_torch if not item.passed] == [
        ("int8", "wer"),
        ("int8", "wer_interval"),
    ]


def test_forms_of_other_utterances_are_refused() -> None:
    with pytest.raises(StageError, match=r"onnx was scored on 3 utterances, torch on 4.*evaluat"):
        judge([form([0] * 4), form([0] * 3, name="onnx")], [], None, GateParams(), NUM_RESAMPLES)


def test_a_tie_is_the_same_everywhere_and_no_smaller() -> None:
    champion = form([1, 0])
    assert is_tie(form([1, 0]), champion)
    assert is_tie(form([1, 0], num_bytes=1001), champion)
    assert not is_tie(form([1, 0], num_bytes=999), champion)
    assert not is_tie(form([0, 1]), champion)


def test_a_verdict_is_shown_with_its_figures_and_read_back() -> None:
    settings = GateParams(min_utterances=0)
    rulings = judge([form([2] * 4)], [form([1] * 4)], None, settings, NUM_RESAMPLES)
    verdict = Verdict("3", "challenger", "it is worse", True, "2", 0.2, 0.1, 4, tuple(rulings))
    assert parse_verdict(json.dumps(asdict(verdict))) == verdict
    assert verdict.tags["gate.failed"] == "wer (torch), wer_interval (torch)"
    assert verdict.metrics["gate/torch/wer"] == pytest.approx(0.1)
    text = render(verdict)
    assert "Gate: version 3 is challenger: it is worse." in text
    (row,) = (line for line in text.splitlines() if line.startswith("wer "))
    assert row.split() == ["wer", "torch", "+10.00", "points", "+0.00", "points", "FAILED"]
    assert "| size | torch | 1,000 bytes | 2,000 bytes | passed |" in markdown(verdict)


@pytest.mark.parametrize(
    ("rule", "control"),
    [(rule_wer, None), (rule_wer_interval, None), (rule_speakers, None), (rule_gain, [1] * 8)],
)
def test_rulings_say_what_was_counted(rule: Rule, control: list[int] | None) -> None:
    own, champion = form([2] * 8), form([1] * 8)
    errors = None if control is None else np.array(control)
    settings = GateParams(min_speaker_words=4)
    for unit in Unit:
        found = rule(Match(own, champion, errors, settings, NUM_RESAMPLES, unit))
        assert found is not None
        assert unit.rate in found.sentence
    assert found is not None and "WER" not in found.sentence and "words" not in found.sentence
    (sanity,) = judge([own], [], None, settings, NUM_RESAMPLES, Unit.CHARACTER)[-1:]
    assert sanity.sentence.startswith("CER 20.00%")
