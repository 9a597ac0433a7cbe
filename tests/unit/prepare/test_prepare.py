from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from pydantic import ValidationError

from distillery.corpora.base import Recording
from distillery.corpora.fsdd import DIGITS
from distillery.corpora.known import CORPORA
from distillery.data.manifest import PreparedData, SplitCounts, audio_key
from distillery.data.units import Unit, unit_of
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams
from distillery.prepare import prepare as preparation
from distillery.prepare.prepare import prepare, too_little_to_learn
from distillery.prepare.profile import Leaks, Repeated, read_profile
from distillery.prepare.splits import hash_fraction

RATE_HZ = 8000
SPLITS = ("train", "valid", "test")


def params(**changes: Any) -> PrepareParams:
    settings: dict[str, Any] = {
        "corpus": "manifest",
        "source": "corpus",
        "sample_rate_hz": RATE_HZ,
        "max_dropped_fraction": 1.0,
    }
    return PrepareParams(**settings | changes)


class Corpus:
    """A user's corpus on disk: noise, a manifest, and a call that prepares it."""

    def __init__(self, folder: Path, write_recording: Callable[..., np.ndarray]) -> None:
        self.folder = folder
        self.source = folder / "corpus"
        self.prepared = folder / "data" / "prepared"
        self.reports = folder / "reports"
        self.rows: list[dict[str, str]] = []
        self._write_recording = write_recording

    def add(
        self,
        name: str,
        split: str = "",
        text: str = "one two",
        speaker: str = "",
        seconds: float = 1.0,
        seed: int | None = None,
        rate_hz: int = RATE_HZ,
    ) -> np.ndarray:
        seed = len(self.rows) if seed is None else seed
        samples = self._write_recording(self.source / f"{name}.wav", seconds, rate_hz, seed)
        row = {"path": f"{name}.wav", "text": text, "split": split, "speaker": speaker}
        self.rows.append(row | {"utterance_id": name})
        return samples

    def add_one_per_split(self) -> None:
        for split in SPLITS:
            self.add(f"base-{split}", split)

    def prepare_table(self) -> None:
        with open(self.source / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

    def prepare(
        self, num_workers: int = 2, *, needs_truth: bool = True, **changes: Any
    ) -> PreparedData:
        self.prepare_table()
        prepare(
            params(**changes),
            self.source,
            self.prepared,
            self.reports,
            num_workers,
            needs_truth=needs_truth,
        )
        return PreparedData.open(self.prepared)

    def dropped(self) -> dict[str, tuple[str, str]]:
        frame = pd.read_csv(self.prepared / "dropped.csv")
        return {r.utterance_id: (r.reason, r.detail) for r in frame.itertuples()}


@pytest.fixture
def corpus(tmp_path: Path, write_recording) -> Corpus:
    return Corpus(tmp_path, write_recording)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- what is kept ------------------------------------------------------------------------------


def test_prepared_samples_are_those_of_the_file(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    written = corpus.add("x", "train", text="Hello, World!", speaker="anna", seconds=0.75)
    data = corpus.prepare()
    (row,) = (row for row in data.split("train").itertuples() if row.utterance_id == "x")
    np.testing.assert_array_equal(data.samples(row), written)
    assert row.audio_key == audio_key(written)
    assert row.num_samples == 6000
    assert row.duration_seconds == 0.75
    assert (row.speaker, row.text, row.text_original) == (
        "anna",
        "hello world",
        "Hello, World!",
    )
    assert row.source_path == "x.wav"


def test_the_manifest_is_sorted_by_utterance_whatever_the_split(corpus: Corpus) -> None:
    for name, split in (("c", "test"), ("a", "train"), ("b", "valid")):
        corpus.add(name, split)
    assert corpus.prepare().frame["utterance_id"].tolist() == ["a", "b", "c"]


def test_audio_is_resampled_to_the_rate_asked_for(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("fast", "train", rate_hz=16000)
    frame = corpus.prepare().frame.set_index("utterance_id")
    assert frame["num_samples"].tolist() == [8000] * 4


def test_unlabelled_utterances_are_kept_as_such_in_every_split(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for split in SPLITS:
        corpus.add(f"bare-{split}", split, text="")
    data = corpus.prepare()
    bare = data.frame[data.frame["utterance_id"].str.startswith("bare")]
    assert bare["text"].isna().all()
    assert bare["text_original"].isna().all()
    assert sorted(bare["split"]) == ["test", "train", "valid"]
    assert [data.summary.splits[split].num_unlabelled for split in SPLITS] == [1, 1, 1]
    assert [data.summary.splits[split].num_labelled for split in SPLITS] == [1, 1, 1]


def test_the_summary_counts_what_was_prepared(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("x", "train", speaker="anna", seconds=2.6)
    corpus.add("y", "train", speaker="anna", seconds=0.05)
    summary = corpus.prepare(case="upper", alphabet="ENOTW").summary
    assert summary.splits["train"] == SplitCounts(
        num_utterances=2,
        num_labelled=2,
        num_unlabelled=0,
        num_speakers=1,
        hours=0.001,  # 3.6 seconds
    )
    assert summary.dropped == {"too_short": 1}
    assert summary.alphabet == "ENOTW"
    assert summary.corpus == "manifest"
    assert summary.sample_rate_hz == RATE_HZ
    assert "case: upper" in summary.text_rule
    assert summary.split_rule == {"test": "official", "valid": "official"}


def test_a_share_of_the_training_transcripts_is_hidden_by_hash_of_the_audio(
    corpus: Corpus,
) -> None:
    names = [f"{split}{i}" for split in SPLITS for i in range(12)]
    keys = {name: audio_key(corpus.add(name, name.rstrip("0123456789"))) for name in names}
    whole = corpus.prepare().frame.set_index("utterance_id")
    data = corpus.prepare(labelled_fraction=0.5)
    frame = data.frame.set_index("utterance_id")
    train = [name for name in keys if name.startswith("train")]
    kept = {name for name in train if hash_fraction("labelled", keys[name]) < 0.5}
    assert 0 < len(kept) < 12
    assert set(frame.index[frame["text"].notna()]) == kept | (set(keys) - set(train))
    assert set(frame.index[frame["text_original"].notna()]) == kept | (set(keys) - set(train))
    other = [name for name in whole.columns if name not in ("text", "text_original")]
    pd.testing.assert_frame_equal(frame[other], whole[other])
    assert data.summary.num_hidden_transcripts == 12 - len(kept)
    assert data.summary.splits["train"].num_labelled == len(kept)
    assert data.summary.splits["test"].num_labelled == 12


def test_new_data_and_a_larger_share_hide_no_transcript_that_was_kept(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for i in range(10):
        corpus.add(f"old{i}", "train")

    def labelled_ids(fraction: float) -> set[str]:
        frame = corpus.prepare(labelled_fraction=fraction).frame
        return set(frame["utterance_id"][frame["text"].notna()])

    half, more, everything = (labelled_ids(fraction) for fraction in (0.5, 0.8, 1.0))
    assert half < everything
    assert half <= more <= everything
    for i in range(5):
        corpus.add(f"a-new{i}", "train")
    assert {name for name in labelled_ids(0.5) if "new" not in name} == half


def test_nothing_peeks_at_a_hidden_transcript(corpus: Corpus) -> None:
    """Neither the alphabet nor what is dropped depends on it."""
    corpus.add_one_per_split()  # "one two"
    letters = "abcdfghijklm"
    keys = {letter: audio_key(corpus.add(letter, "train", text=letter)) for letter in letters}
    shown = {letter for letter in letters if hash_fraction("labelled", keys[letter]) < 0.5}
    unknown = shown & set("ghijklm")
    assert unknown
    assert set("ghijklm") - shown
    free = corpus.prepare(labelled_fraction=0.5, alphabet=None)
    assert set(free.summary.alphabet) == shown | set("onetw")
    data = corpus.prepare(labelled_fraction=0.5, alphabet="onetwabcdf")
    assert data.summary.dropped == {"unknown_characters": len(unknown)}
    assert set(data.split("train")["utterance_id"]) == set(letters) - unknown | {"base-train"}


def test_a_share_that_keeps_no_transcript_is_an_error(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    with pytest.raises(CorpusError, match="labelled_fraction 1e-06 keeps none of its 1 transcr"):
        corpus.prepare(labelled_fraction=1e-6)


def test_a_share_of_no_transcripts_leaves_all_to_the_teacher(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    data = corpus.prepare(labelled_fraction=0.0)
    assert data.summary.num_hidden_transcripts == 1
    assert data.split("train")["text"].isna().all()
    assert data.split("valid")["text"].notna().all()
    with pytest.raises(ValidationError, match="labelled_fraction"):
        params(labelled_fraction=-0.1)


# --- nothing is transcribed ----------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.01, 0.3])
def test_every_split_of_a_corpus_without_transcripts_holds_something(
    corpus: Corpus, fraction: float, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        corpus.add(f"u{number}", text="")
    with caplog.at_level("INFO", logger="distillery.prepare.prepare"):
        data = corpus.prepare(needs_truth=False, language="nl", valid_fraction=fraction)
    assert all(len(data.split(name)) for name in SPLITS)
    assert "é" in data.summary.alphabet
    assert "split valid and test: neither transcripts nor expected phrases" in caplog.text
    assert data.lacks_truth("valid")
    assert data.references("valid").empty


def test_whoever_needs_transcripts_is_told_of_a_teacher_that_does_not(corpus: Corpus) -> None:
    for split in SPLITS:
        corpus.add(split, split, text="")
    with pytest.raises(CorpusError, match=r"valid and test: no transcribed.*others trained"):
        corpus.prepare()


def test_an_alphabet_of_no_transcripts_is_asked_for_before_anything_is_decoded(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in SPLITS:
        corpus.add(split, split, text="")
    monkeypatch.setattr(preparation, "decode_ahead", None)
    with pytest.raises(CorpusError, match=r"prepare\.alphabet is null.*prepare\.language to one"):
        corpus.prepare(needs_truth=False, alphabet=None)


@pytest.mark.parametrize("hidden", [True, False])
def test_the_alphabet_of_untranscribed_training_is_no_other_splits(
    corpus: Corpus, *, hidden: bool
) -> None:
    corpus.add("a", "train", text="abc" if hidden else "")
    corpus.add("b", "valid", text="xy")
    corpus.add("c", "test", text="xy")
    share = 0.0 if hidden else 1.0
    with pytest.raises(CorpusError, match=r"prepare\.alphabet is null"):
        corpus.prepare(alphabet=None, labelled_fraction=share)
    data = corpus.prepare(alphabet=None, labelled_fraction=share, language="de")
    assert set("äöüßz") <= set(data.summary.alphabet)


def test_expected_phrases_are_normalised_and_are_the_truth_where_there_are_more(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    for split in SPLITS:
        corpus.add(split, split, text="")
        corpus.rows[-1]["expected"] = '["Two Shots", "LARGE!", "large"]'
    for name, text, phrases in (("more", "large", ""), ("most", "", "large")):
        corpus.add(name, "test", text=text)
        corpus.rows[-1]["expected"] = phrases
    with caplog.at_level("INFO", logger="distillery.prepare.prepare"):
        data = corpus.prepare()
    assert list(data.references("valid")["text"]) == ["two shots; large"]
    assert data.unit_of("valid") is data.unit_of("test") is Unit.PHRASE
    assert data.unit is Unit.WORD
    assert list(data.references("test")["utterance_id"]) == ["most", "test"]
    assert "split valid: no transcripts, but expected phrases" in caplog.text


def test_phrases_that_no_text_can_hold_are_told(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    for split in SPLITS:
        corpus.add(split, split, text="")
        corpus.rows[-1]["expected"] = "straße; large"
    with caplog.at_level("INFO", logger="distillery.prepare.prepare"):
        corpus.prepare(labelled_fraction=0.0)
    assert "expected phrases hold ß, which no text can hold" in caplog.text


def test_other_data_have_no_such_column(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    assert "expected" not in corpus.prepare().frame
    for row in corpus.rows:
        row["expected"] = ""
    assert "expected" not in corpus.prepare().frame


def test_without_an_alphabet_that_of_train_and_valid_is_taken(corpus: Corpus) -> None:
    for split, text in zip(SPLITS, ("cab", "d a", "xyz"), strict=True):
        corpus.add(split, split, text=text)
    assert corpus.prepare(alphabet=None).summary.alphabet == "abcd"


def test_the_log_ends_with_a_table(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    corpus.add_one_per_split()
    corpus.add("y", "train", seconds=0.05)
    with caplog.at_level("INFO", logger="distillery.prepare.prepare"):
        corpus.prepare()
    assert [line.split()[:2] for line in caplog.messages[-1].splitlines()[2:5]] == [
        ["train", "1"],
        ["valid", "1"],
        ["test", "1"],
    ]
    assert "dropped: too_short 1" in caplog.text


# --- shards and bytes --------------------------------------------------------------------------


def test_a_shard_holds_no_more_than_asked_unless_one_recording_does(
    corpus: Corpus,
) -> None:
    corpus.add_one_per_split()
    for index in range(5):
        corpus.add(f"x{index}", "train", seconds=0.4)
    corpus.add("y", "train", seconds=2.5)
    data = corpus.prepare(shard_seconds=1.0)
    sizes = {
        path.name: path.stat().st_size // 2 / RATE_HZ
        for path in sorted(corpus.prepared.glob("*.pcm"))
    }
    # test 1.0 | valid 1.0 | base-train 1.0 | 0.4 + 0.4 | 0.4 + 0.4 | 0.4 | 2.5
    assert list(sizes.values()) == pytest.approx([1.0, 1.0, 1.0, 0.8, 0.8, 0.4, 2.5])
    for row in data.frame.itertuples():
        assert audio_key(data.samples(row)) == row.audio_key


def test_equal_input_gives_equal_bytes_in_any_order_with_any_number_of_threads(
    corpus: Corpus,
) -> None:
    corpus.add_one_per_split()
    for index in range(40):
        corpus.add(f"x{index}", text="one" if index % 3 else "", seconds=0.1 + index / 50)
    corpus.prepare(num_workers=1)
    first = contents(corpus.prepared)
    corpus.rows.reverse()
    corpus.prepare(num_workers=4)
    assert contents(corpus.prepared) == first


def test_moving_the_corpus_changes_no_byte(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("bad", "train")
    (corpus.source / "bad.wav").write_bytes(b"RIFF, but nothing more")
    corpus.prepare()
    first = contents(corpus.prepared)
    corpus.source = corpus.source.rename(corpus.folder / "elsewhere")
    corpus.prepare()
    assert contents(corpus.prepared) == first


# --- what is dropped ---------------------------------------------------------------------------


def test_unreadable_empty_and_cut_files_are_dropped_with_the_decoders_words(
    corpus: Corpus,
) -> None:
    corpus.add_one_per_split()
    for name in ("words", "zero", "cut"):
        corpus.add(name, "train")
    (corpus.source / "words.wav").write_text("no audio")
    (corpus.source / "zero.wav").write_bytes(b"")
    content = (corpus.source / "cut.wav").read_bytes()
    (corpus.source / "cut.wav").write_bytes(content[:5000])
    assert len(corpus.prepare().frame) == 3
    dropped = corpus.dropped()
    assert dropped["words"][0] == "unreadable"
    assert "words.wav: cannot be decoded: " in dropped["words"][1]
    assert dropped["zero"] == ("empty", "zero.wav: holds 0 bytes; expected a recording")
    assert dropped["cut"][0] == "unreadable"
    assert "of 16000 bytes of samples; the file is cut short" in dropped["cut"][1]


def test_durations_outside_the_bounds_are_dropped_and_the_bounds_are_kept(
    corpus: Corpus,
) -> None:
    corpus.add_one_per_split()
    for name, seconds in (
        ("low", 0.2),
        ("lower", 0.199),
        ("high", 2.0),
        ("higher", 2.001),
    ):
        corpus.add(name, "test", seconds=seconds)
    kept = corpus.prepare(min_duration_seconds=0.2, max_duration_seconds=2.0).frame
    assert {"low", "high"} <= set(kept["utterance_id"])
    assert corpus.dropped() == {
        "lower": ("too_short", "0.199 s, expected at least 0.2 s"),
        "higher": ("too_long", "2.001 s, expected at most 2 s"),
    }


def test_a_text_of_punctuation_alone_is_dropped(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("dots", "test", text="...")
    corpus.prepare()
    assert corpus.dropped()["dots"][0] == "empty_text"
    assert "'...'" in corpus.dropped()["dots"][1]


def test_unknown_characters_are_dropped_from_training_and_kept_in_test(
    corpus: Corpus,
) -> None:
    corpus.add_one_per_split()
    for split in SPLITS:
        corpus.add(f"odd-{split}", split, text="Café 7")
    kept = set(corpus.prepare().frame["utterance_id"])
    assert "odd-test" in kept
    detail = "['é'] in 'café seven' are not in prepare.alphabet"
    assert corpus.dropped() == {
        "odd-train": ("unknown_characters", detail),
        "odd-valid": ("unknown_characters", detail),
    }


def test_what_ctc_cannot_align_is_dropped_from_training_alone(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    # 40 ms a frame: 0.2 s are 5 frames and 0.201 s are 6, as many as "three" needs
    for split in SPLITS:
        corpus.add(f"short-{split}", split, text="three", seconds=0.2)
    corpus.add("enough", "train", text="three", seconds=0.201)
    kept = set(corpus.prepare().frame["utterance_id"])
    assert {"short-valid", "short-test", "enough"} <= kept
    assert corpus.dropped() == {"short-train": ("too_short_for_ctc", "5 frames, 'three' needs 6")}


def test_what_ctc_cannot_align_is_kept_when_asked(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("short", "train", text="three", seconds=0.2)
    assert "short" in set(corpus.prepare(too_short_for_ctc="keep").frame["utterance_id"])


def test_unlabelled_audio_is_never_too_short_for_ctc(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("bare", "train", text="", seconds=0.12)
    assert "bare" in set(corpus.prepare().frame["utterance_id"])


def test_test_audio_is_dropped_from_train_and_valid(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for split in SPLITS:
        corpus.add(f"copy-{split}", split, seed=99)
    frame = corpus.prepare().frame
    assert "copy-test" in set(frame["utterance_id"])
    assert {name: reason for name, (reason, _) in corpus.dropped().items()} == {
        "copy-train": "also_in_test",
        "copy-valid": "also_in_test",
    }


def test_audio_of_the_validation_split_is_not_trained_on(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for split in ("train", "valid"):
        corpus.add(f"copy-{split}", split, seed=99)
    assert "copy-valid" in set(corpus.prepare().frame["utterance_id"])
    assert {name: reason for name, (reason, _) in corpus.dropped().items()} == {
        "copy-train": "also_in_valid"
    }
    leaks = read_profile(corpus.prepared / "profile.json").leaks
    assert leaks is not None
    assert leaks.copies_dropped == {"test": 0, "valid": 1}


def test_copies_within_a_split_are_kept(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    for split in SPLITS:
        for copy in "ab":
            corpus.add(f"{split}-{copy}", split, seed=SPLITS.index(split) + 50)
    assert len(corpus.prepare().frame) == 9


def test_too_many_drops_stop_the_stage_and_lose_nothing(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.prepare()
    before = contents(corpus.prepared)
    for index in range(4):
        corpus.add(f"short{index}", "train", seconds=0.05)
    corpus.add("long", "train", seconds=3.0)
    with pytest.raises(CorpusError) as caught:
        corpus.prepare(max_dropped_fraction=0.5, max_duration_seconds=2.5)
    message = str(caught.value)
    assert "5 of 8 utterances were dropped, prepare.max_dropped_fraction allows 0.5" in message
    assert "too_short: 4\n    short0: 0.050 s" in message
    assert "short3" not in message  # examples, not all
    assert "too_long: 1\n    long: 3.000 s" in message
    assert str(corpus.reports / "dropped.csv") in message
    assert len(pd.read_csv(corpus.reports / "dropped.csv")) == 5
    assert contents(corpus.prepared) == before


def test_as_many_drops_as_allowed_pass(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("short", "train", seconds=0.05)
    assert len(corpus.prepare(max_dropped_fraction=0.25).frame) == 3
    assert not corpus.reports.exists()


@pytest.mark.parametrize(
    ("absent", "advice"),
    [
        ("train", "lower valid_fraction and test_fraction"),
        ("valid", r"raise prepare\.valid_fraction"),
        ("test", r"raise prepare\.test_fraction"),
    ],
)
def test_an_empty_split_is_named_with_advice(corpus: Corpus, absent: str, advice: str) -> None:
    for split in SPLITS:
        if split != absent:
            corpus.add(split, split)
    with pytest.raises(CorpusError, match=rf"split {absent}: no utterances .*{advice}"):
        corpus.prepare(valid_fraction=0.0, test_fraction=0.0)


@pytest.mark.parametrize("bare", ["valid", "test"])
def test_a_split_that_no_model_can_be_judged_on_is_refused_at_once(
    corpus: Corpus, bare: str
) -> None:
    for split in SPLITS:
        corpus.add(split, split, text="" if split == bare else "one")
    words = rf"split {bare}: no transcribed utterance \(found .*{bare} 0 of 1.*Add transcripts"
    with pytest.raises(CorpusError, match=words):
        corpus.prepare()


@pytest.mark.parametrize("silent", ["test", "valid"])
def test_a_split_whose_transcripts_are_all_dropped_is_drawn_again(
    corpus: Corpus, silent: str
) -> None:
    for index in range(24):
        corpus.add(f"u{index}", speaker=f"s{index // 2}")
    drawn = corpus.prepare().split(silent)
    assert 2 <= len(drawn) < 10
    for name in drawn["utterance_id"]:
        rewrite(corpus, name, np.zeros(RATE_HZ))
    data = corpus.prepare()
    assert all(data.summary.splits[split].num_labelled for split in SPLITS)
    assert data.summary.dropped == {"no_speech": len(drawn)}
    assert sum(path.stat().st_size for path in corpus.prepared.glob("*.pcm")) == 2 * RATE_HZ * len(
        data.frame
    )


# --- recordings without speech -----------------------------------------------------------------


def rewrite(corpus: Corpus, name: str, samples: np.ndarray, subtype: str = "FLOAT") -> None:
    soundfile.write(corpus.source / f"{name}.wav", samples, RATE_HZ, subtype=subtype)


def test_recordings_without_speech_are_left_out_and_levels_are_columns(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    noise = np.random.default_rng(0).normal(0, 1, RATE_HZ)
    for name, samples in {
        "zeros": 0 * noise,
        "whisper": 10 ** (-90 / 20) * noise,
        "offset": 0 * noise + 0.3,
        "int16": 3000 * noise,
        "int24": 3000 * 256 * noise,
        "quiet": 10 ** (-60 / 20) * noise,
        "shifted": 0.01 * noise + 0.25,
    }.items():
        corpus.add(name, "train")
        rewrite(corpus, name, samples)
    frame = corpus.prepare().frame.set_index("utterance_id")
    dropped = corpus.dropped()
    assert {name: reason for name, (reason, _) in dropped.items()} == {
        "zeros": "no_speech",
        "whisper": "no_speech",
        "offset": "no_speech",
        "int16": "overdriven",
        "int24": "overdriven",
    }
    assert dropped["whisper"][1].startswith("−89.7 dB")
    assert "expected −65 or more (prepare.min_level_db)" in dropped["whisper"][1]
    assert "around an offset of 0.30" in dropped["offset"][1]
    assert "floats in the scale of integers" in dropped["int16"][1]
    assert frame.loc["quiet", "level_dbfs"] == pytest.approx(-60, abs=0.2)
    assert frame.loc["shifted", "dc_offset"] == pytest.approx(0.25, abs=1e-3)
    assert frame.loc["base-train", "silent_fraction"] == 0.0
    assert set(frame["clipped_fraction"]) == {0.0}


def test_the_limit_is_a_setting(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("zeros", "train")
    rewrite(corpus, "zeros", np.zeros(RATE_HZ))
    assert "zeros" in set(corpus.prepare(min_level_db=-100.0).frame["utterance_id"])
    with pytest.raises(CorpusError, match="split train and valid and test: no utterances"):
        corpus.prepare(min_level_db=-20.0)  # the noise has −30 dB


def test_clipped_recordings_are_kept_and_told(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    corpus.add_one_per_split()
    corpus.add("loud", "train")
    rewrite(corpus, "loud", 1.5 * np.sin(np.arange(RATE_HZ) / 3.0), "PCM_16")
    with caplog.at_level("INFO"):
        frame = corpus.prepare().frame.set_index("utterance_id")
    assert 0.1 < frame.loc["loud", "clipped_fraction"] < 0.6
    assert "1 utterances have 1% or more of their samples at full scale, loud " in caplog.text


# --- what may flatter --------------------------------------------------------------------------


def test_sentences_that_training_holds_too_are_counted(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("one two", "three", "four"):
        corpus.add(text.replace(" ", ""), "train", text=text)
    for index, text in enumerate(("One two!", "five", "three", "", "three")):
        corpus.add(f"t{index}", "test", text=text)
    corpus.add("v", "valid", text="six")
    with caplog.at_level("INFO"):
        corpus.prepare()
    leaks = read_profile(corpus.prepared / "profile.json").leaks
    repeated = {"test": Repeated(4, 3), "valid": Repeated(1, 0)}
    assert leaks == Leaks(repeated, {"test": 0, "valid": 0}, 0)
    assert "3 of 4 transcribed utterances of split test (75%) say a sentence" in caplog.text
    assert "of split valid" not in caplog.text


def test_speakers_that_differ_by_blanks_or_case_are_one_and_it_is_told(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(40):
        name = f"S{index // 2:02d}"
        corpus.add(f"u{index}", speaker=(name, f" {name.lower()} ")[index % 2])
    data = corpus.prepare(valid_fraction=0.3, test_fraction=0.3)
    assert data.frame["speaker"].nunique() == 20
    assert data.frame.groupby("speaker")["split"].nunique().max() == 1
    assert "speakers that differ by blanks or case alone are one: ' s00 ', 'S00'" in caplog.text
    assert "and 17 more" in caplog.text
    leaks = read_profile(corpus.prepared / "profile.json").leaks
    assert leaks is not None
    assert leaks.respelt_speakers == 20


def test_the_table_says_how_splits_were_chosen(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(30):
        corpus.add(f"u{index}", speaker="anna")
    with caplog.at_level("INFO"):
        corpus.prepare()
    lines = caplog.messages[-1].splitlines()
    assert [line.split()[-2:] for line in lines[2:5]] == [
        ["the", "rest"],
        ["by", "utterance"],
        ["by", "utterance"],
    ]
    assert "by utterance: test and valid, for there is one speaker alone" in lines[5]


# --- ids ---------------------------------------------------------------------------------------


def test_an_unfit_utterance_id_of_a_reader_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Recording("a/b", "a/b.wav", None, None, None, tmp_path / "b.wav")
    monkeypatch.setitem(CORPORA, "manifest", lambda *_: [broken])
    with pytest.raises(CorpusError, match=r"utterance 'a/b' \(a/b\.wav\): expected an id"):
        preparation.read_recordings(params(), tmp_path)


def test_repeated_utterance_ids_of_a_reader_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [Recording("a", path, None, None, None, tmp_path) for path in ("x.wav", "y.wav")]
    monkeypatch.setitem(CORPORA, "manifest", lambda *_: twins)
    with pytest.raises(CorpusError, match=r"'a' occurs twice \(x\.wav and y\.wav\)"):
        preparation.read_recordings(params(), tmp_path)


def test_a_corpus_without_recordings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CORPORA, "manifest", lambda *_: [])
    with pytest.raises(CorpusError, match="holds no recordings"):
        preparation.read_recordings(params(), tmp_path)


def test_prepared_splits_do_not_move_when_data_is_added(corpus: Corpus) -> None:
    for speaker in range(20):
        corpus.add(f"s{speaker:02d}", speaker=f"speaker{speaker}", seconds=0.3)
    fractions = {"valid_fraction": 0.3, "test_fraction": 0.3}
    before = corpus.prepare(**fractions).frame.set_index("utterance_id")
    for speaker in range(10, 30):
        corpus.add(f"a{speaker:02d}", speaker=f"speaker{speaker}", seconds=0.3)
    after = corpus.prepare(**fractions).frame.set_index("utterance_id")
    assert len(after) == 40
    columns = ["split", "audio_key", "text"]
    pd.testing.assert_frame_equal(after.loc[before.index, columns], before[columns])


# --- real recordings ---------------------------------------------------------------------------


def slice_of(corpus_name: str, source: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the reader hand over every `step`-th recording, to keep the tests short."""
    reader = CORPORA[corpus_name]
    monkeypatch.setitem(
        CORPORA,
        corpus_name,
        lambda params, source: list(reader(params, source))[::step],
    )


def test_a_slice_of_an4_is_prepared(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_of("an4", shared_data / "an4", monkeypatch, step=5)
    settings = params(corpus="an4", sample_rate_hz=16000, max_dropped_fraction=0.0)
    summary = prepare(settings, shared_data / "an4", tmp_path / "p", tmp_path / "r")
    data = PreparedData.open(tmp_path / "p")
    assert len(data.frame) == 195  # every fifth of 974
    assert summary.split_rule == {"test": "official", "valid": "by speaker"}
    in_valid, in_train = (set(data.split(name)["speaker"]) for name in ("valid", "train"))
    assert not in_valid & in_train
    published = pd.read_csv(
        shared_data / "an4" / "transcripts.tsv", sep="\t", keep_default_na=False
    ).set_index("utt_id")
    for row in data.frame.itertuples():
        assert row.num_samples == published.loc[row.utterance_id, "num_samples"]
        assert row.text_original == published.loc[row.utterance_id, "text"]
        assert (row.split == "test") == (published.loc[row.utterance_id, "split"] == "test")
        assert audio_key(data.samples(row)) == row.audio_key


def test_a_slice_of_fsdd_is_prepared(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_of("fsdd", shared_data / "fsdd", monkeypatch, step=7)
    settings = params(corpus="fsdd", sample_rate_hz=8000)
    summary = prepare(settings, shared_data / "fsdd", tmp_path / "p", tmp_path / "r")
    data = PreparedData.open(tmp_path / "p")
    assert len(data.frame) + sum(summary.dropped.values()) == 429  # every seventh of 3,000
    assert summary.split_rule == {"test": "official", "valid": "by utterance"}
    assert set(data.frame["text"]) == set(DIGITS)
    takes = data.split("test")["utterance_id"].str.rsplit("_", n=1).str[1].astype(int)
    assert takes.max() <= 4


def test_the_summary_holds_nothing_that_varies(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.prepare()
    text = (corpus.prepared / "summary.json").read_text()
    assert str(corpus.folder) not in text
    assert set(json.loads(text)) == {
        "alphabet",
        "corpus",
        "dropped",
        "num_hidden_transcripts",
        "sample_rate_hz",
        "split_rule",
        "splits",
        "text_rule",
    }


def test_a_profile_says_what_the_utterances_are_like(corpus: Corpus) -> None:
    corpus.add("a", "train", "one two", seconds=1.0)
    corpus.add("b", "train", "", seconds=2.0)
    corpus.add("c", "train", "naïve", seconds=1.0)
    corpus.add("d", "valid", seconds=0.5)
    corpus.add("e", "test", seconds=0.5)
    corpus.prepare()
    profile = read_profile(corpus.prepared / "profile.json")
    train = profile.splits["train"].measures
    duration, rate = train["duration_seconds"], train["characters_per_second"]
    assert (duration.count, duration.mean) == (2, 1.5)
    assert (rate.count, rate.mean) == (1, 7.0)
    assert train["level_dbfs"].mean == pytest.approx(20 * np.log10(1000 / 32768), abs=0.3)
    assert train["clipped_fraction"].max == 0.0
    assert profile.unknown_characters == {"ï": 1}
    assert profile.num_utterances_with_unknown_characters == 1


# --- enough to learn from ----------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "is_enough"), [(299.0, False), (300.0, True)])
def test_too_few_transcripts_for_a_trained_teacher_are_told(
    corpus: Corpus, seconds: float, is_enough: bool
) -> None:
    corpus.add_one_per_split()
    corpus.add("untranscribed", "train", text="")
    data = corpus.prepare()
    frame = data.frame.copy()
    frame.loc[frame["utterance_id"] == "base-train", "duration_seconds"] = seconds
    said = too_little_to_learn(replace(data, frame=frame))
    assert (said is None) == is_enough
    if said:
        assert "split train holds 5.0 minutes of transcribed audio" in said


# --- every script ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("今天 天气好", "auto", "character"),
        ("今天 天气好", "word", "word"),
        ("one two", "auto", "word"),
        ("one two", "character", "character"),
        ("안녕하세요 세계", "auto", "word"),
    ],
)
def test_the_unit_is_decided_once_and_kept(
    corpus: Corpus, text: str, unit: str, expected: str
) -> None:
    for split in SPLITS:
        corpus.add(split, split, text=text)
        corpus.add(f"bare-{split}", split, text="")
    data = corpus.prepare(unit=unit, alphabet=None)
    assert data.unit == expected
    written = json.loads((corpus.prepared / "summary.json").read_text("utf-8"))
    assert written.get("unit", "word") == expected
    assert ("unit" in written) == (expected != "word")  # words are as they were


def test_without_letters_the_unit_is_the_word() -> None:
    assert unit_of(Counter()) is unit_of(Counter({"'": 3})) is Unit.WORD


def test_signs_that_the_alphabet_lacks_drop_no_utterance(corpus: Corpus) -> None:
    corpus.add_one_per_split()
    corpus.add("dot", "train", text="col·lecció")
    corpus.add("soft", "train", text="one\u00ad two\u200b")
    plain = corpus.prepare(alphabet="abcdefghijklmnopqrstuvwxyzó'").frame.set_index("utterance_id")
    assert plain.loc["dot", "text"] == "collecció"
    assert plain.loc["soft", "text"] == "one two"
    data = corpus.prepare(alphabet=None)
    assert data.frame.set_index("utterance_id").loc["dot", "text"] == "col·lecció"
    assert "·" in data.summary.alphabet and "·" in data.vocabulary.tokens


@pytest.mark.parametrize("number", [1, 2])
def test_fewer_recordings_than_splits_are_asked_for_before_a_teacher_hears_any(
    corpus: Corpus, number: int
) -> None:
    for index in range(number):
        corpus.add(f"r{index}", "", text="")
    with pytest.raises(CorpusError, match=r"add data \(3 recordings at least; prepare\.segment"):
        corpus.prepare(needs_truth=False, language="en")


@pytest.mark.parametrize("speakers", ["", "abc"])
def test_three_recordings_without_transcripts_are_one_in_each_split(
    corpus: Corpus, speakers: str
) -> None:
    for index in range(3):
        corpus.add(f"r{index}", "", text="", speaker=speakers[index : index + 1])
    data = corpus.prepare(needs_truth=False, language="en")
    assert [len(data.split(name)) for name in SPLITS] == [1, 1, 1]
