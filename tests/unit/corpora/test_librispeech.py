from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.librispeech import read_librispeech
from distillery.errors import CorpusError


@pytest.fixture
def source(tmp_path: Path, write_recording) -> Path:
    for part, speaker in (
        ("train-clean-100", 19),
        ("dev-clean", 84),
        ("test-clean", 61),
    ):
        chapter = tmp_path / "LibriSpeech" / part / str(speaker) / "7"
        for number in range(2):
            write_recording(chapter / f"{speaker}-7-{number:04d}.flac", 0.1, seed=number)
        (chapter / f"{speaker}-7.trans.txt").write_text(
            f"{speaker}-7-0000 A FIRST LINE\n{speaker}-7-0001 IT'S THE SECOND\n"
        )
    return tmp_path


def test_parts_become_splits(source: Path, params) -> None:
    found = {r.utterance_id: r for r in read_librispeech(params("librispeech"), source)}
    assert {name: (r.split, r.speaker) for name, r in found.items()} == {
        "19-7-0000": ("train", "19"),
        "19-7-0001": ("train", "19"),
        "84-7-0000": ("valid", "84"),
        "84-7-0001": ("valid", "84"),
        "61-7-0000": ("test", "61"),
        "61-7-0001": ("test", "61"),
    }
    second = found["61-7-0001"]
    assert second.text == "IT'S THE SECOND"
    assert second.source_path == "LibriSpeech/test-clean/61/7/61-7-0001.flac"
    assert len(second.decode()[0]) == 1600


def test_other_parts_can_be_chosen(source: Path, params) -> None:
    settings = params(
        "librispeech",
        librispeech={"train": ["dev-clean"], "valid": [], "test": ["test-clean"]},
    )
    splits = {r.utterance_id: r.split for r in read_librispeech(settings, source)}
    assert splits["84-7-0000"] == "train"
    assert "19-7-0000" not in splits


def test_an_unknown_part_is_named(source: Path, params) -> None:
    settings = params("librispeech", librispeech={"train": ["train-dirty"]})
    words = r"part 'train-dirty' does not exist.*correct prepare\.librispeech\.train"
    with pytest.raises(CorpusError, match=words):
        list(read_librispeech(settings, source))


def test_a_missing_part_is_named(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match=r"LibriSpeech/train-clean-100 does not exist"):
        list(read_librispeech(params("librispeech"), tmp_path))


def test_a_missing_transcript_is_named(source: Path, params) -> None:
    transcripts = source / "LibriSpeech/dev-clean/84/7/84-7.trans.txt"
    transcripts.write_text("84-7-0000 A FIRST LINE\n")
    with pytest.raises(CorpusError, match=r"no transcript \(.*84-7-0001\)"):
        list(read_librispeech(params("librispeech"), source))
