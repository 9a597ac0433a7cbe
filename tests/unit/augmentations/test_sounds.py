"""Folders of noises and impulse responses, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.augmentations.sounds import read_sounds
from distillery.errors import AudioError, CorpusError
from tests.unit.augmentations.conftest import Lab


def test_recordings_come_in_the_order_of_their_paths_at_one_rate(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, level, rate in (("b/two.WAV", 0.5, 16000), ("a.flac", 0.25, 8000)):
        soundfile.write(tmp_path / name, np.full(1600, level), rate)
    (tmp_path / "LICENSE").write_text("free")
    sounds = read_sounds(tmp_path, 8000, "noise.folder")
    assert [len(item) for item in sounds.recordings] == [1600, 800]
    assert sounds.recordings[0][800] == 0.25 * 32768
    again = read_sounds(tmp_path, 8000, "noise.folder")
    assert again.digest == sounds.digest
    soundfile.write(tmp_path / "a.flac", np.full(1600, 0.125), 8000)
    assert read_sounds(tmp_path, 8000, "noise.folder").digest != sounds.digest


def test_a_missing_folder_a_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="noise.folder: '.*none' does not exist, expected a fol"):
        read_sounds(tmp_path / "none", 8000, "noise.folder")
    (tmp_path / "file.wav").write_text("text")
    with pytest.raises(CorpusError, match=r"noise.folder: '.*file.wav' is a file, expected a fold"):
        read_sounds(tmp_path / "file.wav", 8000, "noise.folder")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    with pytest.raises(CorpusError, match="holds no recording, expected WAV, FLAC, "):
        read_sounds(tmp_path / "texts", 8000, "noise.folder")


def test_a_damaged_or_silent_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no audio at all")
    with pytest.raises(AudioError, match="noise.folder: .*x.wav: cannot be decoded"):
        read_sounds(tmp_path, 8000, "noise.folder")
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 8000)
    with pytest.raises(AudioError, match="noise.folder: .*x.wav: is silent, expected sound"):
        read_sounds(tmp_path, 8000, "noise.folder")


@pytest.mark.parametrize("name", ["noise", "reverberation"])
def test_errors_name_the_setting_and_folders_start_from_the_workspace(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    run = lab.distillation(tmp_path, augmentation={name: {"folder": "absent"}})
    with pytest.raises(CorpusError, match=f"distill.augmentation.{name}.folder: .*absent' does"):
        _ = run.effects
    (tmp_path / "absent").mkdir()
    soundfile.write(tmp_path / "absent/a.wav", np.full(100, 0.5), 8000)
    assert set(run.effects.digests) == {name}
