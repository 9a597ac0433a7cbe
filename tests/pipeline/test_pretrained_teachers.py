"""Pre-trained teachers from their published layout to a trained student, stage by stage."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.errors import CacheMismatch, ModelError
from distillery.models.recogniser import Recogniser
from distillery.teacher_cache.filling.audit import audit, check_audit
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests.tiny import tiny_params, write_corpus, write_params
from tests.tiny_models import (
    FEW_SUBWORDS,
    SUBWORDS,
    encoder_state,
    published_state,
    tiny_bundle,
    tiny_encoder,
    write_transformers,
)

FRAMES = {"teacher_share": 0.8, "frame": {"weight": 1.0}, "sequence": {"weight": 1.0}}
HIDDEN = {"layers": {"last": "layers.1"}, "weight": 1.0}
TEXTS = {"frame": {"weight": 0.0}, "sequence": {"num_hypotheses": 2}, "hidden": HIDDEN}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones whose lengths are multiples of nothing."""
    folder = write_corpus(tmp_path_factory.mktemp("tones"), num_speakers=6, per_speaker=2)
    for index, path in enumerate(sorted(folder.glob("*.wav"))):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[31 * index :], rate)
    return folder


@pytest.fixture
def root(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without network, and a tiny bundle among torchaudio's."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torchaudio.pipelines, "TINY_ASR", tiny_bundle(), raising=False)
    torch.save(published_state(tiny_bundle()), tmp_path / "tiny.pth")
    (tmp_path / "corpus").symlink_to(corpus)
    return tmp_path


BUNDLE = {"kind": "torchaudio", "bundle": "TINY_ASR", "weights": "tiny.pth"}


def settings(source: dict[str, Any], objective: dict[str, Any], **features: Any) -> dict[str, Any]:
    """Return tiny settings with another teacher and one epoch of training."""
    params = tiny_params()
    payload = {"hidden_layers": ["last", "layers.1"], "num_hypotheses": 2}
    params["teacher"] = source
    params["cache"] |= {"payload": payload, "audit_utterances": 2}
    params["distill"] |= {"objective": objective, "control": False}
    # Teachers with random weights say more than anybody could in the time.
    params["distill"]["training"] |= {"num_epochs": 1, "max_unalignable_fraction": 1.0}
    params["distill"]["features"] |= features
    return params


def run(root: Path, params: dict[str, Any]) -> Recogniser:
    """Run every stage up to the student; return it."""
    write_params(root, params)
    prepare(root)
    teacher(root)
    cache(root)
    distill(root, "conv", 0)
    return Recogniser.load(root / "models/students/conv/seed-0", ARCHITECTURES)


def losses(root: Path) -> dict[str, float]:
    lines = (root / "curves/students/conv/seed-0.jsonl").read_text("utf-8").splitlines()
    return {point["key"]: point["value"] for point in map(json.loads, lines)}


def check_cache(root: Path) -> TeacherCache:
    """Compare the cache with the saved teacher, loaded again."""
    store = TeacherCache.open_current(root / "data/teacher_cache")
    live = load_teacher(root / "models/teacher")
    check_audit(store, audit(store, PreparedData.open(root / "data/prepared"), live, 3))
    return store


def test_a_torchaudio_bundle(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        student = run(root, settings(BUNDLE, {**FRAMES, "hidden": HIDDEN}))
    (root / "tiny.pth").unlink()
    assert student.vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    assert check_cache(root).namespace.frame_shift_seconds == 0.02
    said = losses(root)
    assert all(np.isfinite(said[f"train/{term}"]) for term in ("frame", "sequence", "hidden"))
    assert "nothing above 4000 Hz is there" in caplog.text
    assert "2 of its tokens (E, ') are none of the corpus's" in caplog.text
    source = json.loads((root / "models/teacher/source.json").read_text("utf-8"))
    assert source["bundle"] == "TINY_ASR" and source["dropped_mass_mean"] > 0
    validation = json.loads((root / "models/teacher/validation.json").read_text("utf-8"))
    assert validation["wer"] > 0.5  # of random weights


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        ("Wav2Vec2ForCTC", LAYER_NORM),
        ("HubertForCTC", {}),
        ("WavLMForCTC", LAYER_NORM),
    ],
)
def test_a_transformers_model(root: Path, model_class: str, options: dict[str, Any]) -> None:
    write_transformers(root / "model", model_class, **options)
    source = {"kind": "transformers", "model": "model"}
    student = run(root, settings(source, {**FRAMES, "hidden": HIDDEN}))
    (root / "model").rename(root / "elsewhere")
    assert student.vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    check_cache(root)
    assert np.isfinite(losses(root)["train/frame"])


@pytest.mark.parametrize("library", ["torchaudio", "transformers"])
def test_a_fine_tuned_encoder(root: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(torchaudio.pipelines, "TINY", tiny_encoder(), raising=False)
    torch.save(encoder_state(tiny_encoder()), root / "tiny.pth")
    write_transformers(root / "model", "HubertModel")
    bases = {
        "torchaudio": {"bundle": "TINY", "weights": "tiny.pth"},
        "transformers": {"model": "model"},
    }
    source = {
        "kind": "fine_tuned",
        "base": {"kind": library, **bases[library]},
        "frozen": {"layers": 1},
        "training": {"num_epochs": 2, "batch_seconds": 8.0, "num_threads": 1},
    }
    student = run(root, settings(source, {**FRAMES, "hidden": HIDDEN}))
    (root / "tiny.pth").unlink()
    (root / "model").rename(root / "elsewhere")
    saved = load_teacher(root / "models/teacher")
    assert saved.vocabulary.tokens == student.vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    assert saved.config["tokens"] == list(saved.vocabulary.tokens)
    check_cache(root)
    assert np.isfinite(losses(root)["train/frame"])
    points = (root / "curves/teacher.jsonl").read_text("utf-8").splitlines()
    assert sum(json.loads(point)["key"] == "valid/wer" for point in points) == 2
    assert not list((root / "scratch").glob("teacher-*.pt"))


def test_subwords_that_write_too_little_teach_texts_and_hidden_states(root: Path) -> None:
    write_transformers(root / "model", tokens=FEW_SUBWORDS)
    source = {"kind": "transformers", "model": "model"}
    run(root, settings(source, TEXTS))
    store = check_cache(root)
    assert store.namespace.payload == {"kind": "none"}
    said = losses(root)
    assert np.isfinite(said["train/sequence"]) and np.isfinite(said["train/hidden"])
    write_params(root, settings(source, FRAMES))
    with pytest.raises(CacheMismatch, match=r"sequence learns from its texts, hidden"):
        distill(root, "conv", 0)


def test_a_student_that_writes_in_the_teachers_subwords_learns_its_frames(root: Path) -> None:
    write_transformers(root / "model", tokens=SUBWORDS)
    source = {"kind": "transformers", "model": "model"}
    characters = run(root, settings(source, TEXTS))
    assert characters.vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    store = check_cache(root)
    assert store.namespace.payload == {"kind": "u8"}
    live, data = load_teacher(root / "models/teacher"), PreparedData.open(root / "data/prepared")
    for row in data.split("train").itertuples():  # over its own tokens, however it cuts words
        (cached,) = store.hypotheses(store.rows([row.audio_key]))
        (said,) = live.forward(*live.extract([data.waveform(row)])).hypotheses
        assert [item.text for item in cached] == [text for text, _ in said[:2]]
        assert cached[0].text == live.transcribe([data.waveform(row)])[0]
        assert cached[0].score >= cached[-1].score
    params = settings(source, {**FRAMES, "hidden": HIDDEN})
    write_params(root, params)
    with pytest.raises(CacheMismatch, match=r"the student's tokens to \{type: teacher\}"):
        distill(root, "conv", 0)
    params["distill"]["students"]["conv"]["tokens"] = {"type": "teacher"}
    write_params(root, params)
    distill(root, "conv", 0)
    student = Recogniser.load(root / "models/students/conv/seed-0", ARCHITECTURES)
    assert student.vocabulary == load_teacher(root / "models/teacher").vocabulary
    assert student.vocabulary.encode("abc cab")[0] == 1  # |ab, as the teacher has it
    said = losses(root)
    assert all(np.isfinite(said[f"train/{term}"]) for term in ("frame", "sequence", "hidden"))
    params["distill"]["students"]["other"] = {
        **params["distill"]["students"]["conv"],
        "tokens": {"type": "characters"},
        "objective": TEXTS,
    }
    write_params(root, params)
    distill(root, "other", 0)
    evaluate(root)
    scored = json.loads((root / "reports/metrics.json").read_text())["students"]
    assert {"conv", "other"} <= scored.keys()


@pytest.mark.parametrize(
    ("hop_seconds", "ratio"), [(0.005, 1), (0.01, 2), (0.02, 4)], ids=["50", "25", "12.5"]
)
def test_students_of_other_frame_rates(root: Path, hop_seconds: float, ratio: int) -> None:
    params = settings(BUNDLE, {**FRAMES, "hidden": HIDDEN}, hop_seconds=hop_seconds)
    student = run(root, params)
    assert student.frame_shift_seconds == pytest.approx(ratio * 0.02)
    data = PreparedData.open(root / "data/prepared")
    store = TeacherCache.open_current(root / "data/teacher_cache")
    rows = data.split("train")
    teachers = store.num_frames(store.rows(list(rows["audio_key"])))
    assert any(count % 2 for count in teachers) and not all(count % 2 for count in teachers)
    for row, count in zip(rows.itertuples(), teachers, strict=True):
        (own,) = student.log_probs([data.waveform(row)])
        assert abs(len(own) - -(-count // ratio)) <= 1
    assert np.isfinite(losses(root)["train/frame"])


def test_a_rate_that_is_no_multiple_names_both(root: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"per 30 ms, the cached teacher has one per 20 ms"):
        run(root, settings(BUNDLE, FRAMES, hop_seconds=0.0075))


def test_audio_that_is_too_long_stops_the_stage_teacher(root: Path) -> None:
    write_params(root, settings({**BUNDLE, "longest_seconds": 0.5}, FRAMES))
    prepare(root)
    with pytest.raises(ModelError, match=r"audio of \d\.\d s, it takes 0\.5 s at once"):
        teacher(root)
    assert not (root / "models/teacher").exists()
    run(root, settings({**BUNDLE, "longest_seconds": 0.5, "chunk_seconds": 0.5}, FRAMES))
    check_cache(root)


def test_damaged_weights_stop_the_stage_teacher(root: Path) -> None:
    state = published_state(tiny_bundle())
    state["aux.bias"][0] = float("nan")
    torch.save(state, root / "tiny.pth")
    write_params(root, settings(BUNDLE, FRAMES))
    prepare(root)
    with pytest.raises(ModelError, match="scores are NaN"):
        teacher(root)
