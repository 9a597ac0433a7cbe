"""What a recogniser wrote of one recording, in whatever form it came: texts, scores, confidence.

One function reads an answer of any of these, told apart by their keys:

    a text                                   as it stands
    {"segments": [{"text", "avg_logprob"}]}  faster-whisper, and OpenAI's `verbose_json`
    [{"text", "start", "end"}, …]            the same, segments alone
    {"transcription": [{"text", "offsets"}]} whisper.cpp, `-oj`, with `-ojf` its tokens, too
    {"pred_text": …}                         a row of a NeMo manifest, whose `text` is a transcript
    {"text": …, "confidence", "hypotheses"}  a row of one's own

Sources: the documentation of OpenAI's API (object "transcription, verbose"), faster-whisper's
`Segment`, `examples/cli/cli.cpp` of whisper.cpp, and NeMo's `transcribe_speech.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from distillery.data.spelling import SpellingRule, spell
from distillery.data.text import Vocabulary, case_of, normalise
from distillery.errors import ModelError
from distillery.files import Json
from distillery.teachers.spelt import spell_hypotheses, spelt

TEXT_KEYS = ("pred_text", "hypothesis", "prediction", "text", "transcription", "transcript")
"""Where a row's text may stand; the first that is there counts."""
LIST_KEYS = ("hypotheses", "nbest", "n_best", "alternatives")
LOG_KEYS = ("log_prob", "logprob", "score")
CHANCE_KEYS = ("confidence", "probability")
SPECIAL_TOKEN = "[_"  # how whisper.cpp's tokens for times and the like begin
MOST_LOG = 700.0  # beyond it exp has no value
NUM_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Answer:
    """What was written of one recording."""

    hypotheses: Sequence[tuple[str, float]]
    """Texts as they were written and ln P, best first; without scores all have 0."""
    confidence: float | None = None
    """In the best of them, from 0 to 1; None: nothing says."""


@dataclass(frozen=True)
class Spelt:
    """The same, spelt as the corpus is."""

    hypotheses: Sequence[tuple[str, float]]
    """At least one, which may be empty."""
    confidence: float
    unknown: frozenset[str] = frozenset()
    """Characters of the best text that the students have no token for."""


@dataclass(frozen=True)
class Spelling:
    """How texts are spelt for students."""

    rule: SpellingRule
    """Of the data: what becomes of numbers and letter strings."""
    cased: bool
    """Whether the recogniser writes words in small letters, so that capitals mean letters."""
    unknown_confidence: float
    """In answers that say nothing about it."""


def spell_answer(answer: Answer, spelling: Spelling, vocabulary: Vocabulary) -> Spelt:
    """Return an answer as students may learn it.

    Texts that are one once spelt are one, with their probabilities added. What holds a character
    without a token is no hypothesis; where none is left, the empty text with confidence 0 is. Where
    the best one goes, the next is as much less sure as it is less probable, or without scores 0.

    Args:
        answer: as it was written.
        spelling: how.
        vocabulary: the students' tokens.
    """
    rule, cased = spelling.rule, spelling.cased
    found = spell_hypotheses(answer.hypotheses, rule, vocabulary, cased)
    text, score = answer.hypotheses[0]
    lost = spelt(text, rule, vocabulary, cased) is None
    unknown = frozenset[str]()
    if lost:
        written = normalise(spell(text, rule, cased), case_of(vocabulary), vocabulary.tokens)
        unknown = frozenset(vocabulary.unknown(written))
    if not found:
        return Spelt((("", 0.0),), 0.0, unknown)
    sure = answer.confidence if answer.confidence is not None else spelling.unknown_confidence
    if not any(value for _, value in answer.hypotheses):  # without scores all count alike
        found, sure = [(text, 0.0) for text, _ in found], 0.0 if lost else sure
    elif lost:
        sure *= math.exp(min(0.0, found[0][1] - score))
    return Spelt(tuple(found), sure, unknown)


def read_answer(content: object, where: str) -> Answer:
    """Return what an answer of any known form says.

    Args:
        content: as JSON gave it.
        where: its file and line, for errors.

    Raises:
        ModelError: it is of no known form, a number is out of range, or times run backwards.
    """
    if isinstance(content, str):
        return Answer(((content, 0.0),))
    if isinstance(content, list):
        content = {"segments": content}
    if not isinstance(content, dict):
        raise _fault(where, "", content, "a text, an object or a list of segments")
    if isinstance(content.get("transcription"), list):
        return _of_whisper_cpp(content["transcription"], where)
    return _of_object(content, where)


# --- forms --------------------------------------------------------------------------------------


def _of_object(content: Json, where: str) -> Answer:
    segments = _list(content, ("segments",), where)
    own = _of_segments(segments, where) if segments is not None else None
    listed = _list(content, LIST_KEYS, where)
    text = _text(content, where)
    if text is None and own is not None:
        text = own.hypotheses[0][0]
    if text is None and not listed:
        raise ModelError(
            f"{where}: holds {sorted(content)[:12]}, expected a text under one of "
            f"{', '.join(TEXT_KEYS)}, or segments"
        )
    sure = _number(content, CHANCE_KEYS, where, 0.0, 1.0)
    mean = _number(content, ("avg_logprob",), where, -MOST_LOG, 0.0)
    if sure is None and mean is not None:
        sure = math.exp(mean)
    if sure is None and own is not None:
        sure = own.confidence
    if listed:
        return Answer(_hypotheses(text, listed, where), sure)
    assert text is not None
    score = _number(content, LOG_KEYS, where, -math.inf, math.inf)
    if score is None:
        score = own.hypotheses[0][1] if own is not None else 0.0
    return Answer(((text, score),), sure)


def _text(content: Json, where: str) -> str | None:
    """Return a row's own text, empty where it says that nothing was heard, None without one."""
    if "audio_filepath" in content and "text" in content:
        others = [key for key in TEXT_KEYS if key in content and key not in ("text",)]
        if not others and "segments" not in content:
            raise ModelError(
                f"{where}: holds audio_filepath and text, but no pred_text; text is the transcript "
                "in NeMo's manifests, which no recogniser wrote. Let the recogniser add pred_text, "
                "or rename text to hypothesis if one wrote it"
            )
    for key in TEXT_KEYS:
        if key in content:
            value = content[key]
            if value is None or (isinstance(value, float) and math.isnan(value)):
                return ""
            if not isinstance(value, str):
                raise _fault(where, key, value, "a text")
            return value
    return None


def _of_segments(segments: Sequence[object], where: str) -> Answer:
    """Return segments as one answer; their mean ln P by token gives the confidence."""
    texts, total, tokens, scored = [], 0.0, 0, 0
    for number, segment in enumerate(segments):
        at = f"{where}: segment {number}"
        if not isinstance(segment, dict):
            raise _fault(at, "", segment, "an object with text, start and end")
        text = _text(segment, at)
        if text is None:
            raise _fault(at, "text", None, "a text")
        _check_times(segment, at)
        texts.append(text.strip())
        mean = _number(segment, ("avg_logprob",), at, -MOST_LOG, 0.0)
        if mean is None and (sure := _number(segment, CHANCE_KEYS, at, 0.0, 1.0)) is not None:
            mean = _log(sure)
        if mean is None:
            mean = _mean_of_words(segment, at)
        if mean is not None:
            listed = segment.get("tokens")
            count = 1 + (len(listed) if isinstance(listed, list) else len(text.split()))
            total, tokens, scored = total + mean * count, tokens + count, scored + 1
    joined = " ".join(filter(None, texts))
    if not scored or scored < len(segments):
        return Answer(((joined, 0.0),))
    return Answer(((joined, total),), math.exp(total / tokens))


def _mean_of_words(segment: Json, where: str) -> float | None:
    words = segment.get("words")
    if not isinstance(words, list) or not words:
        return None
    found = [_number(word, CHANCE_KEYS, where, 0.0, 1.0) for word in words if _is_object(word)]
    logs = [_log(value) for value in found if value is not None]
    return sum(logs) / len(logs) if len(logs) == len(words) else None


def _of_whisper_cpp(segments: Sequence[object], where: str) -> Answer:
    texts, logs = [], []
    for number, segment in enumerate(segments):
        at = f"{where}: transcription {number}"
        if not isinstance(segment, dict) or not isinstance(segment.get("text"), str):
            raise _fault(at, "text", segment, "an object with text and offsets")
        offsets = segment.get("offsets")
        if isinstance(offsets, dict):
            _check_times({"start": offsets.get("from"), "end": offsets.get("to")}, at)
        texts.append(segment["text"].strip())
        for token in segment.get("tokens") or ():
            if _is_object(token) and not str(token.get("text", "")).startswith(SPECIAL_TOKEN):
                chance = _number(token, ("p",), at, 0.0, 1.0)
                logs += [] if chance is None else [_log(chance)]
    joined = " ".join(filter(None, texts))
    if not logs:
        return Answer(((joined, 0.0),))
    return Answer(((joined, sum(logs)),), math.exp(sum(logs) / len(logs)))


def _hypotheses(text: str | None, listed: Sequence[object], where: str) -> list[tuple[str, float]]:
    """Return N-best texts, best first; `text`, where it stands beside them, is the first."""
    found: list[tuple[str, float | None]] = []
    for number, item in enumerate(listed):
        at = f"{where}: hypothesis {number}"
        if isinstance(item, list | tuple) and len(item) == 2:
            item = {"text": item[0], "score": item[1]}
        if isinstance(item, str):
            found.append((item, None))
        elif isinstance(item, dict) and isinstance(item.get("text"), str):
            score = _number(item, LOG_KEYS, at, -math.inf, math.inf)
            if score is None and (sure := _number(item, CHANCE_KEYS, at, 0.0, 1.0)) is not None:
                score = _log(sure)
            found.append((item["text"], score))
        else:
            raise _fault(at, "", item, "a text, [text, ln P], or an object with text and score")
    missing = sum(score is None for _, score in found)
    if 0 < missing < len(found):
        raise ModelError(
            f"{where}: {missing} of {len(found)} hypotheses have no score; expected one for each, "
            "or none"
        )
    ranked = sorted(((t, s or 0.0) for t, s in found), key=lambda item: -item[1])
    if text is None:
        return ranked
    top = ranked[0][1]
    own = next((score for other, score in ranked if other == text), top)
    return [(text, max(own, top)), *(item for item in ranked if item[0] != text)]


# --- values -------------------------------------------------------------------------------------


def _is_object(value: object) -> TypeGuard[Json]:
    return isinstance(value, dict)


def _list(content: Json, keys: Iterable[str], where: str) -> Sequence[object] | None:
    for key in keys:
        value = content.get(key)
        if value is not None:
            if not isinstance(value, list):
                raise _fault(where, key, value, "a list")
            return value
    return None


def _number(
    content: Json, keys: Sequence[str], where: str, least: float, most: float
) -> float | None:
    for key in keys:
        value = content.get(key)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            continue
        expected = f"a number from {least:g} to {most:g}" if most < math.inf else "a finite number"
        try:
            number = math.nan if isinstance(value, bool) else float(str(value))
        except ValueError:
            number = math.nan
        if not (least <= number <= most) or not math.isfinite(number):
            raise _fault(where, key, value, expected)
        return number
    return None


def _check_times(segment: Json, where: str) -> None:
    start = _number(segment, ("start",), where, -math.inf, math.inf)
    end = _number(segment, ("end",), where, -math.inf, math.inf)
    if start is not None and end is not None and not 0 <= start <= end:
        raise ModelError(
            f"{where}: lasts from {start:g} to {end:g}, expected times from 0 on whose end is not "
            "before their start"
        )


def _log(chance: float) -> float:
    return math.log(chance) if chance > 0 else -MOST_LOG


def _fault(where: str, key: str, value: object, expected: str) -> ModelError:
    shown = repr(value)[:NUM_SHOWN_CHARACTERS]
    return ModelError(f"{where}: {f'{key} is ' if key else 'holds '}{shown}, expected {expected}")
