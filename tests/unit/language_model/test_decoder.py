import itertools
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.errors import ModelError
from distillery.language_model.decoder import LanguageModelDecoder, tune
from distillery.language_model.ngrams import END, START, NGramModel, estimate, write_lexicon
from distillery.language_model.settings import SearchSettings, Tuned, read_decoder, read_tuned
from distillery.models.decoding import greedy_text

LETTERS = Vocabulary.from_alphabet("ab")  # blank, |, a, b
SENTENCES = ["a b", "ab a", "b", "a ab", "aa b", "a b"]
WIDE = SearchSettings(weight=0.7, word_score=0.3, beam_size=2000, beam_threshold=1000.0)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def model() -> NGramModel:
    return estimate(SENTENCES, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: NGramModel) -> Path:
    path = tmp_path_factory.mktemp("decoder")
    model.save(path / "lm.arpa")
    write_lexicon(model.words, LETTERS, path / "lexicon.txt")
    return path


def posteriors(seed: int, frames: int, vocab: int = len(LETTERS)) -> np.ndarray:
    """Return random log-probabilities `(frames, vocab)`, float32."""
    scores = np.random.default_rng(seed).normal(0, 2, (frames, vocab))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def saying(*texts: str) -> np.ndarray:
    """Return log-probabilities `(frames, vocab)` of one frame per character, 0.7 sure of each."""
    tokens = [token for text in texts for token in LETTERS.encode(text)]
    chances = np.full((len(tokens), len(LETTERS)), 0.1)
    chances[np.arange(len(tokens)), tokens] = 0.7
    return np.log(chances).astype(np.float32)


def log_probability(model: NGramModel, text: str) -> float:
    """Return ln P of a whole sentence, its end included."""
    words = [START, *text.split(), END]
    steps = ((words[place], words[:place]) for place in range(1, len(words)))
    return sum(math.log(model.probability(word, history)) for word, history in steps)


def scores_by_hand(log_probs: np.ndarray, model: NGramModel) -> dict[str, float]:
    """Return the score of every text of known words: all paths that give it, and the model."""
    sums: dict[str, float] = defaultdict(float)
    frames, vocab = log_probs.shape
    for steps in itertools.product(range(vocab), repeat=frames):
        text = LETTERS.decode([token for token, _ in itertools.groupby(steps)])
        sums[text] += math.exp(sum(log_probs[t, v] for t, v in enumerate(steps)))
    return {
        text: math.log(chance)
        + WIDE.weight * log_probability(model, text)
        + WIDE.word_score * len(text.split())
        for text, chance in sums.items()
        if set(text.split()) <= set(model.words)
    }


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_a_wide_search_finds_the_texts_of_highest_score(
    seed: int, folder: Path, model: NGramModel
) -> None:
    log_probs = posteriors(seed, 5)
    scores = scores_by_hand(log_probs, model)
    (found,) = LanguageModelDecoder(folder, LETTERS, WIDE).n_best([log_probs], 3)
    assert len(set(found)) == 3
    wanted = sorted(scores.values(), reverse=True)[:3]
    assert [scores[text] for text in found] == pytest.approx(wanted, abs=1e-3)


def test_a_text_scores_its_model_and_its_words(folder: Path, model: NGramModel) -> None:
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.5, 2.0, 10, 25.0))
    wanted = 0.5 * log_probability(model, "ab a b") + 3 * 2.0
    assert decoder.text_score("ab a b") == pytest.approx(wanted, abs=1e-4)
    assert decoder.text_score("") == pytest.approx(0.5 * log_probability(model, ""), abs=1e-4)


def test_what_was_never_transcribed_is_not_written(folder: Path) -> None:
    log_probs = saying("ba b")  # "ba" is no word of the transcripts
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.5, 0.0, 50, 25.0))
    ((text,),) = decoder.n_best([log_probs])
    assert greedy_text(log_probs, LETTERS) == "ba b"
    assert set(text.split()) <= {"a", "aa", "ab", "b"}


def test_the_last_word_needs_no_boundary_behind_it(folder: Path) -> None:
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.0, 0.0, 50, 25.0))
    assert decoder.n_best([saying("a ab"), saying("a ab ")]) == [["a ab"], ["a ab"]]


def test_the_language_model_decides_what_sounds_alike(folder: Path) -> None:
    alike = np.log([[0.02, 0.02, 0.48, 0.48]]).astype(np.float32)  # a or b, and what follows
    items = [np.concatenate([alike, saying(" b")])]
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(1.0, 0.0, 50, 25.0))
    assert decoder.n_best(items) == [["a b"]]  # "b b" stands in no transcript


def test_impossible_frames_and_no_frames_are_taken(folder: Path) -> None:
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.0, 0.0, 50, 25.0))
    certain = np.where(saying("ab") > math.log(0.5), 0.0, -math.inf)
    assert decoder.n_best([certain, np.zeros((0, 4), np.float32)], 2) == [["ab"], [""]]


def test_equal_words_in_different_batches_get_equal_texts(folder: Path) -> None:
    items = [posteriors(seed, 12) for seed in range(4)]
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.5, 0.5, 20, 25.0))
    together = decoder.n_best(items, 2)
    assert [decoder.n_best([item], 2)[0] for item in items] == together


# --- tuning --------------------------------------------------------------------------------------


def test_tuning_takes_the_pair_of_fewest_word_errors(folder: Path) -> None:
    references = ["a b", "ab a", "b", "aa b"]
    items = [posteriors(seed, 8) for seed in range(4)]
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(0.0, 0.0, 50, 25.0))
    weights, word_scores = [2.0, 0.5], [3.0, -3.0]
    wers = {}
    for pair in itertools.product(weights, word_scores):
        decoder.use(SearchSettings(*pair, 50, 25.0))
        tuned = tune(decoder, items, references, LETTERS, [pair[0]], [pair[1]])
        wers[pair] = tuned.valid_wer
    best = tune(decoder, items, references, LETTERS, weights, word_scores)
    assert best.valid_wer == min(wers.values())
    assert wers[best.settings.weight, best.settings.word_score] == best.valid_wer
    assert decoder.settings == best.settings
    assert best.settings.beam_size == 50
    assert len(set(wers.values())) > 1


def test_of_equally_good_pairs_the_smallest_wins(folder: Path) -> None:
    decoder = LanguageModelDecoder(folder, LETTERS, SearchSettings(9.0, 9.0, 50, 25.0))
    items = [saying("a b")]
    tuned = tune(decoder, items, ["a b"], LETTERS, [0.5, 0.25], [0.5, -0.25, 0.25])
    assert tuned == Tuned(SearchSettings(0.25, -0.25, 50, 25.0), 0.0, 0.0)


# --- files ---------------------------------------------------------------------------------------


def copy(folder: Path, target: Path, **changes: str) -> Path:
    """Copy a decoder's folder, some files given other content; an empty one is left out."""
    for name in ("lm.arpa", "lexicon.txt"):
        content = changes.get(name.partition(".")[0], (folder / name).read_text("utf-8"))
        if content:
            (target / name).write_text(content, "utf-8")
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm": ""}, r"lm\.arpa: no such file; run make cache"),
        ({"lm": "\\data\\\nngram 1=x\n"}, r"lm\.arpa: not a language model that KenLM reads: "),
        ({"lexicon": ""}, r"lexicon\.txt: no such file; run make cache"),
        ({"lexicon": "a\ta |\nb\n"}, r"lexicon\.txt: line 2: 'b' has no spelling, expected a word"),
        ({"lexicon": "a\ta |\n\n"}, r"lexicon\.txt: line 2: '' has no spelling, expected a word"),
        ({"lexicon": "ac\ta c |\n"}, r"lexicon\.txt: line 1: 'ac\\ta c \|' spells with 'c'"),
    ],
)
def test_damaged_files_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        LanguageModelDecoder(copy(folder, tmp_path, **changes), LETTERS, WIDE)


def test_what_was_tuned_is_read_back_and_decides_the_fingerprint(
    folder: Path, tmp_path: Path
) -> None:
    copy(folder, tmp_path)
    tuned = Tuned(SearchSettings(0.5, 1.0, 20, 25.0), 0.25, 0.5, "abc")
    tuned.save(tmp_path)
    assert read_tuned(tmp_path) == tuned
    assert LanguageModelDecoder.load(tmp_path, LETTERS).settings == tuned.settings
    saved = read_decoder(tmp_path)
    assert saved.settings == tuned.settings
    assert {"weight": 0.5, "word_score": 1.0, "beam_size": 20}.items() <= saved.fields.items()
    assert set(saved.fields) - {"weight", "word_score", "beam_size", "beam_threshold"} == {
        "lm.arpa",
        "lexicon.txt",
    }
    Tuned(SearchSettings(0.5, 1.0, 20, 25.0), 0.5, 0.5).save(tmp_path)
    assert read_decoder(tmp_path) == saved  # what it measured decides no text
    copy(folder, tmp_path, lexicon="a\ta |\n")
    assert read_decoder(tmp_path) != saved
    (tmp_path / "lm.arpa").unlink()
    with pytest.raises(ModelError, match=r"lm\.arpa: missing or unreadable; run make cache"):
        read_decoder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"valid_wer": 0.1})])
def test_an_unreadable_decoder_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "decoder.json").write_text(content, "utf-8")
    with pytest.raises(ModelError, match=r"decoder\.json: missing or unreadable; run make cache"):
        read_tuned(tmp_path)


# --- characters ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose words are characters: `b` follows `a`, as in `今天`."""
    path = tmp_path_factory.mktemp("characters")
    model = estimate(["ab", "abab", "ab ab", "b"], 2, Unit.CHARACTER)
    assert model.words == ["a", "b", "|"]
    model.save(path / "lm.arpa")
    write_lexicon(model.words, LETTERS, path / "lexicon.txt", Unit.CHARACTER)
    assert (path / "lexicon.txt").read_text() == "a\ta\nb\tb\n"
    return path


def test_a_lexicon_tells_what_its_words_are(folder: Path, characters: Path) -> None:
    assert LanguageModelDecoder(folder, LETTERS, WIDE).unit is Unit.WORD
    assert LanguageModelDecoder(characters, LETTERS, WIDE).unit is Unit.CHARACTER


def test_characters_are_written_without_spaces_but_those_that_are_heard(characters: Path) -> None:
    decoder = LanguageModelDecoder(characters, LETTERS, SearchSettings(0.1, 0.0, 50, 25.0))
    assert decoder.n_best([saying("abab"), saying("ab ab")]) == [["abab"], ["ab ab"]]
    twice = np.insert(saying("aa"), 1, saying("a")[0][[2, 1, 0, 3]], axis=0)  # a blank between
    assert decoder.n_best([twice]) == [["aa"]]
    long = np.repeat(saying("ab"), 3, axis=0)  # a character lasts for several frames
    assert decoder.n_best([long]) == [["ab"]]
    alike = np.log([[0.02, 0.02, 0.48, 0.48]]).astype(np.float32)  # a or b
    decoder.use(SearchSettings(2.0, 0.0, 50, 25.0))
    assert decoder.n_best([np.concatenate([saying("a"), alike])]) == [["ab"]]


def test_a_text_of_characters_scores_each_of_them(characters: Path) -> None:
    decoder = LanguageModelDecoder(characters, LETTERS, SearchSettings(0.5, 2.0, 10, 25.0))
    model = estimate(["ab", "abab", "ab ab", "b"], 2, Unit.CHARACTER)
    wanted = 0.5 * log_probability(model, "a b | a b") + 4 * 2.0
    assert decoder.text_score("ab ab") == pytest.approx(wanted, abs=1e-4)


def test_a_wide_search_of_characters_finds_the_texts_of_highest_score(characters: Path) -> None:
    model = estimate(["ab", "abab", "ab ab", "b"], 2, Unit.CHARACTER)
    decoder = LanguageModelDecoder(characters, LETTERS, WIDE)
    for seed in range(5):
        log_probs = posteriors(seed, 4)
        sums: dict[str, float] = defaultdict(float)
        for steps in itertools.product(range(len(LETTERS)), repeat=len(log_probs)):
            tokens = [token for token, _ in itertools.groupby(steps)]
            text = LETTERS.decode(tokens)
            said = "".join(LETTERS.tokens[token] for token in tokens if token)
            if said.removeprefix("|") == text.replace(" ", "|"):  # a space in front is silence
                sums[text] += math.exp(sum(log_probs[t, v] for t, v in enumerate(steps)))
        scores = {
            text: math.log(chance)
            + WIDE.weight * log_probability(model, " ".join(text.replace(" ", "|")))
            + WIDE.word_score * len(text.replace(" ", ""))
            for text, chance in sums.items()
        }
        ((best,),) = decoder.n_best([log_probs])
        assert scores[best] == pytest.approx(max(scores.values()), abs=0.2)


def test_tuning_counts_characters(characters: Path) -> None:
    decoder = LanguageModelDecoder(characters, LETTERS, SearchSettings(0.0, 0.0, 50, 25.0))
    tuned = tune(decoder, [saying("abab")], ["abaa"], LETTERS, [0.0], [0.0])
    assert tuned.valid_wer == tuned.valid_wer_greedy == 0.25  # one of four, not one of one


def test_tuning_counts_what_validation_is_judged_by(folder: Path) -> None:
    decoder = LanguageModelDecoder(folder, LETTERS, WIDE)
    tuned = tune(decoder, [saying("a b")], ["b; a"], LETTERS, [0.0], [0.0], Unit.PHRASE)
    assert (tuned.valid_wer, tuned.valid_wer_greedy) == (0.0, 0.0)
    assert tune(decoder, [saying("a b")], ["b a"], LETTERS, [0.0], [0.0]).valid_wer > 0
