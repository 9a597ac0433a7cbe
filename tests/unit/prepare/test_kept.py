"""Decisions about splits that are kept: nothing moves from training to where models are judged."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillery.corpora.base import Recording
from distillery.data.manifest import AUDIO_SUFFIX, PreparedData, audio_key
from distillery.errors import ManifestError
from distillery.files import digest_of_file
from distillery.params.prepare import PrepareParams
from distillery.prepare.kept import (
    Recall,
    Terms,
    keep_splits_of,
    read_decisions,
    write_decisions,
)
from distillery.prepare.prepare import prepare
from distillery.prepare.splits import assign_splits

PARAMS = PrepareParams(corpus="manifest", source="corpus", sample_rate_hz=8000)


@dataclass(frozen=True)
class Done:
    """A prepared utterance."""

    utterance_id: str
    speaker: str | None
    split: str
    audio_key: str


@st.composite
def growing(draw: st.DrawFn) -> list[list[Recording]]:
    """Corpora that grow by utterances and speakers; some unlabelled, some without a speaker."""
    steps = draw(st.integers(2, 5))
    corpus: list[Recording] = []
    grown = []
    salt = draw(st.integers(0, 10**6))
    for step in range(steps):
        for number in range(draw(st.integers(3 if not step else 0, 14))):
            speaker = draw(st.one_of(st.none(), st.integers(0, 4 * (step + 1))))
            name = f"{salt}.{step}.{number}"
            text = "a" if not step or draw(st.booleans()) else None
            corpus.append(
                Recording(
                    name,
                    name,
                    None if speaker is None else f"s{salt}.{speaker}",
                    text,
                    None,
                    Path("x"),
                )
            )
        grown.append(list(corpus))
    return grown


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(growing(), st.sampled_from([0.1, 0.3]))
def test_no_utterance_moves_as_data_grow(
    tmp_path_factory: pytest.TempPathFactory, corpora: list[list[Recording]], fraction: float
) -> None:
    path = tmp_path_factory.mktemp("growing") / "splits.csv"
    params = PARAMS.model_copy(update={"valid_fraction": fraction, "test_fraction": fraction})
    former: dict[str, str] = {}
    for corpus in corpora:
        found = read_decisions(path)
        recall = Recall() if found is None else found.recall(params, former)
        splits, _ = assign_splits(corpus, fraction, fraction, recall.kept)
        assert {key: splits[key] for key in former} == former
        assert set(splits.values()) == {"train", "valid", "test"}
        judged = {r.speaker for r in corpus if splits[r.utterance_id] == "test"} - {None}
        new = [r for r in corpus if r.utterance_id not in former and r.speaker]
        if former:
            was_trained_on = {
                r.speaker
                for r in corpus
                if former.get(r.utterance_id) == "train" and r.speaker not in judged
            }
            assert not {r.speaker for r in new if splits[r.utterance_id] == "test"} & was_trained_on
        former = splits
        rows = [
            Done(r.utterance_id, r.speaker, splits[r.utterance_id], r.utterance_id) for r in corpus
        ]
        write_decisions(path, Terms.of(params), recall, rows)


class Folder:
    """A corpus of noise on disk, and what prepare makes of it."""

    def __init__(self, root: Path, write_recording: Callable[..., np.ndarray]) -> None:
        self.root, self.write = root, write_recording
        self.rows: list[dict[str, str]] = []

    def add(self, path: str, seed: int, speaker: str = "", split: str = "") -> None:
        self.write(self.root / "corpus" / path, 0.3, 8000, seed)
        self.rows.append({"path": path, "text": "a", "speaker": speaker, "split": split})

    def prepare(self, **changes: float) -> dict[str, str]:
        """Return the split of every path."""
        with open(self.root / "corpus/manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        prepare(
            PARAMS.model_copy(update={"max_dropped_fraction": 1.0, **changes}),
            self.root / "corpus",
            self.root / "data/prepared",
            self.root / "reports",
            decisions=self.root / "data/splits.csv",
        )
        frame = PreparedData.open(self.root / "data/prepared").frame
        return dict(zip(frame["source_path"], frame["split"], strict=True))


@pytest.fixture
def folder(tmp_path: Path, write_recording: Callable[..., np.ndarray]) -> Folder:
    return Folder(tmp_path, write_recording)


def test_the_tenth_speaker_moves_nothing(folder: Folder) -> None:
    for number in range(27):
        folder.add(f"{number}.wav", number, f"s{number % 9}")
    before = folder.prepare()
    for number in range(27, 60):
        folder.add(f"{number}.wav", number, f"s{number % 20}")
    after = folder.prepare()
    assert {path: after[path] for path in before} == before
    assert len(after) == 60


def audio_files(folder: Folder) -> set[str]:
    """Return the digest of each file of packed audio."""
    found = (folder.root / "data/prepared").glob(f"*{AUDIO_SUFFIX}")
    return {digest_of_file(path) for path in found}


def test_added_recordings_change_no_audio_file_whatever_their_names_and_splits(
    folder: Folder,
) -> None:
    """Two seconds a file are six recordings: each split has several files."""
    splits = ("train", "train", "valid", "test")
    for number in range(0, 120, 2):
        folder.add(f"{number:03}.wav", number, split=splits[number // 2 % 4])
    folder.prepare(shard_seconds=2.0)
    first = audio_files(folder)
    assert len(first) >= 9
    for number in range(1, 120, 20):
        folder.add(f"{number:03}.wav", number, split=splits[number // 20 % 4])
    folder.prepare(shard_seconds=2.0)
    second = audio_files(folder)
    assert first < second
    assert len(second) == len(first) + 3, "one more for each split"
    folder.add("000a.wav", 1000, split="test")
    folder.prepare(shard_seconds=2.0)
    assert len(audio_files(folder) - second) == 1
    assert second < audio_files(folder)
    folder.prepare(shard_seconds=2.0)
    assert second < audio_files(folder), "nothing new: all stay"
    data = PreparedData.open(folder.root / "data/prepared")
    keys = {row.audio_key: audio_key(data.samples(row)) for row in data.frame.itertuples()}
    assert all(said == found for said, found in keys.items())


def test_what_goes_changes_the_files_that_it_was_in_and_those_behind_it_of_its_group(
    folder: Folder,
) -> None:
    for number in range(24):
        folder.add(f"{number:03}.wav", number, split=("train", "valid", "test")[number % 3])
    folder.prepare(shard_seconds=1.0)
    first = audio_files(folder)
    folder.add("100.wav", 100, split="train")
    folder.prepare(shard_seconds=1.0)
    second = audio_files(folder)
    folder.rows = [row for row in folder.rows if row["path"] != "021.wav"]  # the last for training
    folder.prepare(shard_seconds=1.0)
    third = audio_files(folder)
    assert len(second - third) == 1
    assert len(third & first) == len(first) - 1


def test_decisions_of_before_say_nothing_of_additions_and_hold(folder: Folder) -> None:
    for number in range(20):
        folder.add(f"{number:03}.wav", number)
    before, path = folder.prepare(), folder.root / "data/splits.csv"
    lines = path.read_text().splitlines()
    assert lines[1] == "utterance_id,speaker,split,audio,addition"
    path.write_text("\n".join([lines[0], *(line.rpartition(",")[0] for line in lines[1:])]) + "\n")
    former = audio_files(folder)
    folder.add("003a.wav", 100)
    assert before.items() <= folder.prepare().items()
    assert former < audio_files(folder)
    said = {line.split(",")[0]: line.rpartition(",")[2] for line in path.read_text().splitlines()}
    (new,) = [key for key, addition in said.items() if addition == "1"]
    assert new.startswith("003a")


def test_a_speaker_who_is_spelt_otherwise_stays_in_one_split(folder: Folder) -> None:
    for number in range(20):
        folder.add(f"{number}.wav", number, f"Speaker{number % 10}")
    before = folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    for number in range(20, 80):
        folder.add(f"{number}.wav", number, f" speaker{number % 10}")
    after = folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    assert all(after[f"{number}.wav"] == before[f"{number % 10}.wav"] for number in range(80))


def test_a_renamed_recording_stays_where_it_was(folder: Folder) -> None:
    for number in range(30):
        folder.add(f"{number}.wav", number)
    before = folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    folder.rows = []
    for number in range(30):
        folder.add(f"renamed/{number}.wav", number)
    after = folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    assert after == {f"renamed/{path}": split for path, split in before.items()}


def test_a_copy_of_training_audio_is_not_tested_on(folder: Folder) -> None:
    for number in range(30):
        folder.add(f"{number}.wav", number)
    before = folder.prepare()
    trained = [path for path, split in before.items() if split == "train"]
    for path in trained:
        folder.add(f"copies/{path}", int(path.removesuffix(".wav")))
    after = folder.prepare()
    assert {path: after[path] for path in before} == before
    assert {after[f"copies/{path}"] for path in trained} == {"train"}


def test_what_goes_and_comes_back_is_where_it_was(folder: Folder) -> None:
    for number in range(40):
        folder.add(f"{number}.wav", number, f"s{number // 2}")
    before = folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    everything = folder.rows
    folder.rows = [row for row in everything if before[row["path"]] != "valid"][:-4]
    folder.rows += [row for row in everything if before[row["path"]] == "valid"][:2]
    folder.prepare(valid_fraction=0.3, test_fraction=0.3)
    folder.rows = everything
    assert folder.prepare(valid_fraction=0.3, test_fraction=0.3) == before


def test_other_shares_draw_anew_and_it_is_told(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):
        folder.add(f"{number}.wav", number)
    folder.prepare()
    assert not caplog.records
    half = folder.prepare(test_fraction=0.5)
    assert sum(split == "test" for split in half.values()) > 15
    assert (
        "splits are drawn anew: prepare.valid_fraction and prepare.test_fraction are 0.1 and 0.5"
        in (caplog.text)
    )


def test_what_the_corpus_says_comes_first_and_is_told(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        folder.add(f"{number}.wav", number)
    before = folder.prepare()
    trained = next(row for row in folder.rows if before[row["path"]] == "train")
    trained["split"] = "test"
    with caplog.at_level("INFO"):
        assert folder.prepare()[trained["path"]] == "test"
    assert "1 utterances that were in split train are in test now" in caplog.text


def test_another_corpus_with_the_same_speakers_is_drawn_by_itself(folder: Folder) -> None:
    for number in range(30):
        folder.add(f"a{number}.wav", number, f"s{number % 10}")
        folder.rows[-1]["split"] = "test" if number % 10 < 2 else "train"
    folder.prepare()
    folder.rows = []
    for number in range(30):
        folder.add(f"b{number}.wav", 100 + number, f"s{2 + number % 8}")
    splits = folder.prepare(source="another")  # type: ignore[arg-type]
    assert set(splits.values()) == {"train", "valid", "test"}


def test_data_of_old_show_what_was_decided(folder: Folder) -> None:
    for number in range(40):
        folder.add(f"{number}.wav", number, f"s{number % 5}" if number % 2 else "")
    decided = {f"{number}.wav": ("train", "valid", "test")[number % 3] for number in range(40)}
    for row in folder.rows:
        row["split"], row["speaker"] = decided[row["path"]], ""
    folder.prepare()
    (folder.root / "data/splits.csv").unlink()
    keep_splits_of(folder.root / "data/prepared", folder.root / "data/splits.csv")
    for row in folder.rows:
        row["split"] = ""
    assert folder.prepare(valid_fraction=0.2) == decided
    keep_splits_of(folder.root / "nothing", folder.root / "no.csv")
    assert not (folder.root / "no.csv").exists()


@pytest.mark.parametrize("content", ["", "nonsense", '# {"corpus": "an4"}\nutterance_id\n'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(content)
    with pytest.raises(ManifestError, match=r"splits\.csv: cannot be read .* or delete it"):
        read_decisions(path)
