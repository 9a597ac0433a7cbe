"""Students that write in pieces of words, beside one that writes in characters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distillery.architectures.known import load_recogniser
from distillery.data.manifest import PreparedData
from distillery.data.subwords import SUBWORDS_FILE, SubwordVocabulary
from distillery.data.text import Vocabulary
from distillery.params.distill import StudentParams
from distillery.params.whole import Params
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.teacher_cache.store import TeacherCache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tests.tiny import LETTERS, tiny_params, write_params
from tests.tiny_workspaces import put_cache

SMALL = {"type": "separable_conv", "channels": 16, "num_blocks": 1, "kernel_size": 5}
PIECES = {"architecture": SMALL, "tokens": {"type": "subwords", "size": 20}}
OBJECTIVE = {"teacher_share": 0.5, "frame": {"weight": 0.0}}


def settings(**students: Any) -> dict[str, Any]:
    distill = tiny_params()["distill"]
    training = {**distill["training"], "num_epochs": 8}
    return tiny_params(
        distill={**distill, "objective": OBJECTIVE, "training": training, "students": students},
        register={**tiny_params()["register"], "decoder": {}},
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where both have been trained and evaluated."""
    root = put_cache(tmp_path_factory.mktemp("workspace"))
    write_params(root, settings(conv={"architecture": SMALL}, pieces=PIECES))
    distill(root, "conv", 0)
    distill(root, "pieces", 0)
    evaluate(root)
    return root


def test_student_and_control_share_pieces_of_transcripts_and_kept_texts(workspace: Path) -> None:
    rows = PreparedData.open(workspace / "data/prepared").split("train")
    cache = TeacherCache.open_current(workspace / "data/teacher_cache")
    heard = cache.greedy_texts(cache.rows(rows["audio_key"]))
    pairs = zip(rows["text"], heard, strict=True)
    texts = [own if isinstance(own, str) else said for own, said in pairs]
    expected = SubwordVocabulary.learn(texts, 20, LETTERS)
    for kind in ("students", "controls"):
        found = load_recogniser(workspace / "models" / kind / "pieces/seed-0").vocabulary
        assert found == expected
    assert len(expected) > len(LETTERS) + 2  # some are longer than a character
    other = load_recogniser(workspace / "models/students/conv/seed-0").vocabulary
    assert type(other) is Vocabulary and other.is_of_characters
    assert not (workspace / "models/students/conv/seed-0" / SUBWORDS_FILE).exists()


def test_both_compete_in_one_table_by_words(workspace: Path) -> None:
    students = json.loads((workspace / "reports/metrics.json").read_text())["students"]
    assert {"conv", "pieces"} <= students.keys()
    assert all(0 < students[name]["wer_lm"] < 1 for name in ("conv", "pieces"))


def test_what_is_exported_writes_the_same_texts_and_times(workspace: Path) -> None:
    data = PreparedData.open(workspace / "data/prepared")
    waveforms = [data.waveform(row) for row in data.split("test").itertuples()]
    model = load_recogniser(workspace / "models/students/pieces/seed-0")
    (folder,) = (workspace / "models/exported").glob("pieces*")
    served = OnnxRecogniser(folder, "onnx")
    assert served.decoder is not None
    items = served.log_probs(waveforms)
    assert [served.vocabulary.decode(model.vocabulary.encode("abc ab"))] == ["abc ab"]
    texts = served.transcribe(waveforms)
    assert any(texts)
    for item, text in zip(items, texts, strict=True):
        assert served.decoder.text(item) == text
    for waveform, text in zip(waveforms, texts, strict=True):
        said = served.recognise(waveform)
        assert said.text == text
        assert " ".join(word.text for word in said.words) == text


def test_a_frame_wise_term_is_refused_before_anything_is_heard(tmp_path: Path) -> None:
    wrong = settings(pieces={**PIECES, "objective": {"frame": {"weight": 0.3}}})
    write_params(tmp_path, wrong)
    with pytest.raises(ValidationError, match="students.pieces: writes in subwords, and frame"):
        Params.model_validate(wrong)


def test_trainings_of_characters_are_named_as_before_there_were_others() -> None:
    plain = StudentParams.model_validate({"architecture": SMALL})
    said = StudentParams.model_validate({"architecture": SMALL, "tokens": {"type": "characters"}})
    assert "tokens" not in plain.model_dump() and plain.model_dump() == said.model_dump()
    assert StudentParams.model_validate(PIECES).model_dump()["tokens"] == PIECES["tokens"]


def test_generations_keep_the_first_ones_pieces(workspace: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(workspace, tmp_path / "copy"))
    changed = settings(pieces=PIECES)
    changed["distill"] |= {"generations": 2, "control": False}
    write_params(root, changed)
    distill(root, "pieces", 0)
    found, before = (
        load_recogniser(place / "models/students/pieces/seed-0").vocabulary
        for place in (root, workspace)
    )
    assert found == before
