"""Answers of recognisers in all known forms, as one; values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.teachers.written import Answer, Spelling, read_answer, spell_answer

HERE = "texts.jsonl, line 3"
LETTERS = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")


def kept(unknown_confidence: float) -> Spelling:
    """Return a spelling that changes nothing."""
    return Spelling(SpellingRule("keep", "keep"), True, unknown_confidence)


def read(content: object) -> Answer:
    return read_answer(content, HERE)


def segment(text: str, mean: float | None = None, **more: Any) -> dict[str, Any]:
    found = {"id": 0, "start": 0.0, "end": 1.5, "text": text, **more}
    return found if mean is None else {**found, "avg_logprob": mean}


def test_a_text_is_an_answer_without_confidence() -> None:
    assert read(" Two coffees. ") == Answer(((" Two coffees. ", 0.0),))


def test_faster_whispers_segments_give_text_score_and_confidence() -> None:
    content = {
        "language": "en",
        "segments": [
            segment(" One tea", -0.1, tokens=[1, 2, 3]),
            segment(" and milk.", -0.3, tokens=[4]),
        ],
    }
    (text, score), confidence = read(content).hypotheses[0], read(content).confidence
    assert text == "One tea and milk."
    assert score == pytest.approx(-0.1 * 4 - 0.3 * 2)  # tokens, the end of each segment included
    assert confidence == pytest.approx(math.exp(-1.0 / 6))
    assert read(content["segments"]) == read(content)  # segments alone


def test_verbose_json_counts_words_where_there_are_no_tokens() -> None:
    content = {
        "task": "transcribe",
        "duration": 1.5,
        "text": "One tea",
        "segments": [segment("One tea", -0.2)],
    }
    answer = read(content)
    assert answer.hypotheses == (("One tea", pytest.approx(-0.6)),)
    assert answer.confidence == pytest.approx(math.exp(-0.2))


def test_probabilities_of_words_are_a_confidence_too() -> None:
    words = [{"word": "One", "probability": 0.5}, {"word": "tea", "probability": 0.125}]
    assert read([segment("One tea", words=words)]).confidence == pytest.approx(0.25)
    assert read([segment("One tea", words=[{"word": "One"}])]).confidence is None


def test_one_segment_without_probability_leaves_none() -> None:
    assert read([segment("a", -0.1), segment("b")]) == Answer((("a b", 0.0),))


def test_whisper_cpp_gives_text_and_with_ojf_confidence() -> None:
    tokens = [
        {"text": "[_BEG_]", "p": 0.1},
        {"text": " One", "p": 0.5},
        {"text": " tea", "p": 0.125},
    ]
    line = {"timestamps": {}, "offsets": {"from": 0, "to": 1500}, "text": " One tea"}
    plain = {"result": {"language": "en"}, "transcription": [line, {**line, "text": " please"}]}
    assert read(plain) == Answer((("One tea please", 0.0),))
    full = {"transcription": [{**line, "tokens": tokens}]}
    assert read(full).confidence == pytest.approx(0.25)
    assert read(full).hypotheses[0][1] == pytest.approx(math.log(0.0625))


def test_in_a_nemo_manifest_the_recogniser_wrote_pred_text() -> None:
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "truth", "pred_text": "one tea"}
    assert read(row).hypotheses == (("one tea", 0.0),)
    del row["pred_text"]
    with pytest.raises(
        ModelError, match=r"line 3: holds audio_filepath and text, but no pred_text"
    ):
        read(row)


def test_hypotheses_are_ranked_and_the_text_is_the_first() -> None:
    listed = [{"text": "one tee", "score": -3.0}, {"text": "one tea", "score": -1.0}]
    assert [text for text, _ in read({"hypotheses": listed}).hypotheses] == ["one tea", "one tee"]
    chances = [{"text": "a", "confidence": 0.25}, {"text": "b", "confidence": 0.5}]
    assert read({"nbest": chances}).hypotheses[0] == ("b", pytest.approx(math.log(0.5)))
    answer = read({"text": "c", "nbest": ["a", "c", "b"], "confidence": 0.7})
    assert answer == Answer([("c", 0.0), ("a", 0.0), ("b", 0.0)], 0.7)
    assert read({"nbest": [["a", -2.0], ["b", -1.0]]}).hypotheses == [("b", -1.0), ("a", -2.0)]
    with pytest.raises(ModelError, match="1 of 2 hypotheses have no score"):
        read({"nbest": ["a", {"text": "b", "score": -1.0}]})


@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_an_empty_text_says_that_nothing_was_heard(nothing: object) -> None:
    assert read({"text": nothing}).hypotheses == (("", 0.0),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "line 3: holds 7, expected a text, an object or a list of segments"),
        ({"duration": 2.0}, r"holds \['duration'\], expected a text under one of pred_text"),
        ({"text": 12}, "text is 12, expected a text"),
        ({"text": "a", "confidence": 93}, "confidence is 93, expected a number from 0 to 1"),
        ({"text": "a", "confidence": "high"}, "confidence is 'high', expected a number"),
        ({"text": "a", "score": True}, "score is True, expected a finite number"),
        ({"text": "a", "avg_logprob": 0.5}, "avg_logprob is 0.5, expected a number from -700"),
        ({"text": "a", "nbest": "b"}, "nbest is 'b', expected a list"),
        ({"nbest": [{"score": -1.0}]}, "hypothesis 0: holds .* expected a text"),
        ([{"start": 0.0}], "segment 0: text is None, expected a text"),
        ([segment("a", start=2.0)], "segment 0: lasts from 2 to 1.5, expected times"),
        (
            {"transcription": [{"text": "a", "offsets": {"from": 900, "to": 100}}]},
            "transcription 0: lasts from 900 to 100",
        ),
    ],
)
def test_what_makes_no_sense_is_named(content: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(content)


def test_texts_are_spelt_as_the_corpus_is() -> None:
    answer = Answer((("One tea.", -1.0), ("one, TEA", -1.0), ("one tee", -3.0)), 0.9)
    spelt = spell_answer(answer, kept(0.5), LETTERS)
    assert spelt.hypotheses == (("one tea", pytest.approx(-1.0 + math.log(2))), ("one tee", -3.0))
    assert spelt.confidence == 0.9
    assert spell_answer(Answer((("One.", 0.0), ("one", 0.0))), kept(0.5), LETTERS).confidence == 0.5


def test_what_students_cannot_write_is_no_hypothesis() -> None:
    spelt = spell_answer(Answer((("caf€ ж", 0.0),), 0.9), kept(1.0), LETTERS)
    assert spelt.hypotheses == (("", 0.0),)
    assert spelt.confidence == 0.0
    assert spelt.unknown == {"ж"}
    second = spell_answer(Answer((("ж", -1.0), ("e", -2.0)), 0.9), kept(1.0), LETTERS)
    assert second.hypotheses == (("e", -2.0),)
    assert second.confidence == pytest.approx(0.9 * math.exp(-1))
    assert spell_answer(Answer((("ж", 0.0), ("e", 0.0)), 0.9), kept(1.0), LETTERS).confidence == 0.0


def test_numbers_and_letter_strings_become_words() -> None:
    rule = SpellingRule("digits", "spell", "en")
    answer = Answer((("XKITB 26", -1.0), ("x k i t b two six", -1.0)), 0.9)
    spelt = spell_answer(answer, Spelling(rule, True, 1.0), LETTERS)
    assert spelt.hypotheses == (("x k i t b two six", pytest.approx(-1.0 + math.log(2))),)
    loud = spell_answer(Answer((("ONE TEA", 0.0),)), Spelling(rule, False, 1.0), LETTERS)
    assert loud.hypotheses == (("one tea", 0.0),)
