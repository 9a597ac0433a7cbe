"""decoder.lm: what it says is what the n-grams say, and damage is named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from distillery.data.units import Unit
from distillery.decoder.word_model import WORD_MODEL_FILE, WordModel, pack, save
from distillery.errors import ModelError
from distillery.language_model.ngrams import END, START, NGramModel, estimate, parts_of

TEXTS = ["go to a", "go to b", "go to a", "stop", "go on", "a b a", "b a to go", "go to a b"]


def score(model: WordModel, text: str) -> float:
    state, total = model.begin, 0.0
    for word in parts_of(text, model.unit):
        chance, state = model.score(state, model.number.get(word, model.unknown))
        total += chance
    return total + model.score(state, model.end)[0]


def expected(model: NGramModel, text: str, unit: Unit) -> float:
    words = [START, *parts_of(text, unit), END]
    return sum(math.log(model.probability(words[i], words[:i])) for i in range(1, len(words)))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("text", ["go to a", "stop stop", "", "b never seen on", "a b a b a"])
def test_it_scores_as_the_model_does(order: int, text: str) -> None:
    model = estimate(TEXTS, order)
    packed = WordModel.from_bytes(pack(model, (), Unit.WORD))
    assert score(packed, text) == pytest.approx(expected(model, text, Unit.WORD), abs=1e-4)


def test_characters_are_words_where_they_are_counted() -> None:
    model = estimate(["天 地人", "天地", "人 天"], 3, Unit.CHARACTER)
    packed = WordModel.from_bytes(pack(model, (), Unit.CHARACTER))
    assert packed.words == sorted(["天", "地", "人", "|"])
    found = score(packed, "天 地")
    assert found == pytest.approx(expected(model, "天 地", Unit.CHARACTER), abs=1e-4)


def test_many_values_become_256_and_stay_near() -> None:
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(words[i : i + 1 + i % 7]) for i in range(400)] * 2
    model = estimate([*texts, *(f"w{i % 50} w{i % 37}" for i in range(900))], 3)
    content = pack(model, (), Unit.WORD)
    packed = WordModel.from_bytes(content)
    for text in texts[::40]:
        near = expected(model, text, Unit.WORD)
        assert score(packed, text) == pytest.approx(near, rel=0.03)
    assert len(content) < 4 * len(model.probabilities) + 6000  # bytes an n-gram, and the tables


def test_words_that_no_text_holds_are_as_likely_as_unknown_ones() -> None:
    packed = WordModel.from_bytes(pack(estimate(TEXTS, 2), ["yes", "go"], Unit.WORD))
    yes = packed.score(packed.begin, packed.number["yes"])[0]
    assert yes == pytest.approx(packed.score(packed.begin, packed.unknown)[0], abs=1e-5)
    assert packed.words.count("go") == 1


def test_letters_of_unknown_words_are_likelier_in_the_order_of_known_ones() -> None:
    packed = WordModel.from_bytes(pack(estimate(TEXTS, 2), ["stow", "stem"], Unit.WORD))
    assert packed.spelling_score("t", "s") > packed.spelling_score("s", "t")
    letters = [*sorted(set("".join(packed.words))), ""]
    for former in letters:
        chances = [math.exp(packed.spelling_score(letter, former)) for letter in letters]
        assert sum(chances) == pytest.approx(1.0, abs=0.05)  # in steps of 1/16 nat


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    one, other = (pack(estimate(texts, 3), (), Unit.WORD) for texts in (TEXTS, TEXTS[::-1]))
    assert one == other
    assert save(one, tmp_path) == save(other, tmp_path)
    assert WordModel.load(tmp_path / WORD_MODEL_FILE).words == sorted({*" ".join(TEXTS).split()})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path, content = tmp_path / WORD_MODEL_FILE, pack(estimate(TEXTS, 3), (), Unit.WORD)
    with pytest.raises(ModelError, match=r"decoder\.lm: no such file"):
        WordModel.load(path)
    rng = np.random.default_rng(0)
    for damaged in (b"", b"text", content[:40], content[:-9], b"DLM2" + content[4:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"decoder\.lm: no language model of this format"):
            WordModel.load(path)
    for place in rng.integers(8, len(content), 30):  # any byte, or it says so
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(ModelError, match="register the model again"):
            WordModel.load(path)
