from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.an4 import read_an4
from distillery.errors import CorpusError


@pytest.fixture
def source(tmp_path: Path, write_recording) -> Path:
    (tmp_path / "etc").mkdir()
    for split, folder, speaker, text in (
        ("train", "an4_clstk", "anna", "<s> GO ON </s> (an1-anna-b)"),
        ("test", "an4test_clstk", "ben", "STOP (an1-ben-b)"),
    ):
        file_id = f"{folder}/{speaker}/an1-{speaker}-b"
        (tmp_path / f"etc/an4_{split}.fileids").write_text(f"{file_id}\n\n")
        (tmp_path / f"etc/an4_{split}.transcription").write_text(f"{text}\n")
        kind = "wav" if split == "train" else "flac"
        write_recording(tmp_path / kind / f"{file_id}.{kind}", 0.1)
    return tmp_path


def test_lists_transcripts_and_audio_come_together(source: Path, params) -> None:
    found = {r.utterance_id: r for r in read_an4(params("an4"), source)}
    assert {name: (r.text, r.speaker, r.split, r.source_path) for name, r in found.items()} == {
        "an1-anna-b": ("GO ON", "anna", "train", "wav/an4_clstk/anna/an1-anna-b.wav"),
        "an1-ben-b": ("STOP", "ben", "test", "flac/an4test_clstk/ben/an1-ben-b.flac"),
    }
    assert len(found["an1-ben-b"].decode()[0]) == 1600


def test_a_missing_corpus_says_the_layout(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match="must hold etc/an4_"):
        list(read_an4(params("an4"), tmp_path / "an4"))


def test_a_missing_list_is_named(source: Path, params) -> None:
    (source / "etc/an4_test.fileids").unlink()
    with pytest.raises(CorpusError, match=r"an4_test\.fileids: no such file"):
        list(read_an4(params("an4"), source))


def test_absent_audio_is_counted_and_the_first_are_named(source: Path, params) -> None:
    with open(source / "etc/an4_train.fileids", "a") as file:
        file.writelines(f"an4_clstk/anna/an{number}-anna-b\n" for number in range(2, 8))
    words = r"6 of 7 train utterances have no audio .*'an4_clstk/anna/an4-anna-b'\]; unpack"
    with pytest.raises(CorpusError, match=words):
        list(read_an4(params("an4"), source))


def test_a_missing_transcript_is_named(source: Path, params) -> None:
    (source / "etc/an4_test.transcription").write_text("STOP (an2-ben-b)\n")
    with pytest.raises(CorpusError, match="no line for 'an1-ben-b'"):
        list(read_an4(params("an4"), source))


def test_a_broken_transcript_line_is_named(source: Path, params) -> None:
    (source / "etc/an4_test.transcription").write_text("STOP an1-ben-b\n")
    with pytest.raises(CorpusError, match="line 1 is 'STOP an1-ben-b', expected TEXT"):
        list(read_an4(params("an4"), source))


def test_the_published_corpus_is_read_whole(params, shared_data: Path) -> None:
    found = list(read_an4(params("an4"), shared_data / "an4"))
    assert sum(recording.split == "train" for recording in found) == 844
    assert sum(recording.split == "test" for recording in found) == 130
    assert len({recording.speaker for recording in found}) == 76
    assert not any(
        "<s>" in str(recording.text) or "(" in str(recording.text) for recording in found
    )


@pytest.mark.parametrize("file_id", ["../../secret", "/etc/secret", "x/../../../secret"])
def test_a_list_names_no_file_outside(source: Path, params, file_id: str) -> None:
    with open(source / "etc/an4_train.fileids", "a") as file:
        file.write(f"{file_id}\n")
    with pytest.raises(CorpusError, match="its lists name .*expected a file inside"):
        list(read_an4(params("an4"), source))
