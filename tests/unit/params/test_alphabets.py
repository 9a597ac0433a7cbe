"""Alphabets of languages, for data without transcripts."""

from __future__ import annotations

import unicodedata

import pytest
from pydantic import ValidationError

from distillery.data.text import normalise
from distillery.params.alphabets import BEYOND_LATIN, LATIN, alphabet_of
from distillery.params.prepare import PrepareParams

SAID = {
    "de": "größe über öl äpfel",
    "es": "qué niño pingüino",
    "fr": "cœur où ça été être naïf",
    "it": "perché così più",
    "nl": "één coördinatie hè",
    "pl": "zażółć gęślą jaźń",
    "pt": "ação você à",
    "ro": "înțelepții șoptesc lângă",
    "tr": "ılık çağrı göl şüphe",
    "vi": "tiếng việt đường phở ngữ",
}


@pytest.mark.parametrize("language", SAID)
def test_a_language_is_written_with_its_alphabet(language: str) -> None:
    alphabet = alphabet_of(language)
    assert alphabet is not None
    assert set(normalise(SAID[language], "lower")) <= set(alphabet) | {" "}


@pytest.mark.parametrize("case", ["lower", "upper", "keep"])
@pytest.mark.parametrize("language", BEYOND_LATIN)
def test_every_alphabet_is_one_that_texts_can_hold(language: str, case: str) -> None:
    params = PrepareParams.model_validate(
        {"corpus": "manifest", "source": "x", "language": language, "case": case}
    )
    assert params.alphabet == alphabet_of(language, case)
    assert params.alphabet is not None
    assert params.alphabet == unicodedata.normalize("NFC", params.alphabet)


def test_what_is_written_down_comes_before_the_language() -> None:
    given = {"corpus": "manifest", "source": "x", "language": "de", "alphabet": "abc"}
    assert PrepareParams.model_validate(given).alphabet == "abc"
    free = PrepareParams.model_validate({**given, "alphabet": None})
    assert free.alphabet is None
    assert free.alphabet_without_texts == LATIN + "äöüß"
    assert PrepareParams(corpus="manifest", source="x").alphabet == LATIN


def test_a_language_that_is_not_listed_is_asked_for() -> None:
    with pytest.raises(ValidationError, match=r"alphabet of 'cs' is not known.*into alphabet"):
        PrepareParams(corpus="manifest", source="x", language="cs")
    assert PrepareParams(corpus="manifest", source="x", language="cs", alphabet="abč").alphabet
