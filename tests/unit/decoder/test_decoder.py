"""A decoder as it lies in a folder: what it reads, what damage says, and hot words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.data.text import Vocabulary
from distillery.decoder.decoder import DECODER_FILE, MAX_GRAMMARS, Decoder
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from tests.tiny_decoder import put_decoder

VOCABULARY = Vocabulary.from_alphabet("abcd")


def spoken(*scores: dict[str, float]) -> np.ndarray:
    """Return log-probabilities with a blank after each frame; what is not named is unlikely."""
    rows = []
    for named in scores:
        row = np.full(len(VOCABULARY), 1e-4)
        for token, chance in named.items():
            row[VOCABULARY.tokens.index(token)] = chance
        rows += [row / row.sum(), np.eye(len(VOCABULARY))[0] * 0.99 + 1e-3]
    return np.log(np.array(rows)).astype(np.float32)


CAB = spoken({"c": 0.9, "d": 0.1}, {"a": 1.0}, {"b": 0.6, "d": 0.4})
"""Sounds like cab, or cad, or dab."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_decoder(tmp_path, SearchWeights(0.5, 0.0, -2.0))
    return tmp_path


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert Decoder.find(tmp_path, VOCABULARY) is None


def test_a_decoder_is_what_was_saved(folder: Path) -> None:
    decoder = Decoder.find(folder, VOCABULARY)
    assert decoder is not None
    assert decoder.settings.weights == SearchWeights(0.5, 0.0, -2.0)
    assert (decoder.settings.valid_rate, decoder.settings.valid_rate_greedy) == (0.25, 0.5)
    assert decoder.num_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert decoder.n_best(CAB, 3)[0].text == "cab"
    assert decoder.text(CAB) == "cab"


def test_hot_words_are_written_though_the_lexicon_lacks_them(folder: Path) -> None:
    decoder = Decoder.load(folder, VOCABULARY)
    assert decoder.text(CAB, [HotWord("cad", 6.0)]) == "cad"
    assert decoder.text(CAB, [HotWord("cad", 0.0)]) == "cab"
    assert decoder.text(CAB) == "cab"  # the request's alone
    put_decoder(folder, SearchWeights(0.5, 0.0, None), (HotWord("dab", 3.0),))
    closed = Decoder.load(folder, VOCABULARY)
    assert closed.text(CAB, [HotWord("cad", 9.0)]) == "cad"
    assert closed.text(CAB, [HotWord("dab", 9.0)]) == "dab"  # the request's weight counts


def test_a_student_without_a_decoder_can_have_hot_words() -> None:
    letters = Decoder.of_letters(VOCABULARY)
    heard = spoken({"c": 0.9}, {"a": 1.0}, {"d": 0.6, "b": 0.4}, {"|": 0.9}, {"b": 0.9})
    assert letters.text(heard) == "cad b"
    assert letters.text(heard, [HotWord("cab", 5.0)]) == "cab b"
    assert letters.text(heard, [HotWord("cab b", 5.0)]) == "cab b"
    assert letters.text(heard, [HotWord("cab a", 5.0)]) == "cad b"


@pytest.mark.parametrize(
    ("hot", "message"),
    [
        (HotWord("zebra", 3.0), r"hot word 'zebra': the model has no token for \['e', 'r', 'z'\]"),
        (HotWord("", 3.0), "holds no word"),
    ],
)
def test_hot_words_that_cannot_be_written_are_named(
    folder: Path, hot: HotWord, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Decoder.load(folder, VOCABULARY).text(CAB, [hot])


def test_the_digest_is_of_all_that_decides_the_texts(folder: Path, tmp_path: Path) -> None:
    digests = {Decoder.load(folder, VOCABULARY).digest}
    put_decoder(folder, SearchWeights(0.75, 0.0, -2.0))
    digests.add(Decoder.load(folder, VOCABULARY).digest)
    put_decoder(folder, SearchWeights(0.75, 0.0, -2.0), (HotWord("a", 1.0),))
    digests.add(Decoder.load(folder, VOCABULARY).digest)
    put_decoder(folder, SearchWeights(0.75, 0.0, -2.0), (HotWord("a", 1.0),), ("a b",))
    digests.add(Decoder.load(folder, VOCABULARY).digest)
    assert len(digests) == 4


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weights": {"weigth": 1}, "hot_words": []}'])
def test_a_damaged_description_is_named(folder: Path, content: str) -> None:
    (folder / DECODER_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"decoder\.json: cannot be used"):
        Decoder.find(folder, VOCABULARY)


def test_half_a_decoder_is_none(folder: Path) -> None:
    (folder / DECODER_FILE).unlink()
    with pytest.raises(ModelError, match=r"decoder\.json: cannot be used"):
        Decoder.find(folder, VOCABULARY)


class Crowded(dict[Any, Any]):
    """Grammars of which another thread drops each as soon as it is there."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        del self[key]


def test_requests_with_hot_words_of_their_own_do_not_harm_each_other(folder: Path) -> None:
    """A server runs them in threads, and few grammars are kept."""
    decoder = Decoder.load(folder, VOCABULARY)
    decoder._grammars = Crowded()
    assert decoder.text(CAB, [HotWord("cad", 6.0)]) == "cad"


def test_few_grammars_are_kept(folder: Path) -> None:
    decoder = Decoder.load(folder, VOCABULARY)
    for weight in range(2 * MAX_GRAMMARS):
        decoder.begin([HotWord("cad", float(weight))])
    assert len(decoder._grammars) == MAX_GRAMMARS
