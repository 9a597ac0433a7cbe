"""Numbers and letter strings of transcripts become words, alike in every split."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillery.data.manifest import PreparedData
from distillery.data.spelling import SpellingRule
from distillery.errors import CorpusError
from tests.unit.prepare.test_prepare import SPLITS, Corpus


@pytest.fixture
def corpus(tmp_path: Path, write_recording: Callable[..., np.ndarray]) -> Corpus:
    return Corpus(tmp_path, write_recording)


def texts(data: PreparedData, prefix: str) -> dict[str, str]:
    rows = data.frame[data.frame["utterance_id"].str.startswith(prefix)]
    return dict(zip(rows["split"], rows["text"], strict=True))


def recorded(corpus: Corpus) -> object:
    return json.loads((corpus.prepared / "summary.json").read_text("utf-8")).get("spelling")


def test_references_with_digits_are_words_in_every_split(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    corpus.add_one_per_split()
    for split in SPLITS:
        corpus.add(f"n-{split}", split, text="Room 21")
    with caplog.at_level(logging.INFO):
        data = corpus.prepare()
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "room two one")
    assert corpus.dropped() == {}
    rows = data.frame[data.frame["utterance_id"].str.startswith("n-")]
    assert set(rows["text_original"]) == {"Room 21"}
    assert recorded(corpus) == {"numbers": "digits", "letters": "keep", "language": "en"}
    assert "letter strings of 3 transcripts became words, such as 'Room 21'" in caplog.text
    assert data.spelling == data.summary.spelling


def test_what_transcripts_write_decides(corpus: Corpus) -> None:
    for split in SPLITS:
        corpus.add(f"a-{split}", split, text="x k i t b two six one one")
        corpus.add(f"n-{split}", split, text="Enter QV39")
    data = corpus.prepare()
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "enter qv three nine")
    assert data.spelling == SpellingRule("digits", "keep", "en")  # QV39 was written, and x k i
    data = corpus.prepare(spelling={"letters": "spell", "numbers": "cardinals"})
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "enter q v thirty nine")


def test_data_without_numbers_are_what_they_were(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("caps", "train", text="NASA is A. B. C., isn't it?")
    data = corpus.prepare()
    assert recorded(corpus) is None and data.summary.spelling is None
    assert texts(data, "caps") == {"train": "nasa is a b c isn't it"}
    assert data.spelling == SpellingRule("digits", "keep", "en")  # `one two` stands in others
    corpus.prepare(spelling={"numbers": "cardinals"})  # whoever says so finds it written down
    assert recorded(corpus) == {"numbers": "cardinals", "letters": "keep", "language": "en"}


def test_hidden_transcripts_decide_nothing(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for number in range(6):
        corpus.add(f"t{number}", "train", text="two six one one five")
    assert corpus.prepare().spelling.numbers == "digits"
    corpus.add("n", "valid", text="room twenty 21")
    corpus.prepare(labelled_fraction=0.5)
    assert recorded(corpus)["numbers"] == "cardinals"


def test_words_of_another_language_fit_the_alphabet(corpus: Corpus) -> None:
    for split in SPLITS:
        corpus.add(f"n-{split}", split, text="om 1 en 22", seconds=2.0)
    data = corpus.prepare(spelling={"language": "nl"})
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "om een en tweeentwintig")
    data = corpus.prepare(
        spelling={"language": "nl"},
        alphabet="abcdefghijklmnopqrstuvwxyzéë",
        case="upper"[:0] or "lower",
    )
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "om één en tweeëntwintig")


def test_the_language_of_the_data_is_that_of_the_words(corpus: Corpus) -> None:
    for split in SPLITS:
        corpus.add(f"n-{split}", split, text="om 1 en 22", seconds=2.0)
    data = corpus.prepare(language="nl", alphabet="abcdefghijklmnopqrstuvwxyz")
    assert texts(data, "n-") == dict.fromkeys(SPLITS, "om een en tweeentwintig")
    assert (data.summary.language, data.spelling.language) == ("nl", "nl")


def test_data_without_transcripts_know_the_words_of_their_language(corpus: Corpus) -> None:
    for split in SPLITS:
        corpus.add(f"n-{split}", split, text="", seconds=2.0)
    data = corpus.prepare(language="nl", needs_truth=False)
    assert recorded(corpus) is None
    assert data.spelling == SpellingRule("cardinals", "spell", "nl")
    assert "language" not in corpus.prepare(needs_truth=False).summary.entries


def test_numbers_of_a_language_that_nobody_says_are_asked_for(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    with pytest.raises(CorpusError, match=r"cannot be said in prepare.language, 'sw'; set it to k"):
        corpus.prepare(language="sw", spelling={"numbers": "digits"})


def test_digits_stay_where_texts_may_hold_them(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("n", "train", text="Room 21")
    assert texts(corpus.prepare(alphabet="abcdefghijklmnopqrstuvwxyz0123456789"), "n") == {
        "train": "room 21"
    }
    assert recorded(corpus) is None
    data = corpus.prepare(alphabet=None)
    assert texts(data, "n") == {"train": "room 21"} and "2" in data.summary.alphabet


def test_a_language_is_asked_for_where_none_can_be_known(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("n", "train", text="café 7")
    corpus.prepare(alphabet="abcdefghijklmnopqrstuvwxyzé")
    assert corpus.dropped()["n"][1].endswith(
        "are not in prepare.alphabet; prepare.spelling can say in which words digits are said"
    )
    with pytest.raises(CorpusError, match=r"numbers is digits, but .* set prepare.language"):
        corpus.prepare(alphabet=None, spelling={"numbers": "digits"})
    with pytest.raises(CorpusError, match=r"prepare.spelling: language 'xx', expected one of .*nl"):
        corpus.prepare(spelling={"language": "xx"})
