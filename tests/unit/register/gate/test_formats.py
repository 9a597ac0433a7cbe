"""Students at the gate as they are served: with their decoder's texts, errors and time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distillery.decoder.decoder import Decoder
from distillery.evaluate.predictions import as_served
from distillery.register.gate.formats import formats_of_student
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from tests.tiny import speak
from tests.tiny_decoder import put_decoder
from tests.tiny_students import talking_student

HEARD = pd.DataFrame(
    {
        "format": ["onnx", "onnx"],
        "utterance_id": ["a", "b"],
        "hypothesis": ["cab", "abc"],
        "word_errors": [1, 2],
        "hypothesis_lm": pd.Series(["a cab", None], dtype="object"),
        "word_errors_lm": pd.Series([0, None], dtype="Int64"),
    }
)


def test_what_was_searched_counts_where_it_was() -> None:
    served = as_served(HEARD)
    assert served["word_errors"].tolist() == [0, 2]
    assert served["word_errors"].dtype == HEARD["word_errors"].dtype
    assert served["hypothesis"].tolist() == ["a cab", "abc"]
    plain = HEARD.drop(columns=["hypothesis_lm", "word_errors_lm"])
    assert as_served(plain) is plain


def test_a_student_runs_with_its_decoder_in_every_format(tmp_path: Path) -> None:
    saved, exported = tmp_path / "saved", tmp_path / "exported"
    saved.mkdir()
    exported.mkdir()
    student = talking_student(0)
    for folder in (saved, exported):
        student.save(folder)
    (exported / MODEL_FILES["onnx"]).write_bytes(to_onnx(student.network, 16))
    samples = [speak("ab cab", seed) for seed in range(3)]
    found = {}
    for has_decoder in (False, True):
        if has_decoder:
            put_decoder(exported)
        formats = formats_of_student(saved, HEARD, exported, HEARD, 0.3, exported)
        assert [item.name for item in formats] == ["torch", "onnx"]
        assert all(item.is_searched is has_decoder for item in formats)
        assert all(list(item.predictions["word_errors"]) == [0, 2] for item in formats)
        one, other = (list(item.transcribe(samples)) for item in formats)
        assert one == other
        found[has_decoder] = one
    decoder = Decoder.load(exported, student.vocabulary)
    assert found[True] == [decoder.text(item) for item in student.log_probs(samples)]
    assert found[False] == student.transcribe(samples) != found[True]
