"""Teachers on the validation split, those that lack letters of its transcripts included."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillery.data.manifest import PreparedData, labelled
from distillery.data.text import Vocabulary
from distillery.params.cache import CacheParams
from distillery.studies.examination import examine
from tasks.prepare import prepare
from tests.tiny import LETTERS, tiny_params, write_corpus, write_params
from tests.unit.tracking.test_fetched import recogniser


@pytest.mark.parametrize("alphabet", [LETTERS, "ab"])
def test_a_letter_that_a_teacher_cannot_say_is_an_error_and_no_obstacle(
    tmp_path: Path, alphabet: str
) -> None:
    write_corpus(tmp_path / "corpus")
    write_params(tmp_path, tiny_params())
    prepare(tmp_path)
    data = PreparedData.open(tmp_path / "data/prepared")
    rows = labelled(data, "valid")
    assert "c" in "".join(rows["text"])
    teacher = recogniser(vocabulary=Vocabulary.from_alphabet(alphabet))
    found = examine(teacher, data, rows, CacheParams())
    assert (len(found.texts), found.calibrated_over) == (len(rows), "tokens")
    assert found.texts == [teacher.transcribe([data.waveform(row)])[0] for row in rows.itertuples()]
