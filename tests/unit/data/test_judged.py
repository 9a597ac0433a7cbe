"""From recordings without transcripts to an evaluation: everything is called by its name."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.units import Unit
from distillery.distill.kept_texts import language_model_texts
from distillery.errors import CorpusError, ModelError
from distillery.evaluate.summary import Summary
from distillery.evaluate.tables import markdown_table, remarks, render_table
from distillery.params.distill import FilterParams
from distillery.register.metrics import model_metrics
from distillery.register.register import test_digest as digest_of_test
from distillery.teacher_cache.store import TeacherCache
from distillery.tracking.fetched import put_model
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests import shared
from tests.tiny import tiny_params, write_corpus, write_params

MODEL = "models:/others/1"


def make_teacher_of_others(root: Path) -> None:
    """Train a teacher that hears something, on data that nobody sees again."""
    write_corpus(root / "corpus", per_speaker=8)
    params = tiny_params()
    params["teacher"]["training"] |= {
        "num_epochs": 20,
        "learning_rate": 1e-2,
        "batch_seconds": 4.0,
        "specaugment": {"num_time_masks": 0, "num_frequency_masks": 0},
    }
    params["teacher"]["architecture"] |= {"hidden_size": 32, "dropout": 0.0}
    write_params(root, params)
    prepare(root)
    teacher(root)


def write_bare(root: Path, *, phrases: bool, epochs: int) -> None:
    """Write a workspace of recordings without transcripts, with that teacher."""
    others = shared.once("others", make_teacher_of_others)
    write_corpus(root / "corpus")
    path = root / "corpus/manifest.csv"
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *(["expected"] if phrases else [])])
        writer.writeheader()
        for row in rows:
            words = {"expected": ";".join(row["text"].split())} if phrases else {}
            writer.writerow({**row, **words, "text": ""})
    params = tiny_params()
    params["teacher"] = {"kind": "registry", "model": MODEL}
    params["register"]["decoder"] = {"weights": [0.5], "word_scores": [0.0]}
    params["distill"] |= {"control": "auto", "objective": {"teacher_share": 1.0}, "filter": {}}
    params["distill"]["training"]["num_epochs"] = epochs
    write_params(root, params)
    put_model(
        others / "models/teacher", root / "models/registered/teacher", MODEL, ("others", "1"), "0"
    )
    prepare(root)
    teacher(root)


def make_bare(root: Path) -> None:
    write_bare(root, phrases=False, epochs=8)
    cache(root)
    distill(root, "conv", 0)
    evaluate(root)


def make_phrases(root: Path) -> None:
    write_bare(root, phrases=True, epochs=2)
    cache(root)
    distill(root, "conv", 0)
    evaluate(root)


@pytest.fixture
def bare() -> Path:
    """A workspace after `evaluate`, nothing of which was ever transcribed; not to be changed."""
    return shared.once("bare", make_bare)


@pytest.fixture
def phrases() -> Path:
    """The same where it is known which words are spoken, in no order; not to be changed."""
    return shared.once("phrases", make_phrases)


def opened(root: Path) -> PreparedData:
    return judged(PreparedData.open(root / "data/prepared"), root / "models/teacher")


# --- against the teacher's texts ------------------------------------------------------------------


def test_the_teacher_hears_validation_and_test_once(bare: Path) -> None:
    said = json.loads((bare / "models/teacher/validation.json").read_text())
    assert said["wer"] is None
    data = opened(bare)
    judged_on = {*data.references("valid")["audio_key"], *data.references("test")["audio_key"]}
    assert judged_on == set(said["texts"])
    assert all(said["texts"].values())
    assert data.unit_of("valid") is data.unit_of("test") is Unit.TEACHER_WORD
    assert data.unit is Unit.WORD
    assert (bare / "curves/teacher.jsonl").read_text() == ""


def test_tables_and_verdict_say_what_was_compared_with_what(bare: Path) -> None:
    summary = Summary.read(bare / "reports/evaluation")
    assert summary.data.unit is Unit.TEACHER_WORD
    assert summary.teacher.wer.value == 0.0
    assert "WER vs teacher %" in markdown_table(summary)
    assert "WER vs teacher" in " ".join(render_table(summary).split())
    assert "CER %" not in markdown_table(summary)
    assert "words of the teacher's texts" in markdown_table(summary)
    (verdict,) = (line for line in remarks(summary) if line.startswith("conv: no control"))
    assert "what both get wrong is unknown" in verdict
    assert not summary.controls
    metrics = model_metrics(summary.students["conv"], summary)
    assert "asr/WER_vs_teacher_percent" in metrics
    assert "asr/WER_percent" not in metrics


def test_the_language_model_learns_from_the_teachers_texts(bare: Path) -> None:
    summary, data = Summary.read(bare / "reports/evaluation"), opened(bare)
    assert summary.students["conv"].wer_lm is not None
    folder = bare / "data/teacher_cache"
    store = TeacherCache.open_current(folder)
    rows = store.rows(list(data.split("train")["audio_key"]))
    heard, sure = store.greedy_texts(rows), store.confidences(rows)
    every = language_model_texts(data, folder, FilterParams(enabled=False), "both")
    assert every == [text for text in heard if text]
    limit = float(sorted(sure)[len(sure) // 2])
    kept = language_model_texts(data, folder, FilterParams(min_confidence=limit), "teacher")
    assert 0 < len(kept) < len(every)
    assert set(kept) <= {text for text, value in zip(heard, sure, strict=True) if value >= limit}
    assert language_model_texts(data, folder, FilterParams(), "files") == []
    with pytest.raises(CorpusError, match="split 'train': holds no transcribed"):
        language_model_texts(data, folder, FilterParams(), "transcripts")
    with pytest.raises(CorpusError, match=r"filter keeps none .*loosen distill\.filter"):
        language_model_texts(data, folder, FilterParams(min_confidence=1.0), "both")


def test_transcripts_come_before_the_teachers_texts_of_the_same(bare: Path) -> None:
    data = PreparedData.open(bare / "data/prepared")
    first = data.split("train")["utterance_id"].iloc[0]
    data.frame.loc[data.frame["utterance_id"] == first, "text"] = "cab"
    texts = language_model_texts(
        data, bare / "data/teacher_cache", FilterParams(enabled=False), "both"
    )
    assert texts[0] == "cab"
    assert len(texts) > 1


def test_the_test_splits_digest_is_of_what_models_are_judged_by(bare: Path) -> None:
    data = opened(bare)
    other = PreparedData(data.folder, data.frame, data.summary)
    other.teacher_texts = dict.fromkeys(data.teacher_texts, "b")
    assert digest_of_test(data) != digest_of_test(other)


def test_a_teacher_that_was_made_of_other_data_is_made_again(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare / "models/teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/validation.json"
    data = PreparedData.open(bare / "data/prepared")
    path.write_text('{"wer": 0.1}')
    with pytest.raises(ModelError, match=r"no text of split valid.*run make teacher"):
        judged(data, tmp_path / "teacher")
    path.write_text("{")
    with pytest.raises(ModelError, match=r"cannot be used.*run make teacher"):
        judged(data, tmp_path / "teacher")


# --- expected phrases -----------------------------------------------------------------------------


def test_phrases_choose_the_epoch_and_fill_the_tables(phrases: Path) -> None:
    summary = Summary.read(phrases / "reports/evaluation")
    assert summary.data.unit is Unit.PHRASE
    data = opened(phrases)
    assert summary.data.words == sum(
        len(Unit.PHRASE.parts(text)) for text in data.references("test")["text"]
    )
    said = json.loads((phrases / "models/teacher/validation.json").read_text())
    assert said.keys() == {"wer"}
    assert 0 <= said["wer"] <= 1
    assert "phrase accuracy %" in markdown_table(summary)
    row = summary.students["conv"]
    metrics = model_metrics(row, summary)
    assert metrics["test/phrase_accuracy"] == 1 - row.wer.value
    assert metrics["test/phrase_accuracy_low"] == 1 - row.wer.high
    assert metrics["asr/phrase_accuracy_percent"] == 100 * (1 - row.wer.value)
    assert "unknown, and the teacher's own" not in " ".join(remarks(summary))


def test_validation_and_test_are_called_each_by_its_own_truth(
    phrases: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(phrases, tmp_path / "copy"))
    path = root / "data/prepared/manifest.parquet"
    frame = PreparedData.open(path.parent).frame
    told = frame["expected"].str.replace(";", "").where(frame["split"] == "test")
    frame.assign(text=told).to_parquet(path)
    data = opened(root)
    assert (data.unit_of("valid"), data.unit_of("test")) == (Unit.PHRASE, Unit.WORD)  # a tie
    evaluate(root)
    summary = Summary.read(root / "reports/evaluation")
    assert (summary.data.unit, summary.data.valid_unit) == (Unit.WORD, Unit.PHRASE)
    assert "WER %" in markdown_table(summary)
