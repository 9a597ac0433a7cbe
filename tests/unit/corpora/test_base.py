from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from distillery.corpora.base import Recording, require
from distillery.corpora.known import CORPORA
from distillery.errors import AudioError, CorpusError
from distillery.params.prepare import PrepareParams


def test_every_corpus_of_the_settings_has_a_reader() -> None:
    names = get_args(PrepareParams.model_fields["corpus"].annotation)
    assert set(CORPORA) == set(names)


def test_a_recording_decodes_its_file(tmp_path: Path, write_recording) -> None:
    written = write_recording(tmp_path / "a.wav", 0.1, 8000)
    samples, rate = Recording("a", "a.wav", None, None, None, tmp_path / "a.wav").decode()
    assert rate == 8000
    np.testing.assert_array_equal(samples, written)


def test_a_recording_decodes_through_its_function() -> None:
    samples = np.ones(3, np.int16)
    recording = Recording("a", "made", None, None, None, lambda: (samples, 22050))
    assert recording.decode() == (samples, 22050)


def test_errors_name_a_file_as_the_corpus_does(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^sub/a\.wav: no such file"):
        Recording("a", "sub/a.wav", None, None, None, tmp_path / "sub/a.wav").decode()


def test_what_is_there_is_not_downloaded(tmp_path: Path, params) -> None:
    def download(_: Path) -> None:
        raise AssertionError

    require(tmp_path, params("an4", download=True), tmp_path, "etc/", download)


def test_a_missing_corpus_says_path_layout_and_how_to_get_it(tmp_path: Path, params) -> None:
    def download(_: Path) -> None:
        raise AssertionError

    with pytest.raises(CorpusError) as caught:
        require(tmp_path / "x/etc", params("an4"), tmp_path / "x", "etc/ and wav/", download)
    message = str(caught.value)
    assert f"corpus an4: {tmp_path / 'x/etc'} does not exist" in message
    assert f"{tmp_path / 'x'} must hold etc/ and wav/" in message
    assert "Set prepare.download: true, or put the corpus there" in message


def test_a_missing_corpus_is_downloaded_when_allowed(tmp_path: Path, params) -> None:
    def download(source: Path) -> None:
        (source / "etc").mkdir(parents=True)

    require(
        tmp_path / "x/etc",
        params("an4", download=True),
        tmp_path / "x",
        "etc/",
        download,
    )
    assert (tmp_path / "x/etc").is_dir()


def test_a_download_that_brings_something_else_is_noticed(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        require(tmp_path / "x", params("an4", download=True), tmp_path, "x", lambda _: None)
