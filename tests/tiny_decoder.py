"""Decoders of a few texts, for students with random weights."""

from __future__ import annotations

from pathlib import Path

from distillery.data.units import Unit
from distillery.decoder.decoder import DecoderSettings
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.trie import HotWord
from distillery.decoder.word_model import pack, save
from distillery.language_model.ngrams import estimate

TEXTS = ("cab cab", "a cab", "bac cab a", "abba")


def put_decoder(
    folder: Path,
    weights: SearchWeights | None = None,
    hot_words: tuple[HotWord, ...] = (),
    texts: tuple[str, ...] = TEXTS,
) -> None:
    """Write a decoder into a folder."""
    save(pack(estimate(texts, 2), (), Unit.WORD), folder)
    DecoderSettings(weights or SearchWeights(), hot_words, 0.25, 0.5).save(folder)


def is_of_texts(text: str) -> bool:
    """Return whether all words stand in the texts."""
    return set(text.split()) <= set(" ".join(TEXTS).split())
