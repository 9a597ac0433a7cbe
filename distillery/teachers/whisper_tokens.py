"""Whisper's tokens: those that begin every text, and those that students cannot spell."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from distillery.data.text import Vocabulary, case_of, normalise
from distillery.errors import ModelError
from distillery.params.teacher import TransformersTeacherParams
from distillery.teachers.backend import Published


def find_prompt(
    folder: Path,
    tokenizer: Any,
    generation: Published,
    params: TransformersTeacherParams,
) -> list[int]:
    """Return the tokens that every text begins with: start, language and task, no time-stamps.

    Args:
        folder: of the model, for errors.
        tokenizer: of the model.
        generation: its generation_config.json.
        params: language and task.

    Raises:
        ModelError: the model does not know the language, or the tokenizer is no Whisper's.
    """
    wanted = ["<|startoftranscript|>"]
    if generation.get("is_multilingual", False):
        known = sorted(token[2:-2] for token in generation["lang_to_id"])
        if params.whisper.language not in known:
            raise ModelError(
                f"teacher.whisper.language: {params.whisper.language!r}, expected one of "
                f"{', '.join(known)}"
            )
        wanted += [f"<|{params.whisper.language}|>", f"<|{params.whisper.task}|>"]
    wanted.append("<|notimestamps|>")
    held = tokenizer.get_vocab()
    if missing := [name for name in wanted if name not in held]:
        raise ModelError(
            f"{folder}: the tokenizer has no token {missing[0]}, expected Whisper's; take it from "
            "the model's own folder"
        )
    return [held[name] for name in wanted]


def barred_tokens(tokenizer: Any, vocabulary: Vocabulary) -> list[int]:
    """Return the tokens with a character that no token of the students spells, in any place.

    Pieces of a character's bytes are barred where the students have ASCII characters alone.
    """
    case = case_of(vocabulary)
    # Between letters, apostrophes count and marks join what stands before them.
    letter = next((token for token in vocabulary.tokens[1:] if token.isalpha()), "")
    ascii_only = all(token.isascii() for token in vocabulary.tokens)
    special = set(tokenizer.all_special_ids)
    barred = []
    for index in range(len(tokenizer)):
        if index not in special:
            text = unicodedata.normalize("NFC", tokenizer.decode([index]))
            inside = normalise(f"{letter}{text}{letter}", case, vocabulary.tokens)
            if vocabulary.unknown(inside) or (ascii_only and "\ufffd" in text):
                barred.append(index)
    return barred


def digest_of_tokenizer(tokenizer: Any) -> str:
    """Return the SHA-256 of everything that a tokenizer does."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
