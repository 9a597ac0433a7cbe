"""What a decoder is learnt from, how small it gets, and the weights that validation chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder import making
from distillery.decoder.making import describe, learn, tune, tuning_rows
from distillery.decoder.trie import HotWord
from distillery.errors import CorpusError, ModelError
from distillery.params.decoder import DecoderParams
from tests.tiny_workspaces import put_tones
from tests.unit.decoder.test_decoder import spoken

VOCABULARY = Vocabulary.from_alphabet("abcd")


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    put_tones(tmp_path)
    return PreparedData.open(tmp_path / "data/prepared")


def params(**changes: Any) -> DecoderParams:
    return DecoderParams.model_validate(changes)


def test_files_and_lexicon_stand_beside_the_texts(data: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "orders.txt").write_text("A bab.\nbab cab\n")
    (tmp_path / "words.txt").write_text("abba\nbacca\n")
    settings = params(
        language_model={"files": ["orders.txt"]},
        lexicon={"files": ["words.txt"]},
        hot_words=["Cab!", {"text": "a bab", "weight": 2}],
    )
    learnt = learn(tmp_path, data, ["ab ab"], settings)
    assert learnt.model.words == ["a", "ab", "abba", "bab", "bacca", "cab"]
    assert learnt.hot_words == (HotWord("cab", 4.0), HotWord("a bab", 2.0))
    chance, _ = learnt.model.score(learnt.model.begin, learnt.model.number["bacca"])
    assert chance < learnt.model.score(learnt.model.begin, learnt.model.number["bab"])[0]


def test_n_grams_are_dropped_until_the_file_is_small_enough(
    data: PreparedData, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "ab", "cab", "bab", "abb"], 6)) for _ in range(200)]
    whole = learn(tmp_path, data, texts, params(language_model={"prune": 0}))
    limit = 2 * len(whole.content) // 3
    small = learn(tmp_path, data, texts, params(language_model={"prune": 0, "max_bytes": limit}))
    assert len(small.content) <= limit < len(whole.content)
    assert small.model.words == whole.model.words
    with pytest.raises(ModelError, match=r"max_bytes is 100, but the 5 words alone take \d+ bytes"):
        learn(tmp_path, data, texts, params(language_model={"max_bytes": 100}))


def test_nothing_to_learn_from_is_told(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no text holds a word, expected some; name text files"):
        learn(tmp_path, data, [], params())


def test_weights_are_those_of_the_fewest_errors(data: PreparedData, tmp_path: Path) -> None:
    """What sounds like dab is cab by the texts; an unknown word is nobody's."""
    settings = params(weights=[0.0, 1.0], word_scores=[0.0], unknown_scores=[-3.0, 0.0, 9.0])
    texts = ["cab"] * 20 + ["dab", "a"]
    learnt = learn(tmp_path, data, [t for t in texts if t != "dab"] + ["bab"], settings)
    dab = spoken({"b": 0.55, "c": 0.45}, {"a": 1.0}, {"b": 1.0})
    decoder = tune(learnt, VOCABULARY, [dab], ["cab"], Unit.WORD)
    assert decoder.settings.weights.weight == 1.0
    assert decoder.settings.weights.unknown_score == 0.0
    assert (decoder.settings.valid_rate, decoder.settings.valid_rate_greedy) == (0.0, 1.0)
    assert "weight 1, word score 0, unknown words 0; validation WER 0.0 % with it, 100.0 %" in (
        describe("conv", decoder, Unit.WORD)
    )
    other = tune(learnt, VOCABULARY, [dab], ["bab"], Unit.WORD)
    assert other.settings.weights.weight == 0.0  # of equals the smallest


def test_only_listed_words_where_the_settings_say_so(data: PreparedData, tmp_path: Path) -> None:
    settings = params(lexicon={"unknown_words": False})
    learnt = learn(tmp_path, data, ["cab"], settings)
    decoder = tune(learnt, VOCABULARY, [spoken({"d": 1.0})], ["d"], Unit.WORD)
    assert decoder.settings.weights.unknown_score is None
    assert decoder.text(spoken({"d": 1.0})) == ""
    open_one = tune(learn(tmp_path, data, ["cab"], params()), VOCABULARY, [spoken({"d": 1.0})],
                    ["d"], Unit.WORD)  # fmt: skip
    assert open_one.text(spoken({"d": 1.0})) == "d"


def test_long_validation_is_tuned_on_a_part(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = tuning_rows(data)
    assert len(everything) == len(data.references("valid")) > 1
    longest = float(everything["duration_seconds"].max())
    monkeypatch.setattr(making, "MAX_TUNING_SECONDS", 1.5 * longest)
    part = tuning_rows(data)
    assert 0 < len(part) < len(everything)
    monkeypatch.setattr(making, "MAX_TUNING_SECONDS", 0.0)
    assert len(tuning_rows(data)) == 1
    data.frame.loc[data.frame["split"] == "valid", "text"] = ""
    with pytest.raises(CorpusError, match="no validation utterance has a transcript with a word"):
        tuning_rows(data)
