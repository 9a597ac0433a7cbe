from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.fsdd import read_fsdd
from distillery.errors import CorpusError


def test_the_name_of_a_file_says_it_all(tmp_path: Path, params, write_recording) -> None:
    for name in ("7_jackson_32", "0_theo_4", "3_yweweler_5"):
        write_recording(tmp_path / f"recordings/{name}.wav", 0.1, 8000)
    found = {r.utterance_id: r for r in read_fsdd(params("fsdd"), tmp_path)}
    assert {name: (r.text, r.speaker, r.split) for name, r in found.items()} == {
        "7_jackson_32": ("seven", "jackson", "train"),
        "0_theo_4": ("zero", "theo", "test"),
        "3_yweweler_5": ("three", "yweweler", "train"),
    }
    assert found["0_theo_4"].source_path == "recordings/0_theo_4.wav"
    assert found["0_theo_4"].decode()[1] == 8000


def test_a_missing_folder_is_named(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match=r"recordings does not exist; .*must hold recordings/"):
        list(read_fsdd(params("fsdd"), tmp_path / "fsdd"))


def test_a_folder_without_recordings_is_refused(tmp_path: Path, params) -> None:
    (tmp_path / "recordings").mkdir()
    with pytest.raises(CorpusError, match="holds no WAV file"):
        list(read_fsdd(params("fsdd"), tmp_path))


def test_an_unexpected_name_is_refused(tmp_path: Path, params, write_recording) -> None:
    write_recording(tmp_path / "recordings/seven_jackson_1.wav", 0.1)
    with pytest.raises(CorpusError, match=r"seven_jackson_1\.wav: unexpected name"):
        list(read_fsdd(params("fsdd"), tmp_path))


def test_the_published_corpus_is_read_whole(params, shared_data: Path) -> None:
    found = list(read_fsdd(params("fsdd"), shared_data / "fsdd"))
    assert len(found) == 3000
    assert sum(recording.split == "test" for recording in found) == 300
    assert len({recording.speaker for recording in found}) == 6
