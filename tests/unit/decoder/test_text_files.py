"""Text files of the domain: spelt as transcripts are, and what is wrong with them is told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from distillery.data.manifest import PreparedData
from distillery.decoder.text_files import check_decoder_files, read_texts
from distillery.errors import CorpusError
from distillery.params.decoder import DecoderParams
from tests.tiny_workspaces import put_tones

SETTING = "register.decoder.language_model.files"


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    put_tones(tmp_path)
    return PreparedData.open(tmp_path / "data/prepared")


def read(data: PreparedData, folder: Path, content: str | bytes) -> list[str]:
    raw = content.encode() if isinstance(content, str) else content
    (folder / "domain.txt").write_bytes(raw)
    return read_texts(folder, ["domain.txt"], SETTING, data)


def test_lines_are_spelt_as_transcripts_are(data: PreparedData, tmp_path: Path) -> None:
    assert read(data, tmp_path, "A Cab, abb!\r\n\n  bab \n") == ["a cab abb", "bab"]
    assert read(data, tmp_path, "cáb\n") == ["cab"]  # a bare letter there is
    assert read(data, tmp_path, "cab\nab".encode("utf-16")) == ["cab", "ab"]


def test_lines_with_other_letters_are_left_out_and_counted(
    data: PreparedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(data, tmp_path, "cab\nzoo\nab\n") == ["cab", "ab"]
    assert "1 of 3 lines hold characters that transcripts may not hold" in caplog.text
    assert "the first in line 2: 'zoo' holds ['o', 'z']" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("zoo\nmoo\ncab\n", "2 of 3 lines hold characters .* take another file"),
        ("", "holds no sentence"),
        ("\n \n", "holds no sentence"),
        ("--\n...\n", "none of 2 lines holds a word"),
        (b"caf\xe9 cab\n", "line 1: cannot be read: .* save it again as UTF-8"),
    ],
)
def test_what_is_no_text_of_the_domain_is_named(
    data: PreparedData, tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=rf"domain\.txt.*{message}"):
        read(data, tmp_path, content)


def test_a_file_that_is_not_there_is_named(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"{SETTING}: .*nowhere\.txt: no such file"):
        read_texts(tmp_path, ["nowhere.txt"], SETTING, data)


def test_files_are_looked_at_before_any_work(tmp_path: Path) -> None:
    check_decoder_files(tmp_path, None)
    check_decoder_files(tmp_path, DecoderParams())
    for section in ("language_model", "lexicon"):
        params = DecoderParams.model_validate({section: {"files": ["nowhere.txt"]}})
        with pytest.raises(CorpusError, match=rf"{section}\.files: .*nowhere\.txt: no such file"):
            check_decoder_files(tmp_path, params)
