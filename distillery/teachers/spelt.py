"""What a teacher heard, as it wrote it, spelt as the corpus is: every kind that gives texts.

Hearing is free: the teacher writes `2611` or `café` as it likes. Then the rule of the data
(`PreparedData.spelling`) makes words of numbers and letter strings, and the text rule what students
see. Letters that students have no token for lose their marks (`café` is `cafe`) where they have the
bare one; a text that holds others is no hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.data.spelling import SpellingRule, spell, without_marks
from distillery.data.text import Vocabulary, normalise
from distillery.teachers.token_map import case_of


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
