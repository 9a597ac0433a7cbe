"""A tuned decoder as it is saved, beside its language model: decoder.json.

Imports no model code: whether a cache fits its decoder can be told without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import Json, digest_of_file, write_json
from distillery.language_model.ngrams import ARPA_FILE, LEXICON_FILE

DECODER_FILE = "decoder.json"
DECODER_FILES = (ARPA_FILE, LEXICON_FILE, DECODER_FILE)


@dataclass(frozen=True)
class SearchSettings:
    """What decides a search beside the language model."""

    weight: float
    """Factor of ln P(W)."""
    word_score: float
    """Nats added for every word; larger makes more and shorter words."""
    beam_size: int
    """Beams kept at each frame; more finds better texts and takes longer."""
    beam_threshold: float
    """Nats below the best at which a beam is given up; larger searches more and takes longer."""


@dataclass(frozen=True)
class Tuned:
    """The settings that the validation split chose, and what it says of them."""

    settings: SearchSettings
    valid_wer: float
    """With the language model, as a fraction."""
    valid_wer_greedy: float
    """Of the best path, as a fraction."""
    made_from: str = ""
    """Digest of all that language model and weights come from."""

    def save(self, folder: Path) -> None:
        """Write decoder.json beside the language model."""
        content = asdict(self)
        write_json(folder / DECODER_FILE, {**content.pop("settings"), **content})


def read_tuned(folder: Path) -> Tuned:
    """Read decoder.json.

    Raises:
        ModelError: it is missing, or not what this Distillery writes.
    """
    path = folder / DECODER_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        names = ("valid_wer", "valid_wer_greedy", "made_from")
        found = {name: content.pop(name) for name in names}
        return Tuned(SearchSettings(**content), **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: missing or unreadable; run make cache") from None


@dataclass(frozen=True)
class SavedDecoder:
    """What decides the texts of a saved decoder."""

    settings: SearchSettings
    files: Mapping[str, str]
    """SHA-256 of each other file that it reads, by name."""

    @property
    def fields(self) -> Json:
        """All of it under one roof, as a cache's namespace holds it."""
        return {**asdict(self.settings), **self.files}


def read_decoder(folder: Path) -> SavedDecoder:
    """Read what decides the texts of a saved decoder.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    if missing := [name for name in DECODER_FILES if not (folder / name).exists()]:
        raise ModelError(f"{folder / missing[0]}: missing or unreadable; run make cache")
    return SavedDecoder(
        read_tuned(folder).settings,
        {name: digest_of_file(folder / name) for name in DECODER_FILES if name != DECODER_FILE},
    )
