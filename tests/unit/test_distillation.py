"""Teacher, cache and students on the tiny language of tones, without DVC or Prefect."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from distillery.architectures import ARCHITECTURES
from distillery.errors import CacheError, CacheMismatch, CorpusError
from distillery.manifest import PreparedData
from distillery.recogniser import Recogniser
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache
from tasks.cache import cache
from tasks.distill import distill
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests.tiny import RATE_HZ, speak, tiny_params, write_corpus, write_params


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which prepare, teacher and cache have run."""
    root = tmp_path_factory.mktemp("workspace")
    write_corpus(root / "corpus", unlabelled=1)
    write_params(root, tiny_params())
    prepare(root)
    teacher(root)
    cache(root)
    return root


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may change."""
    return Path(shutil.copytree(workspace, tmp_path / "copy"))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def read_curves(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change_params(root: Path, **changes) -> None:
    write_params(root, tiny_params(**changes))


def cache_report(root: Path) -> dict:
    return json.loads((root / "reports/cache.json").read_text())


def test_the_cache_holds_what_the_teacher_says(workspace: Path) -> None:
    data = PreparedData.open(workspace / "data/prepared")
    store = TeacherCache.open_current(workspace / "data/teacher_cache")
    model = Recogniser.load(workspace / "models/teacher", ARCHITECTURES)
    rows = data.split("train")
    assert len(store) == rows["audio_key"].nunique()
    for row in rows.itertuples():
        (live,) = model.log_probs([data.waveform(row)])
        here = store.rows([row.audio_key])
        cached = store.log_probs(here).values[0]
        assert cached.shape == live.shape
        np.testing.assert_allclose(np.exp(cached), np.exp(live), atol=0.02)
        assert store.greedy_texts(here) == model.transcribe([data.waveform(row)])


def test_unlabelled_audio_is_cached_too(workspace: Path) -> None:
    rows = PreparedData.open(workspace / "data/prepared").split("train")
    store = TeacherCache.open_current(workspace / "data/teacher_cache")
    unlabelled = rows[rows["text"].isna()]
    assert len(unlabelled) == 8
    assert not store.missing(unlabelled["audio_key"])


def test_a_second_pass_runs_no_teacher(copy: Path) -> None:
    assert cache_report(copy)["num_teacher_forwards"] == 32
    cache(copy)
    report = cache_report(copy)
    assert (report["num_teacher_forwards"], report["num_hits"]) == (0, 32)


def test_one_new_recording_costs_one_forward_and_renaming_none(copy: Path) -> None:
    corpus = copy / "corpus"
    lines = (corpus / "manifest.csv").read_text()
    (corpus / "s05-0.wav").rename(corpus / "renamed.wav")
    shutil.copy(corpus / "s06-1.wav", corpus / "again.wav")  # the same audio once more
    soundfile.write(corpus / "new.wav", speak("abc cab", 12345), RATE_HZ)
    lines = lines.replace("s05-0.wav", "renamed.wav")
    lines += "again.wav,ab,s06,train\nnew.wav,abc cab,s05,train\n"
    (corpus / "manifest.csv").write_text(lines)
    prepare(copy)
    cache(copy)
    report = cache_report(copy)
    assert (report["num_utterances"], report["num_teacher_forwards"]) == (34, 1)


def test_another_payload_is_another_namespace_and_a_full_pass(copy: Path) -> None:
    change_params(copy, cache={"payload": {"log_probs": "f16"}, "num_threads": 1})
    cache(copy)
    assert cache_report(copy)["num_teacher_forwards"] == 32
    change_params(copy)
    cache(copy)
    assert cache_report(copy)["num_teacher_forwards"] == 0


def test_students_and_controls_are_saved_with_their_curves(copy: Path) -> None:
    distill(copy, "conv")
    for kind in ("students", "controls"):
        model = Recogniser.load(copy / "models" / kind / "conv", ARCHITECTURES)
        assert model.sample_rate_hz == 8000
        rows = read_curves(copy / f"curves/{kind}/conv.jsonl")
        keys = {row["key"] for row in rows}
        assert {"train/loss", "valid/wer", "train/learning_rate"} <= keys
        assert ("train/frame" in keys) == (kind == "students")
        assert all(set(row) == {"key", "value", "step", "timestamp"} for row in rows)
    assert weights(copy / "models/students/conv") != weights(copy / "models/controls/conv")
    assert not list((copy / "scratch").glob("*.pt"))  # checkpoints are gone once all is saved


def test_equal_inputs_give_equal_bytes(copy: Path, workspace: Path, tmp_path: Path) -> None:
    distill(copy, "conv")
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    distill(other, "conv")
    for kind in ("students", "controls"):
        one, two = copy / "models" / kind / "conv", other / "models" / kind / "conv"
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes()


def test_training_never_loads_the_teacher(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only the audit before it does, which says so when the teacher is not there."""
    caplog.set_level("INFO")
    for name in ("model.safetensors", "config.json", "tokens.txt"):
        (copy / "models/teacher" / name).unlink()
    distill(copy, "conv")
    assert (copy / "models/students/conv/model.safetensors").exists()
    assert "audit: skipped" in caplog.text


def test_a_cache_that_no_longer_says_what_the_teacher_says_is_refused(copy: Path) -> None:
    """A library that computes otherwise changes no hash; the audit notices."""
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    false = store.log_probs(store.all_rows)
    keys = store.keys(store.all_rows)
    shutil.rmtree(store.folder)
    store = TeacherCache.create(store.folder.parent, store.namespace)
    with store.writing() as writer:
        for row, key in enumerate(keys):
            real = false.values[row, : false.num_frames[row]]
            writer.add(Entry(key, np.ascontiguousarray(real[:, ::-1]), "", 0.5))
    with pytest.raises(CacheMismatch, match=r"utterance 's.*' .* nat a frame from the live"):
        distill(copy, "conv")


def test_a_share_of_zero_gives_the_control(copy: Path) -> None:
    """With no teacher in the loss, student and control are one computation."""
    change_params(copy, distill={"objective": {"teacher_share": 0.0}})
    distill(copy, "conv")
    assert weights(copy / "models/students/conv") == weights(copy / "models/controls/conv")


def test_a_share_of_one_needs_no_transcripts_of_the_training_audio(copy: Path) -> None:
    frame = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(frame)
    manifest.loc[manifest["split"] == "train", "text"] = None
    manifest.to_parquet(frame)
    change_params(copy, distill={"objective": {"teacher_share": 1.0}, "control": False})
    distill(copy, "conv")
    assert (copy / "models/students/conv/model.safetensors").exists()
    assert [p.name for p in (copy / "models/controls/conv").iterdir()] == ["none.txt"]
    assert (copy / "curves/controls/conv.jsonl").read_text() == ""


def test_a_control_without_any_transcript_is_an_error(copy: Path) -> None:
    frame = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(frame)
    manifest.loc[manifest["split"] == "train", "text"] = None
    manifest.to_parquet(frame)
    with pytest.raises(CorpusError, match="split 'train': holds no transcribed utterance"):
        distill(copy, "conv")


@pytest.mark.parametrize(
    "objective",
    [
        {
            "frame": {"type": "logit_mse", "blank_mode": "all"},
            "sequence": {"weight": 0.0},
        },
        {"frame": {"weight": 0.0}},
    ],
    ids=["logit_mse", "sequence"],
)
def test_every_objective_trains(copy: Path, objective) -> None:
    change_params(copy, distill={"objective": objective, "control": False})
    distill(copy, "conv")
    rows = read_curves(copy / "curves/students/conv.jsonl")
    losses = [row["value"] for row in rows if row["key"] == "train/loss"]
    assert losses[-1] < losses[0]


def test_a_slower_student_faces_pooled_teacher_frames(copy: Path) -> None:
    settings = tiny_params()
    settings["teacher"]["architecture"]["time_reduction"] = 2
    settings["distill"]["control"] = False
    write_params(copy, settings)
    teacher(copy)
    cache(copy)
    distill(copy, "conv")
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    student = Recogniser.load(copy / "models/students/conv", ARCHITECTURES)
    assert student.frame_shift_seconds == pytest.approx(2 * store.namespace.frame_shift_seconds)


def test_a_changed_teacher_is_refused_with_the_field(copy: Path) -> None:
    settings = tiny_params(teacher={"features": {"num_mels": 18}})
    write_params(copy, settings)
    teacher(copy)
    with pytest.raises(
        CacheMismatch, match="was made with teacher.preprocessing.features.num_mels = 16"
    ):
        distill(copy, "conv")


def test_a_payload_setting_other_than_the_caches_is_refused_with_its_name(copy: Path) -> None:
    change_params(copy, cache={"payload": {"log_probs": "f16"}})
    with pytest.raises(
        CacheMismatch, match=r'made with payload.kind = "u8", .* have "f16"; run make cache'
    ):
        distill(copy, "conv")


def test_a_sparse_cache_teaches_by_sequence_and_refuses_frame_terms(copy: Path) -> None:
    sparse = {"payload": {"log_probs": "sparse", "sparse": {"top_k": 2}}, "num_threads": 1}
    change_params(copy, cache=sparse)
    cache(copy)
    with pytest.raises(CacheError, match="payload sparse: keeps at most 2 of 5 tokens a frame"):
        distill(copy, "conv")
    objective = {"objective": {"frame": {"weight": 0.0}}}
    change_params(copy, cache=sparse, distill=objective)
    distill(copy, "conv")
    assert (copy / "models/students/conv/model.safetensors").exists()


def test_utterances_that_are_not_cached_are_refused(copy: Path) -> None:
    path = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(path)
    first = manifest.index[manifest["split"] == "train"][0]
    manifest.loc[first, "audio_key"] = "0" * 64
    manifest.to_parquet(path)
    with pytest.raises(CacheMismatch, match="1 utterances are not in it"):
        distill(copy, "conv")


def test_recurrent_students_train_as_well(copy: Path) -> None:
    torch.manual_seed(0)
    students = {"rnn": {"architecture": {"type": "crnn", "conv_channels": 4, "hidden_size": 8}}}
    change_params(copy, distill={"students": students, "control": False})
    distill(copy, "rnn")
    assert (copy / "models/students/rnn/model.safetensors").exists()
