from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.speechcommands import read_speechcommands
from distillery.errors import CorpusError


@pytest.fixture
def source(tmp_path: Path, write_recording) -> Path:
    folder = tmp_path / "SpeechCommands/speech_commands_v0.02"
    for name in (
        "yes/0a7c2a8d_nohash_0",
        "yes/0a7c2a8d_nohash_1",
        "no/0a7c2a8d_nohash_0",
        "no/11111111_nohash_0",
        "yes/22222222_nohash_0",
        "_background_noise_/pink_noise",
    ):
        write_recording(folder / f"{name}.wav", 0.1)
    (folder / "validation_list.txt").write_text("no/11111111_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("yes/22222222_nohash_0.wav\n")
    return tmp_path


def test_words_speakers_and_official_lists_are_read(source: Path, params) -> None:
    found = {r.utterance_id: r for r in read_speechcommands(params("speechcommands"), source)}
    assert {name: (r.text, r.speaker, r.split) for name, r in found.items()} == {
        "yes-0a7c2a8d-0": ("yes", "0a7c2a8d", "train"),
        "yes-0a7c2a8d-1": ("yes", "0a7c2a8d", "train"),
        "no-0a7c2a8d-0": ("no", "0a7c2a8d", "train"),
        "no-11111111-0": ("no", "11111111", "valid"),
        "yes-22222222-0": ("yes", "22222222", "test"),
    }
    path = "SpeechCommands/speech_commands_v0.02/no/11111111_nohash_0.wav"
    assert found["no-11111111-0"].source_path == path
    assert len(found["no-11111111-0"].decode()[0]) == 1600


def test_a_missing_corpus_says_the_layout(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match="a folder per word, validation_list"):
        list(read_speechcommands(params("speechcommands"), tmp_path))


def test_a_missing_list_is_named(source: Path, params) -> None:
    (source / "SpeechCommands/speech_commands_v0.02/testing_list.txt").unlink()
    with pytest.raises(CorpusError, match=r"testing_list\.txt does not exist"):
        list(read_speechcommands(params("speechcommands"), source))
