"""What pocketsphinx is given beside a student, and how both are counted."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pocketsphinx import Split, error_rows, pronunciations, speed_rows, witten_bell
from distillery.language_model.ngrams import ARPA_FILE, END, START

DICTIONARY = "a AH\na(2) EY\nabe EY B\nb B IY\nzero Z IH R OW\nzero(2) Z IY R OW\n"


def test_the_bigram_is_that_of_witten_and_bell(tmp_path: Path) -> None:
    """Of `a b` and `a`: 5 words with the ends, 3 kinds; `a` is followed by 2 kinds, once each."""
    model = witten_bell(["a b", "a"])
    assert model.words == ["a", "b"]
    alone = {word: model.probability(word, []) for word in ("a", "b", END)}
    assert alone == pytest.approx({"a": 3 / 8, "b": 2 / 8, END: 3 / 8})
    assert model.probability("b", ["a"]) == pytest.approx((1 + 2 * 2 / 8) / 4)
    assert model.probability("a", ["a"]) == pytest.approx(2 / 4 * 3 / 8)  # was not seen
    assert model.probability("a", [START]) == pytest.approx((2 + 1 * 3 / 8) / 3)
    for before in ("a", "b", START):
        assert sum(model.probability(word, [before]) for word in alone) == pytest.approx(1)
    model.save(tmp_path / ARPA_FILE)
    lines = (tmp_path / ARPA_FILE).read_text().splitlines()
    assert "ngram 1=4" in lines and "ngram 2=4" in lines
    assert f"{np.log10(3 / 8):.6f}\ta\t{np.log10(2 / 4):.6f}" in lines


def test_each_word_has_all_its_pronunciations_and_a_word_without_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cmu.dict"
    path.write_text(DICTIONARY)
    found = pronunciations(path, ["a", "zero"])
    assert found == "a EY\nzero Z IH R OW\nzero(2) Z IY R OW\n"  # the letter, no article
    with pytest.raises(SystemExit, match=r"cmu.dict: has no pronunciation of \['oh'\]"):
        pronunciations(path, ["a", "oh"])


def test_errors_and_times_of_both_are_of_the_same_utterances() -> None:
    split = Split([], ["a b zero a"] * 20, 100.0)
    student, other = ["a b zero a"] * 19 + ["a b zero"], ["a zero a"] * 20
    rows = {row["name"]: row for row in error_rows(split, student, other, "as it comes")}
    own, theirs, apart = rows.values()
    assert (own["value"], own["holds"]) == (1.25, True)
    assert (theirs["value"], theirs["against"]) == (25.0, "[25.0, 25.0]; as it comes")
    assert (apart["value"], apart["holds"]) == (23.75, True)
    worse = error_rows(split, other, student, "")
    assert [row["holds"] for row in worse] == [False, None, False]
    times = speed_rows(split, np.array([[0.5, 10.0], [0.5, 30.0]]))
    assert [row["value"] for row in times] == [0.01, 0.4, 0.025]
    assert times[-1]["holds"] is True
    assert speed_rows(split, np.array([[3.0, 40.0]]))[-1]["holds"] is False
