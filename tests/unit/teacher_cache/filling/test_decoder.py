"""A language model in the pipeline: the cached texts of the teacher, and what evaluate measures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import shipped_decoder
from distillery.data.manifest import PreparedData, labelled
from distillery.data.scoring import count_errors
from distillery.data.workspace import EVALUATION
from distillery.decoder.decoder import Decoder
from distillery.errors import CacheMismatch, ModelError
from distillery.evaluate.summary import CONTROL_FOLDER, Summary
from distillery.evaluate.tables import markdown_table, render_table
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.language_model.settings import read_tuned
from distillery.language_model.tuning import log_probs_of
from distillery.models.decoding import score_texts
from distillery.models.fingerprint import read_fingerprint
from distillery.params.whole import Params
from distillery.register.metrics import model_metrics
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.teacher_cache.filling.audit import audit, check_audit
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests.tiny import tiny_params, write_corpus, write_params

LANGUAGE_MODEL = {
    "for_teacher": True,
    "order": 2,
    "weights": [0.25, 1.0],
    "word_scores": [0.0, 4.0],
}


def change(root: Path, section: str, **changes: Any) -> None:
    """Change settings of a section in params.yaml."""
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings[section] |= changes
    write_params(root, settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which everything was run, from prepare to evaluate."""
    root = tmp_path_factory.mktemp("workspace")
    write_corpus(root / "corpus", num_speakers=8, per_speaker=4, unlabelled=1)
    settings = tiny_params(
        language_model=LANGUAGE_MODEL,
        register={"decoder": {"weights": [0.25, 1.0], "word_scores": [0.0]}},
        cache={"payload": {"num_hypotheses": 2}, "audit_utterances": 2},
    )
    settings["distill"]["objective"] = {"frame": {"weight": 0.0}}
    settings["distill"]["training"]["num_epochs"] = 2
    write_params(root, settings)
    prepare(root)
    teacher(root)
    cache(root)
    distill(root, "conv", 0)
    evaluate(root)
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same workspace, free to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_cache_holds_what_the_language_model_chose(finished: Path) -> None:
    places = Places.in_workspace(finished)
    data, store = PreparedData.open(places.data), TeacherCache.open_current(places.cache)
    recogniser = load_teacher(places.teacher)
    vocabulary = recogniser.vocabulary
    decoder = LanguageModelDecoder.load(places.decoder, vocabulary)
    rows = data.split("train").drop_duplicates("audio_key").reset_index(drop=True)
    items = log_probs_of(recogniser, data, rows)
    cached = store.rows(rows["audio_key"])
    known = set(" ".join(labelled(data, "train")["text"]).split())
    found = zip(items, store.greedy_texts(cached), store.hypotheses(cached), strict=True)
    for item, best, hypotheses in found:
        texts = [hypothesis.text for hypothesis in hypotheses]
        assert sorted(texts) == sorted(decoder.n_best([item], 2)[0])
        assert best == texts[0]
        assert set(best.split()) <= known
        (acoustic,) = score_texts(item[None], [len(item)], [texts], vocabulary)
        wanted = [s + decoder.text_score(t) for s, t in zip(acoustic, texts, strict=True)]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(wanted, abs=1e-3)
        assert wanted == sorted(wanted, reverse=True)
    assert store.namespace.teacher["language_model"]["beam_size"] == 20


def test_a_word_without_a_transcript_is_not_in_the_lexicon(finished: Path) -> None:
    places = Places.in_workspace(finished)
    data = PreparedData.open(places.data)
    lines = (places.decoder / "lexicon.txt").read_text("utf-8").splitlines()
    known = {word for text in labelled(data, "train")["text"] for word in text.split()}
    assert {line.split("\t")[0] for line in lines} == known


def test_the_decoder_says_what_it_was_worth_on_the_validation_split(finished: Path) -> None:
    tuned = read_tuned(Places.in_workspace(finished).decoder)
    assert tuned.settings.weight in LANGUAGE_MODEL["weights"]  # type: ignore[operator]
    validation = json.loads((finished / "models/teacher/validation.json").read_text())
    assert tuned.valid_wer_greedy == pytest.approx(validation["wer"])


def test_a_second_pass_makes_nothing_anew(copy: Path) -> None:
    places = Places.in_workspace(copy)
    change(copy, "cache", audit_utterances=0)
    (places.teacher / "model.safetensors").unlink()  # which nobody but the audit may want
    before = (places.decoder / "decoder.json").read_bytes()
    cache(copy)
    assert (places.decoder / "decoder.json").read_bytes() == before
    report = json.loads((copy / "reports/cache.json").read_text())
    assert report["num_teacher_forwards"] == 0


def test_without_it_the_namespace_is_that_of_the_best_path(copy: Path) -> None:
    places = Places.in_workspace(copy)
    settings = Params.load(copy / "params.yaml")
    cache_before = TeacherCache.open_current(places.cache)
    change(copy, "language_model", for_teacher=False)
    cache(copy)
    assert not places.decoder.exists()
    store = TeacherCache.open_current(places.cache)
    assert store.namespace == expected_namespace(places, settings.cache)
    assert "language_model" not in store.namespace.teacher
    with pytest.raises(CacheMismatch, match=r"was made with teacher\.language_model\."):
        cache_before.namespace.check(store.namespace)


def test_other_weights_are_another_namespace(copy: Path) -> None:
    places = Places.in_workspace(copy)
    before = TeacherCache.open_current(places.cache).folder
    change(copy, "language_model", weights=[0.5])
    cache(copy)
    after = TeacherCache.open_current(places.cache)
    assert after.folder != before
    assert after.namespace.teacher["language_model"]["weight"] == 0.5
    with pytest.raises(ModelError, match=r"decoder\.json: missing or unreadable; run make cache"):
        (places.decoder / "decoder.json").unlink()
        distill(copy, "conv", 0)


def test_an_unreadable_decoder_is_made_again(copy: Path) -> None:
    places = Places.in_workspace(copy)
    before = TeacherCache.open_current(places.cache).folder
    (places.decoder / "decoder.json").write_text("{")
    cache(copy)
    assert TeacherCache.open_current(places.cache).folder == before


def test_texts_alone_are_audited_as_they_were_decoded(copy: Path) -> None:
    change(copy, "cache", payload={"log_probs": "none"})
    cache(copy)
    places = Places.in_workspace(copy)
    store, data = TeacherCache.open_current(places.cache), PreparedData.open(places.data)
    check_audit(store, audit(store, data, load_teacher(places.teacher), count=4))
    greedy = load_teacher(places.teacher).transcribe(
        [data.waveform(row) for row in data.split("train").itertuples()]
    )
    assert greedy != store.greedy_texts(store.rows(data.split("train")["audio_key"]))


def test_a_teacher_of_texts_cannot_be_searched(copy: Path) -> None:
    folder = copy / "models/teacher"
    other = replace(read_fingerprint(folder), gives_frames=False)
    replace(other, fingerprint=other.digest).save(folder)
    with pytest.raises(ModelError, match=r"set language_model\.for_teacher to false"):
        cache(copy)


# --- evaluate ------------------------------------------------------------------------------------


def test_models_are_measured_with_and_without(finished: Path) -> None:
    folder = finished / "reports/evaluation"
    summary = json.loads((folder / "summary.json").read_text())
    typed = Summary.read(folder)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    for row, figures in zip(summary["models"], typed.models, strict=True):
        scored = predictions[predictions["model"] == row["model"]]
        errors = [
            count_errors(text.split(), heard.split()).errors
            for text, heard in zip(scored["text"], scored["hypothesis_lm"], strict=True)
        ]
        assert scored["word_errors_lm"].tolist() == errors
        assert row["wer_lm"] == pytest.approx(sum(errors) / scored["words"].sum())
        assert row["wer_lm_low"] <= row["wer_lm"] <= row["wer_lm_high"]
        assert model_metrics(figures, typed)["test/wer_lm"] == row["wer_lm"]
    teacher_row, control, student = summary["models"]
    gain = summary["comparisons"]["conv"]["gain_wer_lm"]
    assert gain == pytest.approx(control["wer_lm"] - student["wer_lm"])
    assert model_metrics(typed.students["conv"], typed)["gain/wer_lm"] == gain
    assert set(summary["language_models"]) == {
        "teacher",
        "controls/conv/seed-0",
        "students/conv/seed-0",
    }
    tuned = read_tuned(Places.in_workspace(finished).decoder)
    assert summary["language_models"]["teacher"]["weight"] == tuned.settings.weight
    metrics = json.loads((finished / "reports/metrics.json").read_text())
    assert metrics["teacher"]["wer_lm"] == teacher_row["wer_lm"]
    assert metrics["students"]["conv"]["gain_wer_lm"] == gain


def test_the_table_has_a_column_for_it(finished: Path) -> None:
    summary = Summary.read(finished / "reports/evaluation")
    assert "| WER % served |" in markdown_table(summary)
    assert "conv: as served the gain is" in render_table(summary)
    assert all(len(line) <= 100 for line in render_table(summary).splitlines())


def test_what_is_measured_is_what_is_exported_and_served(finished: Path) -> None:
    folder, summary = finished / "models/exported/conv", Summary.read(finished / EVALUATION)
    student = OnnxRecogniser(folder, "onnx")
    assert student.decoder is not None
    data = PreparedData.open(finished / "data/prepared")
    exported = pd.read_parquet(finished / EVALUATION / "exported.parquet")
    rows = exported[exported["format"] == "onnx"].set_index("utterance_id")
    tests = data.references("test")
    texts = student.transcribe([data.waveform(row) for row in tests.itertuples()])
    assert texts == list(rows.loc[tests["utterance_id"], "hypothesis_lm"])
    figures = summary.exports["conv"].formats["onnx"]
    assert figures.served_wer == figures.wer_lm is not None
    tuned = summary.language_models["students/conv/seed-0"]
    assert tuned.bytes == (folder / "decoder.lm").stat().st_size
    assert tuned.weight == student.decoder.settings.weights.weight
    control = Decoder.load(folder / CONTROL_FOLDER, student.vocabulary)  # served if it is put up
    theirs = summary.language_models["controls/conv/seed-0"]
    assert control.settings.weights.weight == theirs.weight
    assert (folder / CONTROL_FOLDER / "decoder.lm").read_bytes() == (
        folder / "decoder.lm"
    ).read_bytes()


def test_the_benchmark_measures_what_is_served(finished: Path) -> None:
    rows = {row["name"]: row["value"] for row in shipped_decoder.measure([finished], "conv", 1)}
    name = finished.name
    assert rows[f"bytes of {name}'s student with all that it needs"] > 0
    assert rows[f"real-time factor of {name}'s student as served"] > 0
    assert rows[f"time of the search alone, {name}, known words"] > 0
    wer = Summary.read(finished / EVALUATION).exports["conv"].formats["onnx-int8"].served_wer
    assert rows[f"WER of {name}, test, served"] == pytest.approx(100 * wer.value, rel=1e-3)


def test_where_it_is_off_nothing_is_said_of_it(copy: Path) -> None:
    change(copy, "language_model", for_teacher=False)
    change(copy, "register", decoder=False)
    evaluate(copy)
    summary = json.loads((copy / "reports/evaluation/summary.json").read_text())
    assert summary["language_models"] == {}
    assert not any("wer_lm" in row for row in summary["models"])
    assert "language model" not in render_table(Summary.read(copy / "reports/evaluation"))
    predictions = pd.read_parquet(copy / "reports/evaluation/predictions.parquet")
    assert "hypothesis_lm" not in predictions


def test_for_the_teacher_alone_students_stay_without(copy: Path) -> None:
    change(copy, "register", decoder=False)
    evaluate(copy)
    summary = json.loads((copy / "reports/evaluation/summary.json").read_text())
    assert [("wer_lm" in row) for row in summary["models"]] == [True, False, False]
    assert "gain_wer_lm" not in summary["comparisons"]["conv"]
    lines = markdown_table(Summary.read(copy / "reports/evaluation")).split("\n\n")[1].splitlines()
    position = next(i for i, cell in enumerate(lines[0].split("|")) if "LM" in cell)
    assert [line.split("|")[position].strip() == "-" for line in lines[2:]] == [False, True, True]
    predictions = pd.read_parquet(copy / "reports/evaluation/predictions.parquet")
    empty = predictions.groupby("model")["word_errors_lm"].apply(lambda errors: errors.isna().all())
    assert empty.to_dict() == {"controls/conv": True, "students/conv": True, "teacher": False}
    assert np.isfinite(summary["models"][0]["wer_lm"])
