from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.commonvoice import read_commonvoice
from distillery.errors import CorpusError

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"


@pytest.fixture
def source(tmp_path: Path, write_recording) -> Path:
    for name, client in (("train", "c1"), ("dev", "c2"), ("test", "c3")):
        write_recording(tmp_path / f"clips/common_voice_en_{client}.mp3", 0.5)
        (tmp_path / f"{name}.tsv").write_text(
            f'{HEADER}{client}\tcommon_voice_en_{client}.mp3\tid\t"Well," said {client}.\t2\n'
        )
    return tmp_path


def test_lists_become_splits_and_mp3_is_decoded(source: Path, params) -> None:
    found = {r.split: r for r in read_commonvoice(params("commonvoice"), source)}
    assert {split: r.speaker for split, r in found.items()} == {
        "train": "c1",
        "valid": "c2",
        "test": "c3",
    }
    assert found["valid"].utterance_id == "common_voice_en_c2"
    assert found["valid"].source_path == "clips/common_voice_en_c2.mp3"
    samples, rate = found["valid"].decode()
    assert (len(samples), rate) == (8000, 16000)


def test_a_quotation_mark_is_text_and_joins_no_lines(source: Path, params) -> None:
    with open(source / "train.tsv", "a") as file:
        file.write('c4\tcommon_voice_en_c1\tid\t"Open quotes only\t0\n')
        file.write("c5\tcommon_voice_en_c1.mp3\tid\tAnd a line after it\t0\n")
    texts = [r.text for r in read_commonvoice(params("commonvoice"), source) if r.split == "train"]
    assert texts == ['"Well," said c1.', '"Open quotes only', "And a line after it"]


def test_a_missing_list_is_named(source: Path, params) -> None:
    (source / "dev.tsv").unlink()
    with pytest.raises(CorpusError, match=r"dev\.tsv does not exist"):
        list(read_commonvoice(params("commonvoice"), source))


def test_a_missing_column_is_named(source: Path, params) -> None:
    (source / "test.tsv").write_text("client_id\tpath\ttext\n")
    with pytest.raises(CorpusError, match=r"columns \['sentence'\] are missing, found \['client"):
        list(read_commonvoice(params("commonvoice"), source))


def test_missing_clips_are_counted_and_named(source: Path, params) -> None:
    (source / "clips/common_voice_en_c3.mp3").unlink()
    words = r"1 of 1 clips in test\.tsv are missing, the first \['common_voice_en_c3\.mp3'\]"
    with pytest.raises(CorpusError, match=words):
        list(read_commonvoice(params("commonvoice"), source))


def test_a_download_is_refused_with_the_way_to_get_it(tmp_path: Path, params) -> None:
    with pytest.raises(CorpusError, match="accept the terms at"):
        list(read_commonvoice(params("commonvoice", download=True), tmp_path))


@pytest.mark.parametrize("clip", ["../../secret", "/etc/secret", "x/../../../secret", "a\0b"])
def test_a_list_names_no_file_outside(source: Path, params, clip: str) -> None:
    with open(source / "train.tsv", "a") as file:
        file.write(f"c4\t{clip}\tid\tgo\t0\n")
    with pytest.raises(CorpusError, match="its lists name .*expected a file inside"):
        list(read_commonvoice(params("commonvoice"), source))
