"""A corpus may lie nowhere that stages write."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillery.errors import ParamsError
from distillery.prepare.source import source_fault
from flows.doctor import quick_checks
from tasks.prepare import prepare
from tests.tiny import tiny_params, write_corpus, write_params


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("data", "'data' holds data/prepared, which the stages write"),
        ("data/", "'data/' holds data/prepared"),
        (".", "holds data/prepared"),
        ("..", "holds data/prepared"),
        ("/", "holds data/prepared"),
        ("raw/../data", "holds data/prepared"),
        ("link", "'link' holds data/prepared"),
        ("data/prepared", "holds data/prepared"),
        ("data/prepared/mine", "lies in data/prepared"),
        ("models", "holds models"),
        ("models/mine", "lies in models"),
        ("reports/x", "lies in reports"),
    ],
)
def test_a_corpus_among_outputs_is_refused(tmp_path: Path, source: str, words: str) -> None:
    root = tmp_path / "workspace"
    (root / "data").mkdir(parents=True)
    (root / "link").symlink_to("data")
    fault = source_fault(root, source)
    assert fault is not None
    assert words in fault
    assert fault.endswith("put it into one, such as data/raw, and set prepare.source to it")


@pytest.mark.parametrize(
    "source", ["data/raw", "corpus", "examples/commands-grammar.yaml", "database", "../elsewhere"]
)
def test_other_places_are_fine(tmp_path: Path, source: str) -> None:
    assert source_fault(tmp_path / "workspace", source) is None


def test_it_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", num_speakers=4, per_speaker=1)
    write_params(tmp_path, tiny_params(source="data"))
    with pytest.raises(ParamsError, match="prepare.source: 'data' holds data/prepared"):
        prepare(tmp_path)
    assert not (tmp_path / "data/prepared").exists()
    (finding,) = (item for item in quick_checks(tmp_path) if item.check == "corpus")
    assert not finding.ok
    assert "holds data/prepared" in finding.found
