"""The page of a run: what is marked, chosen and escaped."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data.units import Unit
from distillery.evaluate.summary import Summary, TestData
from distillery.register.run_page import (
    TEMPLATE,
    ReportInputs,
    mark_differences,
    render_page,
    worst_examples,
)

ROOT = Path(__file__).resolve().parents[3]


def test_the_template_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packaged = {
        path
        for package, names in settings["package-data"].items()
        for name in names
        for path in ROOT.joinpath(*package.split(".")).glob(name)
    }
    others = {
        path
        for path in (ROOT / "distillery").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert packaged == others
    assert TEMPLATE in packaged


def test_words_that_differ_are_marked() -> None:
    assert mark_differences("go to rome", "go to rome") == "go to rome"
    assert mark_differences("go to rome", "go rome") == "go <del>to</del> rome"
    assert mark_differences("go to rome", "go to rome now") == "go to rome <ins>now</ins>"
    assert mark_differences("a b", "a c") == "a <del>b</del> <ins>c</ins>"
    assert mark_differences("", "") == ""


def test_expected_phrases_that_are_missing_are_marked() -> None:
    marked = mark_differences("two shots; large", "a large one", Unit.PHRASE)
    assert marked == "a large one <del>two shots</del>"
    assert mark_differences("large", "a large one", Unit.PHRASE) == "a large one"
    assert mark_differences("a b", "a c", Unit.TEACHER_WORD) == "a <del>b</del> <ins>c</ins>"


def test_markup_in_texts_is_text() -> None:
    marked = mark_differences("<script>alert(1)</script>", "<b>&")
    assert "<script>" not in marked
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in marked
    assert "&lt;b&gt;&amp;" in marked


def rows(model: str, seed: int | None, texts: list[tuple[str, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": model,
            "seed": pd.array([seed] * len(texts), dtype="Int64"),
            "utterance_id": [f"u{i}" for i in range(len(texts))],
            "speaker": None,
            "duration_seconds": [1.0, 30.0, 1.0][: len(texts)],
            "text": [text for text, _, _ in texts],
            "hypothesis": [heard for _, heard, _ in texts],
            "word_errors": [errors for _, _, errors in texts],
        }
    )


def inputs() -> ReportInputs:
    student = [("a b", "a", 1), ("c d", "", 2), ("e", "e", 0)]
    return ReportInputs(
        heading="<i>run</i>",
        outcome="fine",
        summary=Summary(
            confidence=0.95,
            seeds=(0, 1),
            data=TestData(utterances=3, words=5, hours=0.01, speakers=0),
            models=(),
            exports={},
            comparisons={},
            filters={},
            language_models={},
        ),
        predictions=pd.concat(
            [
                rows("teacher", None, [("a b", "a b", 0)] * 3),
                rows("controls/conv", 1, [("a b", "x", 2)] * 3),
                rows("students/conv", 0, [("a b", "zzz", 9)] * 3),
                rows("students/conv", 1, student),
            ]
        ),
        student="students/conv",
        seed=1,
    )


def test_the_worst_of_the_seed_come_first_beside_what_others_heard() -> None:
    found = worst_examples(inputs())
    assert [(item.utterance_id, item.word_errors) for item in found] == [("u1", 2), ("u0", 1)]
    assert found[1].others == [("teacher", "a b"), ("control", "x")]
    assert all(item.audio is None for item in found)


def test_long_recordings_stay_out() -> None:
    found = worst_examples(inputs(), lambda _: (np.zeros(80, np.float32), 8000))
    assert [item.audio is not None for item in found] == [False, True]


def test_a_page_without_errors_says_so_and_escapes_its_heading() -> None:
    plain = inputs()
    flawless = ReportInputs(
        plain.heading, plain.outcome, plain.summary, plain.predictions, "students/crnn", 0
    )
    page = render_page(flawless)
    assert "The student made none on this test split." in page
    assert "&lt;i&gt;run&lt;/i&gt;" in page
    assert "<i>" not in page


def test_characters_are_marked_where_there_are_no_words() -> None:
    marked = mark_differences("今天好", "今夭好", Unit.CHARACTER)
    assert marked == "今<del>天</del><ins>夭</ins>好"


def test_the_page_names_the_rate_that_was_counted() -> None:
    plain = inputs()
    data = plain.summary.data.model_copy(update={"unit": Unit.CHARACTER})
    summary = plain.summary.model_copy(update={"data": data})
    page = render_page(replace(plain, summary=summary, plots={"wer_by_speaker": b"png"}))
    assert "CER by speaker" in page and "most character errors of" in page
    assert "5 characters" in page and "2 character errors" in page
    assert "WER" not in page and "word error" not in page
