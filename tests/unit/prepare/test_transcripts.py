"""Transcripts from a table beside the corpus, of any kind of corpus."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from distillery.corpora.base import Recording
from distillery.corpora.segments import Segment
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError, ManifestError
from distillery.params.prepare import PrepareParams
from distillery.prepare.prepare import prepare
from distillery.prepare.transcripts import with_transcripts

Merge = Callable[..., dict[str, str | None]]


def recording(name: str, path: str, text: str | None = None, **more: object) -> Recording:
    return Recording(name, path, None, text, None, Path(path), **more)  # type: ignore[arg-type]


RECORDINGS = [
    recording("a", "sub/a.wav"),
    recording("b", "b.wav", "as published"),
    recording("é", unicodedata.normalize("NFD", "é.wav")),
    recording("long-1", "long.wav", segment=Segment(0.0, 1.0)),
    recording("long-2", "long.wav", segment=Segment(1.0, 1.0)),
]


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    """Merge a table into RECORDINGS and return all texts by id."""

    def merge(content: str, name: str = "texts.csv") -> dict[str, str | None]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        params = PrepareParams(corpus="an4", source="x", transcripts=name)
        return {
            item.utterance_id: item.text for item in with_transcripts(params, tmp_path, RECORDINGS)
        }

    return merge


def test_filled_in_rows_fill_gaps_and_stand_in_for_the_corpus_and_are_counted(
    merge: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    texts = merge("path,text\nsub/a.wav,one\n./b.wav,two\né.wav,three\nlong.wav,\nnowhere.wav,\n")
    assert texts == {"a": "one", "b": "two", "é": "three", "long-1": None, "long-2": None}
    assert "3 of 5 rows are filled in; 2 recordings had no transcript, of 1 it takes" in caplog.text


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\ufeffpath;why;text;utterance_id\nlong.wav;x;one, two;long-2\n", "texts.csv"),
        ("path\ttext\tutterance_id\nlong.wav\tone, two\tlong-2\n", "texts.tsv"),
        ('utterance_id,text\nlong-2,"one, two"\n', "texts.csv"),
        ('{"audio_filepath": "long.wav", "utterance_id": "long-2", "text": "one, two"}', "t.jsonl"),
    ],
)
def test_tables_of_spreadsheets_and_others_are_read_and_ids_tell_segments_apart(
    merge: Merge, content: str, name: str
) -> None:
    assert merge(content, name)["long-2"] == "one, two"


def test_an_absolute_path_inside_the_corpus_is_found(merge: Merge, tmp_path: Path) -> None:
    assert merge(f"path,text\n{tmp_path / 'b.wav'},two\n")["b"] == "two"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,text\nb.wav,x\nmissing.wav,y\n",
            r"row 3: path 'missing.wav' is no recording of the",
        ),
        ("path,text\nlong.wav,x\n", r"row 2: path 'long.wav' holds 2 recordings \(long-1, long-2"),
        (
            "path,text,utterance_id\nb.wav,x,a\n",
            r"row 2: utterance_id 'a' is no recording at 'b.wa",
        ),
        ("utterance_id,text\nzz,x\n", "row 2: utterance_id 'zz' is no recording in the corpus"),
        ("path,text\n,x\n", "row 2: names no recording, expected path or utterance_id"),
        ("path,text\nb.wav,x\nb.wav,y\n", "row 3: utterance 'b' has another text in row 2"),
        ("path,words\nb.wav,x\n", r"holds columns \['path', 'words'\], expected path or utter"),
        ("file,text\nb.wav,x\n", r"holds columns \['file', 'text'\], expected path or utter"),
        ("path,text\nx.wav,x\ny.wav,y\n", "2 rows cannot be used:\n.*'x.wav'.*\n.*'y.wav'"),
    ],
)
def test_rows_that_cannot_be_meant_are_named(merge: Merge, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        merge(content)


def test_equal_rows_are_one(merge: Merge) -> None:
    assert merge("path,text\nb.wav,x y\nb.wav,x  y\n")["b"] == "x y"


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "none.csv", "none.csv does not exist; put a CSV"),
        ("", "../texts.csv", "leaves the corpus folder"),
        ("grammar.yaml", "texts.csv", "which is no folder of recordings; remove the setting"),
    ],
)
def test_a_table_that_is_not_in_the_corpus_is_an_error(
    tmp_path: Path, source: str, name: str, message: str
) -> None:
    (tmp_path / "grammar.yaml").touch()
    params = PrepareParams(corpus="an4", source="x", transcripts=name)
    with pytest.raises(CorpusError, match=message):
        with_transcripts(params, tmp_path / source, RECORDINGS)


def test_what_a_person_wrote_is_not_hidden_and_moves_nothing_between_splits(
    tmp_path: Path, write_recording
) -> None:
    source = tmp_path / "corpus"
    lines = ["path,text,split"]
    for index in range(30):
        write_recording(source / f"{index}.wav", 0.5, 8000, index)
        lines.append(f"{index}.wav,{'' if index % 2 and index > 5 else 'one'},")
    (source / "manifest.csv").write_text("\n".join(lines))

    def prepared(transcripts: str | None) -> PreparedData:
        params = PrepareParams(
            corpus="manifest",
            source="corpus",
            sample_rate_hz=8000,
            labelled_fraction=0.2,
            transcripts=transcripts,
        )
        folder, kept = tmp_path / "prepared", tmp_path / "splits.csv"
        prepare(params, source, folder, tmp_path, decisions=kept)
        return PreparedData.open(folder)

    before = prepared(None)
    train = before.split("train")
    names = [*train.loc[train["text"].isna(), "source_path"][:9]]
    assert before.summary.num_hidden_transcripts > 5
    (source / "new.csv").write_text("path,text\n" + "".join(f"{n},Hello\n" for n in names))
    after = prepared("new.csv")
    assert after.frame["split"].tolist() == before.frame["split"].tolist()
    found = after.frame[after.frame["source_path"].isin(names)]
    assert found["text"].tolist() == ["hello"] * len(names)
    assert after.frame["text"].notna().sum() == before.frame["text"].notna().sum() + len(names)
    assert after.frame["audio_key"].tolist() == before.frame["audio_key"].tolist()
