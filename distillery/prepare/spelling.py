"""By which rule the numbers and letter strings of a corpus become words, settled before packing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillery.corpora.base import Recording
from distillery.data.manifest import SETTLING
from distillery.data.spelling import AUTO, SpellingRule, settle, spell, writes_small_letters
from distillery.data.spoken import NoLanguage, known_languages, spoken
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams, SpellingParams


@dataclass(frozen=True)
class Spelling:
    """A rule, and what is known of how the transcripts are written."""

    rule: SpellingRule
    cased: bool
    """Whether they use small letters for words."""

    def said(self, written: str) -> str:
        """Return a transcript as it was said, for the text rule."""
        return spell(written, self.rule, self.cased)


def find_spelling(
    params: PrepareParams,
    recordings: Sequence[Recording],
    splits: Mapping[str, str] | None = None,
) -> Spelling:
    """Return the rule of a corpus, by the settings and its transcripts.

    Transcripts of the test split decide nothing, nor do those of the training split where
    `prepare.labelled_fraction` takes some of them away.

    Args:
        params: the section `prepare`.
        recordings: of the whole corpus.
        splits: of each recording; None while they are not drawn: all decide.

    Raises:
        CorpusError: numbers cannot be said in that language, or none is named and they must be.
    """
    settings = params.spelling
    deciding = SETTLING if params.labelled_fraction == 1 else SETTLING[1:]
    told = [
        item.text
        for item in recordings
        if item.text and (splits is None or splits[item.utterance_id] in deciding)
    ]
    if settings.language is not None:
        try:
            spoken(settings.language)
        except NoLanguage as error:
            raise CorpusError(f"prepare.spelling: {error}") from None
    rule = settle(
        settings.numbers,
        settings.letters,
        settings.language,
        params.alphabet,
        told,
        params.language,
    )
    if rule.language is None and rule.numbers != "keep" and params.language is not None:
        raise CorpusError(
            f"prepare.spelling.numbers is {rule.numbers}, but numbers cannot be said in "
            f"prepare.language, {params.language!r}; set it to keep or auto, or "
            f"prepare.spelling.language to one of {', '.join(known_languages())}"
        )
    if rule.language is None and rule.numbers != "keep":
        raise CorpusError(
            f"prepare.spelling.numbers is {rule.numbers}, but nothing says in which language: "
            "texts may hold letters other than a–z; set prepare.language, such as nl"
        )
    return Spelling(rule, writes_small_letters(told))


def recorded(
    settings: SpellingParams, rule: SpellingRule, respelt: Sequence[tuple[str, str]]
) -> SpellingRule | None:
    """Return what summary.json says of the rule: nothing where all is as it was without one."""
    is_default = settings == SpellingParams()
    return None if is_default and not respelt else rule


def say_spelling(
    params: PrepareParams, rule: SpellingRule, respelt: Sequence[tuple[str, str]]
) -> list[str]:
    """Return a line about what became of numbers and letters, none where there was nothing."""
    settings = params.spelling
    if not respelt:
        return []
    written, words = min(respelt)
    is_named = settings.language or params.language
    guessed = "" if is_named or rule.keeps_numbers else " (as a–z suffice)"
    how = " by the transcripts" if AUTO in (settings.numbers, settings.letters) else ""
    return [
        f"spelling: numbers or letter strings of {len(respelt)} transcripts became words, such as "
        f"{written[:60]!r}: {words[:80]!r}; rule{how}: {rule}{guessed}; "
        "prepare.spelling says otherwise"
    ]
