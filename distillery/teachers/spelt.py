"""What a teacher heard, as it wrote it, spelt as the corpus is: every kind that gives texts.

Hearing is free: the teacher writes `2611` or `café` as it likes. Then the rule of the data
(`PreparedData.spelling`) makes words of numbers and letter strings, and the text rule what students
see. Letters that students have no token for lose their marks (`café` is `cafe`) where they have the
bare one; a text that holds others is no hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.data.languages import of_whisper, plain
from distillery.data.manifest import PreparedData
from distillery.data.spelling import SpellingRule, spell, without_marks
from distillery.data.text import Vocabulary, case_of, normalise
from distillery.errors import ModelError


def spelt(text: str, rule: SpellingRule, vocabulary: Vocabulary, cased: bool = True) -> str | None:
    """Return a text as students are to write it; None where they cannot.

    Args:
        text: as the teacher wrote it.
        rule: how numbers and letter strings are spelt.
        vocabulary: the students' tokens.
        cased: whether the teacher writes words in small letters, see `spell`.
    """
    case = case_of(vocabulary)
    written = normalise(spell(text, rule, cased), case, vocabulary.tokens)
    if vocabulary.unknown(written):
        written = without_marks(written, vocabulary.tokens)
    return None if vocabulary.unknown(written) else written


def spell_hypotheses(
    hypotheses: Sequence[tuple[str, float]],
    rule: SpellingRule,
    vocabulary: Vocabulary,
    cased: bool = True,
) -> list[tuple[str, float]]:
    """Return hypotheses as students are to write them; those that they cannot write are left out.

    Equal spellings are one hypothesis, with their probabilities added; it stands where the first of
    them stood. The list may be empty: such an utterance says nothing, with confidence 0.

    Args:
        hypotheses: texts as the teacher wrote them and their ln P, best first.
        rule: how numbers and letter strings are spelt.
        vocabulary: the students' tokens.
        cased: whether the teacher writes words in small letters, see `spell`.
    """
    scores: dict[str, float] = {}
    for text, score in hypotheses:
        written = spelt(text, rule, vocabulary, cased)
        if written is not None:
            scores[written] = float(np.logaddexp(scores.get(written, -np.inf), score))
    return list(scores.items())


def spell_heard(
    heard: Sequence[tuple[str, float, int]],
    rule: SpellingRule,
    vocabulary: Vocabulary,
    cased: bool = True,
) -> tuple[list[tuple[str, float]], float]:
    """Return hypotheses as students are to write them, and the confidence in the best.

    Formula: confidence = (Σ P(form))^(1/n), over the forms that are spelt as the best one is, with
    the n tokens of that one. Whisper shares its probability among `Go`, `Go!` and `GO`, one text to
    students; without the sum the ready filter drops a fifth of what is right
    (benchmarks/spelling.py).

    Args:
        heard: texts as the teacher wrote them, their ln P and their tokens, best first.
        rule: how numbers and letter strings are spelt.
        vocabulary: the students' tokens.
        cased: whether the teacher writes words in small letters, see `spell`.

    Returns:
        As `spell_hypotheses`; the empty text with confidence 0 where that leaves none.
    """
    pairs = [(text, score) for text, score, _ in heard]
    hypotheses = spell_hypotheses(pairs, rule, vocabulary, cased)
    if not hypotheses:
        return [("", max(score for _, score in pairs))], 0.0
    tokens = next(n for text, _, n in heard if spelt(text, rule, vocabulary, cased) is not None)
    return hypotheses, float(np.exp(min(0.0, hypotheses[0][1]) / max(1, tokens)))


def default_language(task: str, data: PreparedData) -> str | None:
    """Return what is spoken, as Whisper calls it, where the teacher's settings say nothing.

    Args:
        task: `transcribe`; or `translate`, whose texts are in another language than what is spoken.
        data: which know what texts are written in, if anybody said so.
    """
    return of_whisper(data.summary.language) if task == "transcribe" else None


def check_english(model: str, data: PreparedData) -> None:
    """Make sure that a model that knows English alone is not to hear another language.

    Raises:
        ModelError: it is.
    """
    language = data.summary.language
    if language is not None and plain(language) != "en":
        raise ModelError(
            f"teacher.model {model!r} knows English alone, but prepare.language is {language!r}; "
            "take one of several languages, without .en in its name"
        )


def check_language(written: str, rule: SpellingRule, setting: str) -> None:
    """Make sure that numbers are said in the language that a teacher writes.

    Args:
        written: its code, as Whisper has it.
        rule: how numbers are spelt.
        setting: what names that language.

    Raises:
        ModelError: they would be said in another.
    """
    if rule.keeps_numbers:
        return
    if plain(str(rule.language)) != plain(written):
        raise ModelError(
            f"{setting} is {written!r}, but prepare.spelling says numbers in {rule.language!r}; "
            f"set prepare.language to {written}, or prepare.spelling.numbers to keep"
        )
