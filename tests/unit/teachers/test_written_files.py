"""The examples of docs/teachers.md, and other forms of files, as they are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillery.data.text import normalise
from distillery.teachers.written_files import read_written
from tests.tiny import ROOT

PAGE = (ROOT / "docs/teachers.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"^```(?:json|csv|srt|vtt) (\S+)\n(.*?)^```", PAGE, re.M | re.S))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_pages_examples_are_read(tmp_path: Path, name: str) -> None:
    folder = name.endswith((".srt", ".vtt"))
    path = tmp_path / (f"said/wav/{name}" if folder else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EXAMPLES[name], encoding="utf-8")
    first = read_written(tmp_path / "said" if folder else path, "teacher.file")[0]
    assert first.name in ("wav/a.wav", "wav/a", "/data/corpus/wav/a.wav")
    assert normalise(first.answer.hypotheses[0][0], "lower") == "two coffees please"
    says_how_sure = name in ("texts.jsonl", "texts.csv", "faster-whisper.json", "verbose_json.json")
    assert (first.answer.confidence is not None) == says_how_sure
    if says_how_sure:
        assert first.answer.confidence == pytest.approx(0.9, abs=0.04)


def test_all_forms_that_the_issue_asks_for_have_an_example() -> None:
    assert set(EXAMPLES) == {
        "texts.jsonl",
        "texts.csv",
        "faster-whisper.json",
        "whisper.cpp.json",
        "nemo.json",
        "verbose_json.json",
        "a.srt",
        "a.vtt",
    }


def test_one_recordings_answer_is_named_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav.json"
    path.write_text(json.dumps([{"start": 0, "end": 1, "text": " One tea"}]))
    (found,) = read_written(path, "teacher.file")
    assert (found.name, found.answer.hypotheses[0][0]) == ("a.wav", "One tea")


def test_in_a_folder_json_comes_first_and_hidden_files_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "from json"}')
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nfrom srt\n")
    (tmp_path / "._a.json").write_text("\0")
    (tmp_path / "notes.md").write_text("none")
    (found,) = read_written(tmp_path, "teacher.file")
    assert found.answer.hypotheses == (("from json", 0.0),)


def test_audio_as_hugging_face_has_it_names_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "said.parquet"
    row = {"audio": {"path": "wav/a.wav", "bytes": b""}, "text": "One tea", "segments": None}
    pq.write_table(pa.Table.from_pylist([row]), path)
    (found,) = read_written(path, "teacher.file")
    assert (found.name, found.answer.hypotheses) == ("wav/a.wav", (("One tea", 0.0),))
