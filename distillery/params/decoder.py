"""The part `register.decoder`: what a registered student searches its texts with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distillery.params.base import (
    NonEmptyText,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class NGramParams(Section):
    """The n-grams: what they are learnt from, and how small they have to be."""

    learns_from: Literal["transcripts", "teacher", "both", "files"] = "both"
    """Training transcripts; texts of the teacher that distill.filter keeps; `both`: transcripts,
    and the teacher's where there is none; or `files` alone."""
    files: tuple[NonEmptyText, ...] = ()
    """Text files of the domain, one sentence a line, read beside the others: paths from the
    workspace. Numbers and letters are spelt as the corpus's are."""
    order: Annotated[int, Field(ge=1, le=5)] = 3
    """Words in the longest n-grams; more knows longer phrases and needs more texts."""
    prune: NonNegativeFloat = 1e-7
    """N-grams that raise the perplexity by a smaller share are left out; more makes it smaller."""
    max_bytes: PositiveInt = 500_000
    """Size of the file, words included; pruning goes on until it fits."""


class LexiconParams(Section):
    """The words that are expected."""

    files: tuple[NonEmptyText, ...] = ()
    """Text files whose words are added to those of the n-grams, such as one word a line."""
    unknown_words: bool = True
    """Whether other words can be written, letter by letter and at a cost; false: only those
    listed, and hot words."""


class HotWordParams(Section):
    """A word or phrase that is expected more than texts tell."""

    text: NonEmptyText
    """As transcripts write it."""
    weight: Annotated[float, Field(ge=0.0, le=100.0)] = 4.0
    """Nats that it adds to a text's score; much more crowds other texts out."""


def _as_section(value: Any) -> Any:
    """Return `{text: …}` for a text alone."""
    return {"text": value} if isinstance(value, str) else value


class DecoderParams(Section):
    """What a student is served with in place of its best path: a search with n-grams, a lexicon and
    hot words; its weights are those of the lowest error rate on the validation split."""

    language_model: NGramParams = NGramParams()
    """N-grams of words, or of characters where these are counted."""
    lexicon: LexiconParams = LexiconParams()
    """Words; nothing where characters are counted."""
    hot_words: tuple[Annotated[HotWordParams, BeforeValidator(_as_section)], ...] = ()
    """Texts, or `{text: …, weight: …}`; requests may bring more."""
    weights: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
        1.5,
    )
    """How much the n-grams count against the audio: what is tried; larger trusts them more."""
    word_scores: Annotated[tuple[Finite, ...], Field(min_length=1)] = (0.0, 1.0, 2.0, 3.0)
    """What each word adds, in nats: what is tried; larger makes up for short texts."""
    unknown_scores: Annotated[tuple[Finite, ...], Field(min_length=1)] = (-3.0, 0.0, 3.0)
    """What a word adds that the lexicon lacks, in nats: what is tried; of equals the nearest to 0,
    which stands where validation holds no such word. Larger writes more of them."""
    beam_size: PositiveInt = 10
    """Prefixes kept at each frame; more finds better texts and takes longer."""
    beam_threshold: PositiveFloat = 10.0
    """Nats below the best at which a prefix is given up; more searches longer."""

    @property
    def files(self) -> tuple[str, ...]:
        """All text files that it is made from."""
        return (*self.language_model.files, *self.lexicon.files)
