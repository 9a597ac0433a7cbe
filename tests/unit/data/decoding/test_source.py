"""Windows into files, and files that are none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from distillery.data.decoding.source import Source, Window, opened
from distillery.errors import AudioError, EmptyAudio


def test_a_window_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with opened(tmp_path / "a", "a") as source:
        for window in (
            Window(source, 2, 8, b"ab"),
            Window(Source("b", 8, b"23456789"), 0, 6, b"ab"),
        ):
            assert window.read() == b"ab234567"
            assert window.seek(-3, io.SEEK_END) == 5
            assert window.read(2) == b"56"
            assert (window.tell(), window.seek(-99, io.SEEK_CUR)) == (7, 0)
            assert window.readable() and window.seekable()
            window.seek(50)
            assert window.read(1) == b""


def test_bytes_are_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.data.decoding.source.SEARCH_BYTES", 4)
    source = Source("a", 12, b"...abcdef...")
    assert source.find(b"abcdef", 0) == 3
    assert source.find(b"abcdef", 4) == -1
    assert source.at(10, 5) == b".."
    assert source.at(20, 5) == b""


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "empty.wav").touch()
    for name in ("pipe.wav", "loop.wav", "absent.wav", "."):
        with pytest.raises(AudioError, match="a: no such file"), opened(tmp_path / name, "a"):
            pass
    with pytest.raises(EmptyAudio, match="holds 0 bytes"), opened(tmp_path / "empty.wav", "a"):
        pass
