"""Teacher, cache and students on the tiny language of tones, without DVC or Prefect."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from distillery.architectures.known import ARCHITECTURES
from distillery.data.features import pack_features
from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.distill.distillation import Distillation
from distillery.distill.objective import DistillationObjective
from distillery.distill.targets import CachedTargets
from distillery.errors import CacheError, CacheMismatch, CorpusError, ModelError
from distillery.models.recogniser import Recogniser
from distillery.params.models import FeatureParams
from distillery.params.objective import FrameLossParams, ObjectiveParams, SequenceLossParams
from distillery.params.whole import Params
from distillery.serve.streaming import can_stream
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache
from distillery.training.batches import TrainingSet
from distillery.training.objective import NetworkOutputs
from distillery.training.trainer import Trainer
from tasks.cache import cache
from tasks.distill import distill
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests.kills import killed_after_two_epochs, killed_in_pass
from tests.tiny import RATE_HZ, speak, tiny_params, write_corpus, write_params
from tests.tiny_workspaces import put_cache


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which prepare, teacher and cache have run."""
    return put_cache(tmp_path_factory.mktemp("workspace"))


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
    distill(copy, "conv", 0)
    for kind in ("students", "controls"):
        model = Recogniser.load(copy / "models" / kind / "conv/seed-0", ARCHITECTURES)
        assert model.sample_rate_hz == 8000
        rows = read_curves(copy / f"curves/{kind}/conv/seed-0.jsonl")
        keys = {row["key"] for row in rows}
        assert {"train/loss", "valid/wer", "train/learning_rate"} <= keys
        assert ("train/frame" in keys) == (kind == "students")
        assert all(set(row) == {"key", "value", "step", "timestamp"} for row in rows)
    assert weights(copy / "models/students/conv/seed-0") != weights(
        copy / "models/controls/conv/seed-0"
    )
    assert not list((copy / "scratch").glob("*.pt"))  # checkpoints are gone once all is saved


def test_equal_inputs_give_equal_bytes(copy: Path, workspace: Path, tmp_path: Path) -> None:
    distill(copy, "conv", 0)
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    distill(other, "conv", 0)
    for kind in ("students", "controls"):
        one, two = copy / "models" / kind / "conv/seed-0", other / "models" / kind / "conv/seed-0"
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes()


def test_a_seed_changes_the_student_and_its_control_alike(copy: Path) -> None:
    """Without the teacher's share the pair stays one computation under every seed."""
    change_params(copy, distill={"seeds": [0, 5], "objective": {"teacher_share": 0.0}})
    for seed in (0, 5):
        distill(copy, "conv", seed)
    folder = copy / "models"
    assert weights(folder / "students/conv/seed-0") != weights(folder / "students/conv/seed-5")
    assert weights(folder / "students/conv/seed-5") == weights(folder / "controls/conv/seed-5")


def test_other_seeds_in_the_settings_change_no_student(
    copy: Path, workspace: Path, tmp_path: Path
) -> None:
    distill(copy, "conv", 0)
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    change_params(other, distill={"seeds": [7, 0]})
    distill(other, "conv", 0)
    for kind in ("students", "controls"):
        name = f"models/{kind}/conv/seed-0"
        assert weights(copy / name) == weights(other / name)


def test_student_and_control_killed_inside_an_epoch_go_on_though_the_time_has_changed(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No training is named by the time between checkpoints, nor are its bytes others."""
    whole = Path(shutil.copytree(copy, tmp_path / "whole"))
    distill(whole, "conv", 0)
    write_params(copy, tiny_params() | {"training": {"checkpoint_seconds": 1e-6}})
    control = killed_in_pass(monkeypatch, 2, lambda: distill(copy, "conv", 0))
    assert (control.name, control.within.num_steps) == ("control conv seed 0", 2)
    validated = len(list(control.validation.data.inference_batches()))
    passes = control.params.most_epochs * (len(control._plan(0)) + validated)
    student = killed_in_pass(monkeypatch, passes - 2 + 3, lambda: distill(copy, "conv", 0))
    assert (student.name, student.within.num_steps) == ("student conv seed 0", 3)
    write_params(copy, tiny_params() | {"training": {"checkpoint_seconds": 500.0}})
    with caplog.at_level("INFO"):
        distill(copy, "conv", 0)
    assert "control conv seed 0: goes on after epoch 3" in caplog.text
    assert "student conv seed 0: goes on after epoch 0 and 3 steps" in caplog.text
    for kind in ("students", "controls"):
        name = f"models/{kind}/conv/seed-0"
        assert weights(copy / name) == weights(whole / name)


def make_poor(root: Path, wer: float = 5.0, **teacher: Any) -> None:
    """Say that the teacher errs five times a word, which no control does."""
    (root / "models/teacher/validation.json").write_text(json.dumps({"wer": wer}))
    settings = {"allow_poor": False, **teacher}
    change_params(root, teacher=settings)


def test_a_poor_teacher_stops_before_a_student_is_trained(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make_poor(copy)
    words = r"WER 500.00 %, that of the control of student 'conv', .* is \d.*allow_poor to true"
    with pytest.raises(ModelError, match=words):
        distill(copy, "conv", 0)
    assert "control conv seed 0: 3 epochs" in caplog.text
    assert "student conv seed 0" not in caplog.text
    assert not (copy / "models/students").exists()
    make_poor(copy, allow_poor=True)
    caplog.clear()
    distill(copy, "conv", 0)
    assert "control conv seed 0: goes on after epoch 3" in caplog.text  # it is not trained again
    assert "teacher: validation WER 500.00 %" in caplog.text


def test_where_training_may_end_early_the_teacher_is_judged_behind_the_student(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    training = {**tiny_params()["distill"]["training"], "patience": 1}
    make_poor(copy)
    change_params(copy, teacher={"allow_poor": False}, distill={"training": training})
    with pytest.raises(ModelError, match="WER 500.00 %"):
        distill(copy, "conv", 0)
    assert caplog.text.index("student conv seed 0") < caplog.text.index("control conv seed 0")


@pytest.mark.parametrize(
    ("distillation", "words"),
    [
        ({"control": False}, "control is false: whether the teacher is worse"),
        ({"objective": {"teacher_share": 0.0}}, ""),  # nothing is learnt from it
    ],
)
def test_a_teacher_that_nobody_is_compared_with_is_not_judged(
    copy: Path, caplog: pytest.LogCaptureFixture, distillation: dict[str, Any], words: str
) -> None:
    caplog.set_level("INFO")
    make_poor(copy)
    change_params(copy, teacher={"allow_poor": False}, distill=distillation)
    distill(copy, "conv", 0)
    assert words in caplog.text


def test_a_teacher_without_a_known_wer_is_not_judged(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    change_params(copy, teacher={"allow_poor": False})
    (copy / "models/teacher/validation.json").write_text('{"wer": null}')
    distill(copy, "conv", 0)
    assert "teacher not compared with the control" in caplog.text


def test_the_order_of_control_and_student_changes_neither(
    copy: Path, workspace: Path, tmp_path: Path
) -> None:
    distill(copy, "conv", 0)
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    training = {**tiny_params()["distill"]["training"], "patience": 100}  # never runs out
    change_params(other, distill={"training": training})
    distill(other, "conv", 0)
    for kind in ("students", "controls"):
        name = f"models/{kind}/conv/seed-0"
        assert weights(copy / name) == weights(other / name)


def test_with_auto_student_and_control_end_by_the_same_rule_each_by_its_own_validation(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student stops improving at once, the control goes on to the maximum."""
    auto = {
        "num_epochs": "auto",
        "max_epochs": 9,
        "patience": 2,
        "min_epoch_steps": 1,
        "warmup_steps": 2,
    }
    training = {**tiny_params()["distill"]["training"], **auto}
    change_params(copy, distill={"training": training})
    monkeypatch.setattr(
        Trainer,
        "validate",
        lambda run: 0.5 if run.name.startswith("student") else 0.9 ** (run.epoch + 2),
    )
    distill(copy, "conv", 0)
    ends, steps = [], []
    for kind in ("students", "controls"):
        rows = read_curves(copy / f"curves/{kind}/conv/seed-0.jsonl")
        wers = [row for row in rows if row["key"] == "valid/wer"]
        ends.append((len(wers), rows[-1]["key"], rows[-1]["value"]))
        steps.append(wers[0]["step"])
        peak = max(row["value"] for row in rows if row["key"] == "train/learning_rate")
        assert peak == training["learning_rate"]
    # Epoch 1 is the best, and two others follow.
    assert ends == [(3, "valid/converged", 1.0), (9, "valid/converged", 0.0)]
    assert steps[0] == steps[1]


def test_training_never_loads_the_teacher(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The audit does, at the end of the stage `cache`."""
    caplog.set_level("INFO")
    for name in ("model.safetensors", "config.json", "tokens.txt"):
        (copy / "models/teacher" / name).unlink()
    distill(copy, "conv", 0)
    assert (copy / "models/students/conv/seed-0/model.safetensors").exists()
    assert "audit" not in caplog.text


def test_a_cache_that_no_longer_says_what_the_teacher_says_is_refused(copy: Path) -> None:
    """A library that computes otherwise changes no hash; the audit notices, before any training."""
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
        cache(copy)


def test_a_share_of_zero_gives_the_control(copy: Path) -> None:
    """With no teacher in the loss, student and control are one computation."""
    change_params(copy, distill={"objective": {"teacher_share": 0.0}})
    distill(copy, "conv", 0)
    assert weights(copy / "models/students/conv/seed-0") == weights(
        copy / "models/controls/conv/seed-0"
    )


def test_a_share_of_one_needs_no_transcripts_of_the_training_audio(copy: Path) -> None:
    frame = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(frame)
    manifest.loc[manifest["split"] == "train", "text"] = None
    manifest.to_parquet(frame)
    change_params(copy, distill={"objective": {"teacher_share": 1.0}, "control": False})
    distill(copy, "conv", 0)
    assert (copy / "models/students/conv/seed-0/model.safetensors").exists()
    assert [p.name for p in (copy / "models/controls/conv/seed-0").iterdir()] == ["none.txt"]
    assert (copy / "curves/controls/conv/seed-0.jsonl").read_text() == ""


def test_a_control_without_any_transcript_is_an_error(copy: Path) -> None:
    frame = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(frame)
    manifest.loc[manifest["split"] == "train", "text"] = None
    manifest.to_parquet(frame)
    with pytest.raises(CorpusError, match=r"none of them transcribed.*teacher_share is 0\.5.*co"):
        distill(copy, "conv", 0)


@pytest.mark.parametrize(
    "objective",
    [
        {
            "frame": {"type": "logit_mse", "blank_mode": "all"},
            "sequence": {"weight": 0.0},
        },
        {"frame": {"weight": 0.0}},
        {
            "frame": {"blank_mode": "all", "weighting": "confidence", "delay_frames": 1},
            "sequence": {"weight": 0.0},
        },
    ],
    ids=["logit_mse", "sequence", "delayed"],
)
def test_every_objective_trains(copy: Path, objective) -> None:
    change_params(copy, distill={"objective": objective, "control": False})
    distill(copy, "conv", 0)
    rows = read_curves(copy / "curves/students/conv/seed-0.jsonl")
    losses = [row["value"] for row in rows if row["key"] == "train/loss"]
    assert losses[-1] < losses[0]


def test_a_slower_student_faces_pooled_teacher_frames(copy: Path) -> None:
    settings = tiny_params()
    settings["teacher"]["architecture"]["time_reduction"] = 2
    settings["distill"]["control"] = False
    write_params(copy, settings)
    teacher(copy)
    cache(copy)
    distill(copy, "conv", 0)
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    student = Recogniser.load(copy / "models/students/conv/seed-0", ARCHITECTURES)
    assert student.frame_shift_seconds == pytest.approx(2 * store.namespace.frame_shift_seconds)


def test_a_changed_teacher_is_refused_with_the_field(copy: Path) -> None:
    settings = tiny_params(teacher={"features": {"num_mels": 18}})
    write_params(copy, settings)
    teacher(copy)
    with pytest.raises(
        CacheMismatch, match="was made with teacher.preprocessing.features.num_mels = 16"
    ):
        distill(copy, "conv", 0)


def test_a_payload_setting_other_than_the_caches_is_refused_with_its_name(copy: Path) -> None:
    change_params(copy, cache={"payload": {"log_probs": "f16"}})
    with pytest.raises(
        CacheMismatch, match=r'made with payload.kind = "u8", .* have "f16"; run make cache'
    ):
        distill(copy, "conv", 0)


SPARSE = {
    "payload": {"log_probs": "sparse", "sparse": {"top_k": 2, "temperatures": [2.0]}},
    "num_threads": 1,
}


def test_a_sparse_cache_teaches_by_frames_too(copy: Path) -> None:
    objective = {"frame": {"blank_mode": "all"}, "sequence": {"weight": 0.0}}
    change_params(copy, cache=SPARSE, distill={"objective": objective, "control": False})
    cache(copy)
    distill(copy, "conv", 0)
    rows = read_curves(copy / "curves/students/conv/seed-0.jsonl")
    losses = [row["value"] for row in rows if row["key"] == "train/frame"]
    assert 0 < losses[-1] < losses[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sparse_targets_hold_what_the_teacher_gives_its_likeliest_tokens(
    copy: Path, temperature: float
) -> None:
    dense = TeacherCache.open_current(copy / "data/teacher_cache")
    change_params(copy, cache=SPARSE)
    cache(copy)
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    keys = store.keys(store.all_rows)[:3]
    here = CachedTargets(store, keys, Vocabulary(store.namespace.tokens), temperature=temperature)
    found = here.frames([2, 0])
    assert found.ids is not None
    assert found.softened is not None
    wanted = torch.from_numpy(dense.log_probs(dense.rows([keys[2], keys[0]])).values)
    softened = (wanted / temperature).log_softmax(dim=-1)
    assert found.lengths.tolist() == dense.num_frames(dense.rows([keys[2], keys[0]])).tolist()
    for row, length in enumerate(found.lengths.tolist()):
        assert (found.ids[row, length:] == -1).all()
        ids, real = found.ids[row, :length], found.ids[row, :length] >= 0
        assert real[:, 0].all()
        for values, all_values in ((found.log_probs, wanted), (found.softened, softened)):
            mine = values[row, :length].exp()[real]
            theirs = all_values[row, :length].gather(-1, ids.clamp(min=0)).exp()[real]
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0.02)


def test_a_temperature_that_the_sparse_cache_lacks_is_named(copy: Path) -> None:
    objective = {"objective": {"frame": {"temperature": 3.0}}}
    change_params(copy, cache=SPARSE, distill=objective)
    cache(copy)
    with pytest.raises(CacheError, match=r"temperature 3 was not stored, only 1, 2; add"):
        distill(copy, "conv", 0)


def test_what_sparse_targets_cannot_teach_is_refused(copy: Path) -> None:
    change_params(copy, cache=SPARSE, distill={"objective": {"frame": {"type": "logit_mse"}}})
    cache(copy)
    message = r"student 'conv': frame.type 'logit_mse' reads all tokens.*expected kl; change"
    with pytest.raises(CacheMismatch, match=message):
        distill(copy, "conv", 0)
    objective = {"objective": {"frame": {"type": "logit_mse", "weight": 0.0}}, "control": False}
    change_params(copy, cache=SPARSE, distill=objective)
    distill(copy, "conv", 0)  # by sequence alone it can
    assert (copy / "models/students/conv/seed-0/model.safetensors").exists()


def test_sparse_targets_are_not_pooled(copy: Path) -> None:
    settings = tiny_params(cache=SPARSE)
    settings["teacher"]["architecture"]["time_reduction"] = 2
    write_params(copy, settings)
    teacher(copy)
    cache(copy)
    with pytest.raises(CacheMismatch, match=r"one frame faces 2 of the cached teacher's.*equal"):
        distill(copy, "conv", 0)


def test_utterances_that_are_not_cached_are_refused(copy: Path) -> None:
    path = copy / "data/prepared/manifest.parquet"
    manifest = pd.read_parquet(path)
    first = manifest.index[manifest["split"] == "train"][0]
    manifest.loc[first, "audio_key"] = "0" * 64
    manifest.to_parquet(path)
    with pytest.raises(CacheMismatch, match="1 utterances are not in it"):
        distill(copy, "conv", 0)


def test_recurrent_students_train_as_well(copy: Path) -> None:
    torch.manual_seed(0)
    students = {"rnn": {"architecture": {"type": "crnn", "conv_channels": 4, "hidden_size": 8}}}
    change_params(copy, distill={"students": students, "control": False})
    distill(copy, "rnn", 0)
    assert (copy / "models/students/rnn/seed-0/model.safetensors").exists()


STREAM = {
    "architecture": {"type": "causal_conv", "channels": 8, "num_blocks": 1, "lookahead_frames": 1},
    "features": {"num_mels": 12, "normalise": "running"},
}


def test_a_student_hears_its_own_features_and_so_does_its_control(copy: Path) -> None:
    change_params(copy, distill={"students": {"stream": STREAM}})
    distill(copy, "stream", 0)
    for kind in ("students", "controls"):
        model = Recogniser.load(copy / "models" / kind / "stream/seed-0", ARCHITECTURES)
        assert model.features == FeatureParams(num_mels=12, normalise="running")
        assert can_stream(model)


SLICED = {
    "architecture": tiny_params()["teacher"]["architecture"],
    "init": "teacher",
}


def test_a_student_may_start_from_its_teacher_and_its_control_never_does(
    copy: Path, workspace: Path, tmp_path: Path
) -> None:
    """Equal inputs give equal bytes, the record of the first weights included."""
    roots = {name: Path(shutil.copytree(workspace, tmp_path / name)) for name in ("again", "bare")}
    for root in (copy, roots["again"]):
        change_params(root, distill={"students": {"slim": SLICED}})
        distill(root, "slim", 0)
    change_params(roots["bare"], distill={"students": {"slim": {**SLICED, "init": None}}})
    distill(roots["bare"], "slim", 0)
    student, control = "models/students/slim/seed-0", "models/controls/slim/seed-0"
    record = json.loads((copy / student / "init.json").read_text())
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    assert record == {
        "source": "teacher",
        "weights": store.namespace.teacher["weights"],
        "teacher_layers": [0],
    }
    for path in (copy / student).iterdir():
        assert path.read_bytes() == (roots["again"] / student / path.name).read_bytes()
    assert weights(copy / student) != weights(roots["bare"] / student)
    assert weights(copy / control) == weights(roots["bare"] / control)
    assert not (copy / control / "init.json").exists()
    assert not (roots["bare"] / student / "init.json").exists()


def test_a_start_from_another_teacher_than_the_cached_one_is_refused(copy: Path) -> None:
    change_params(
        copy, distill={"students": {"slim": SLICED}}, cache={"audit_utterances": 0, "payload": {}}
    )
    model = Recogniser.load(copy / "models/teacher", ARCHITECTURES)
    with torch.no_grad():
        model.network.output.bias += 1.0
    model.save(copy / "models/teacher")
    with pytest.raises(ModelError, match="the cache was made with .*; run make teacher, then"):
        distill(copy, "slim", 0)


# --- hidden states, heads, several hypotheses, schedules -----------------------------------------

RICH_CACHE = {
    "payload": {"hidden_layers": ["project", "recurrent.0"], "num_hypotheses": 3},
    "num_threads": 1,
}
RICH = {
    "teacher_share": {"start": 0.8, "end": 0.4, "shape": "cosine"},
    "frame": {"blank_mode": "all"},  # three epochs teach the teacher to say nothing else
    "sequence": {"num_hypotheses": 3, "temperature": 2.0},
    "hidden": {"layers": {"front": "project", "blocks.0": "recurrent.0"}},
    "intermediate": {"layers": ["front"]},
}


def enrich(root: Path, **changes) -> None:
    """Fill the richer cache, and set the objective that needs it."""
    change_params(root, cache=RICH_CACHE, distill={"objective": RICH, **changes})
    cache(root)


def initial_and_last(root: Path, key: str) -> tuple[float, float]:
    rows = read_curves(root / "curves/students/conv/seed-0.jsonl")
    values = [row["value"] for row in rows if row["key"] == f"train/{key}"]
    return values[0], values[-1]


def test_a_student_learns_from_hidden_states_heads_and_several_hypotheses(copy: Path) -> None:
    enrich(copy, control=False)
    distill(copy, "conv", 0)
    for key in ("loss", "ctc", "frame", "sequence", "hidden", "intermediate"):
        first, last = initial_and_last(copy, key)
        assert 0 < last < first, key
    first, last = initial_and_last(copy, "teacher_share")
    assert 0.4 < last < first < 0.8
    saved = Recogniser.load(copy / "models/students/conv/seed-0", ARCHITECTURES)
    assert not [name for name in saved.network.state_dict() if "head" in name or "proj" in name]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"type": "crnn", "conv_channels": 4, "hidden_size": 8}},
        {"architecture": {"type": "separable_conv", "channels": 8, "num_blocks": 1}},
    ],
    ids=["recurrent", "pooled"],
)
def test_recurrent_and_slower_students_learn_from_hidden_states(copy: Path, changes) -> None:
    pairs = {"crnn": {"recurrent.0": "recurrent.0"}, "separable_conv": {"blocks.0": "recurrent.0"}}
    kind = changes["architecture"]["type"]
    objective = {"frame": {"weight": 0.0}, "hidden": {"layers": pairs[kind], "type": "mse"}}
    settings = tiny_params(cache=RICH_CACHE, distill={"objective": objective, "control": False})
    settings["distill"]["students"] = {"conv": changes}
    if kind == "separable_conv":
        settings["teacher"]["architecture"]["time_reduction"] = 2  # two of its frames face one
    write_params(copy, settings)
    teacher(copy)
    cache(copy)
    distill(copy, "conv", 0)
    first, last = initial_and_last(copy, "hidden")
    assert 0 < last < first


def test_a_killed_distillation_goes_on_with_its_projections_and_heads(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrich(copy, control=False)
    killed = Path(shutil.copytree(copy, tmp_path / "killed"))
    distill(copy, "conv", 0)
    killed_after_two_epochs(monkeypatch, lambda: distill(killed, "conv", 0))
    distill(killed, "conv", 0)
    assert weights(killed / "models/students/conv/seed-0") == weights(
        copy / "models/students/conv/seed-0"
    )
    curves = [
        [
            (row["key"], row["value"], row["step"])
            for row in read_curves(path)
            if row["key"] != "train/cpu_seconds"
        ]
        for path in (root / "curves/students/conv/seed-0.jsonl" for root in (killed, copy))
    ]
    assert curves[0] == curves[1]


def test_what_an_objective_owns_leaves_the_control_as_it_is(copy: Path, tmp_path: Path) -> None:
    enrich(copy)
    plain = Path(shutil.copytree(copy, tmp_path / "plain"))
    change_params(plain, cache=RICH_CACHE)
    for root in (copy, plain):
        distill(root, "conv", 0)
    controls, students = "models/controls/conv/seed-0", "models/students/conv/seed-0"
    assert weights(copy / controls) == weights(plain / controls)
    assert weights(copy / students) != weights(plain / students)


def test_a_schedule_that_never_changes_is_a_number(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    for root, share in ((copy, 0.5), (other, {"start": 0.5, "end": 0.5})):
        change_params(root, distill={"objective": {"teacher_share": share}, "control": False})
        distill(root, "conv", 0)
    assert weights(copy / "models/students/conv/seed-0") == weights(
        other / "models/students/conv/seed-0"
    )


def targets_of(root: Path, **settings) -> tuple[CachedTargets, TeacherCache, np.ndarray]:
    store = TeacherCache.open_current(root / "data/teacher_cache")
    keys = list(PreparedData.open(root / "data/prepared").split("train")["audio_key"])[:4]
    targets = CachedTargets(store, keys, Vocabulary(store.namespace.tokens), **settings)
    return targets, store, store.rows(keys)


def test_hypotheses_weigh_by_their_softened_scores(copy: Path) -> None:
    enrich(copy)
    sequence = SequenceLossParams(num_hypotheses=2, temperature=3.0)
    targets, store, rows = targets_of(copy, sequence=sequence, fit=np.array([True] * 3 + [False]))
    for row, cached in enumerate(store.hypotheses(rows)[:3]):
        assert len(cached) == 3
        found = targets.hypotheses(row)
        vocabulary = Vocabulary(store.namespace.tokens)
        assert [tokens for tokens, _ in found] == [vocabulary.encode(x.text) for x in cached[:2]]
        first, second = (weight for _, weight in found)
        assert first + second == pytest.approx(1)
        assert np.log(first / second) == pytest.approx((cached[0].score - cached[1].score) / 3)
    assert not targets.hypotheses(3)


def test_one_hypothesis_is_the_best_path(copy: Path) -> None:
    enrich(copy)
    targets, store, rows = targets_of(copy)
    vocabulary = Vocabulary(store.namespace.tokens)
    for row, text in enumerate(store.greedy_texts(rows)):
        assert targets.hypotheses(row) == [(vocabulary.encode(text), 1.0)]


def test_hidden_states_come_from_the_cache_and_dropped_utterances_have_no_frames(
    copy: Path,
) -> None:
    enrich(copy)
    fit = np.array([True, False, True, True])
    layers = ["recurrent.0", "project", "recurrent.0"]
    for with_frames in (True, False):
        targets, store, rows = targets_of(
            copy, fit=fit, hidden_layers=layers, with_frames=with_frames
        )
        frames = targets.frames([2, 1])
        assert list(frames.hidden) == ["recurrent.0", "project"]
        assert frames.lengths.tolist() == [int(store.num_frames(rows)[2]), 0]
        for layer, states in frames.hidden.items():
            expected = store.hidden(rows[[2, 1]], layer).values
            np.testing.assert_array_equal(states.numpy(), expected)


def test_a_student_layer_that_does_not_exist_is_named(copy: Path) -> None:
    change_params(copy, distill={"objective": {"intermediate": {"layers": ["blocks.9"]}}})
    with pytest.raises(
        ModelError, match=r"'blocks\.9': unknown .* \['front', 'blocks\.0', 'last'\]"
    ):
        distill(copy, "conv", 0)


# --- filtered hypotheses, hidden transcripts -----------------------------------------------------


def with_hypotheses(root: Path, texts: dict[str, str]) -> TeacherCache:
    """Replace the cached hypotheses, by utterance; all others become the transcript, or `ab`."""
    rows = PreparedData.open(root / "data/prepared").split("train")
    old = TeacherCache.open_current(root / "data/teacher_cache")
    outputs = old.log_probs(old.rows(list(rows["audio_key"])))
    shutil.rmtree(old.folder)
    new = TeacherCache.create(old.folder.parent, old.namespace)
    with new.writing() as writer:
        for row in rows.itertuples():
            values = outputs.values[row.Index, : outputs.num_frames[row.Index]]
            text = texts.get(row.utterance_id, "ab" if pd.isna(row.text) else row.text)
            writer.add(Entry(row.audio_key, values, text, 0.9))
    new.reload()
    return new


def distillation(root: Path, store: TeacherCache, **settings) -> Distillation:
    change_params(root, distill=settings)
    data = PreparedData.open(root / "data/prepared")
    loaded = Params.load(root / "params.yaml").distill
    return Distillation(data, store, "conv", loaded, root / "scratch")


def labelled_and_bare(root: Path) -> tuple[list[str], list[str]]:
    """Return the ids of the training utterances with a transcript, and of those without."""
    rows = PreparedData.open(root / "data/prepared").split("train")
    has_text = rows["text"].notna()
    return list(rows["utterance_id"][has_text]), list(rows["utterance_id"][~has_text])


def test_a_dropped_hypothesis_costs_the_teacher_or_the_utterance(copy: Path) -> None:
    """With a transcript an utterance is kept for that; without one it is left out."""
    (wrong, *_), (empty, *_) = labelled_and_bare(copy)
    store = with_hypotheses(copy, {wrong: "ccc ccc ccc ccc", empty: ""})
    run = distillation(copy, store, filter={})
    assert run.filtered is not None
    assert run.filtered.report().dropped == {"too_few_characters": 1, "word_errors": 1}
    rows = run.student_rows().set_index("utterance_id")
    assert len(rows) == 31
    assert empty not in rows.index
    assert list(rows.index[~rows["fit"]]) == [wrong]
    alone = distillation(copy, store, filter={}, objective={"teacher_share": 1.0})
    assert alone.student_rows()["fit"].tolist() == [True] * 30


@pytest.mark.parametrize(
    ("objective", "takes_its_place"),
    [
        ({}, True),
        ({"sequence": {"where_transcribed": "teacher"}}, False),
        ({"teacher_share": 1.0}, False),  # transcripts do not count
    ],
)
def test_a_transcript_takes_the_place_of_the_teachers_text(
    copy: Path, objective: dict[str, Any], takes_its_place: bool
) -> None:
    (known, *_), (bare, *_) = labelled_and_bare(copy)
    run = distillation(copy, with_hypotheses(copy, {known: "a", bare: "b a"}), objective=objective)
    texts = texts_learnt(run)
    assert texts[bare] == ["b a"]
    rows = run.data.frame.set_index("utterance_id")
    assert texts[known] == ([rows["text"][known]] if takes_its_place else ["a"])


def test_a_transcript_stays_where_the_teachers_text_was_dropped(copy: Path) -> None:
    (wrong, *_), _ = labelled_and_bare(copy)
    store = with_hypotheses(copy, {wrong: "ccc ccc ccc ccc"})
    run = distillation(copy, store, filter={}, objective={})
    assert texts_learnt(run)[wrong] == [run.data.frame.set_index("utterance_id")["text"][wrong]]
    teachers = {"sequence": {"where_transcribed": "teacher"}}
    run = distillation(copy, store, filter={}, objective=teachers)
    assert texts_learnt(run)[wrong] == []


def test_where_all_is_transcribed_no_text_of_the_teacher_is_checked(copy: Path) -> None:
    store = TeacherCache.open_current(copy / "data/teacher_cache")
    run = distillation(copy, store, objective={})
    frame = run.data.frame.assign(text=run.data.frame["text"].fillna("ab"))
    run = replace(run, data=replace(run.data, frame=frame))
    run.check_student_texts()
    rows = run.student_rows().set_index("utterance_id")
    assert texts_learnt(run) == {name: [text] for name, text in rows["text"].items()}


def texts_learnt(run: Distillation) -> dict[str, list[str]]:
    """Return the texts that the sequence term learns, by utterance."""
    rows = run.student_rows()
    targets = run._student_set(rows).targets
    assert isinstance(targets, CachedTargets)
    return {
        row.utterance_id: [run.vocabulary.decode(tokens) for tokens, _ in targets.hypotheses(index)]
        for index, row in enumerate(rows.itertuples())
    }


def test_without_a_filter_every_hypothesis_is_used(copy: Path) -> None:
    (wrong, *_), (empty, *_) = labelled_and_bare(copy)
    run = distillation(copy, with_hypotheses(copy, {wrong: "ccc ccc ccc ccc", empty: ""}))
    assert run.filtered is None
    assert run.student_rows()["fit"].tolist() == [True] * 32


def test_terms_of_the_teacher_ignore_what_was_dropped(workspace: Path) -> None:
    """The loss of a batch with a dropped row is that of the other row, transcripts aside."""
    store = TeacherCache.open_current(workspace / "data/teacher_cache")
    data = PreparedData.open(workspace / "data/prepared")
    rows = data.split("train").iloc[:2]
    vocabulary = Vocabulary(store.namespace.tokens)
    settings = ObjectiveParams(teacher_share=1.0, frame=FrameLossParams(blank_mode="all"))
    objective = DistillationObjective(settings, 1)
    num_frames = store.num_frames(store.rows(list(rows["audio_key"])))
    scores = torch.randn(2, int(num_frames.max()), len(vocabulary))

    def terms(chosen: list[int], fit: list[bool]) -> dict[str, float]:
        targets = CachedTargets(store, list(rows["audio_key"]), vocabulary, fit=np.array(fit))
        said = [[([1, 2], 1.0)], [([2, 3, 4], 1.0)]]
        targets.weighted = [text if kept else [] for text, kept in zip(said, fit, strict=True)]
        packed = pack_features(data, rows, FeatureParams(num_mels=16), workspace / "scratch")
        batch = TrainingSet([packed], [None, None], 0.01, 60.0, 0, targets).batch(chosen)
        lengths = torch.from_numpy(num_frames[chosen])
        log_probs = scores[chosen, : int(lengths.max())].log_softmax(dim=-1)
        terms = objective(NetworkOutputs(log_probs, lengths), batch)
        return {name: float(x) for name, x in terms.items()}

    one, both = terms([0], [True, True]), terms([0, 1], [True, True])
    assert one["frame"] > 0
    assert one["sequence"] > 0
    assert both["loss"] != pytest.approx(one["loss"])
    assert terms([0, 1], [True, False]) == pytest.approx(one)
    nothing = terms([0, 1], [False, False])
    assert nothing == {"loss": 0.0, "frame": 0.0, "sequence": 0.0}


def test_a_filter_that_leaves_nothing_is_an_error_with_its_reasons(copy: Path) -> None:
    transcribed, bare = labelled_and_bare(copy)
    store = with_hypotheses(copy, dict.fromkeys(transcribed + bare, ""))
    run = distillation(copy, store, filter={}, objective={"teacher_share": 1.0})
    with pytest.raises(
        CorpusError, match="hypotheses of all 32 utterances .8 too_few_characters, 24 word_errors"
    ):
        run.train_student(copy / "curves/x.jsonl")


def test_the_verdicts_are_saved_and_equal_inputs_still_give_equal_bytes(
    copy: Path, workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (wrong, *_), (empty, *_) = labelled_and_bare(copy)
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    for root in (copy, other):
        with_hypotheses(root, {wrong: "ccc ccc ccc ccc", empty: ""})
        change_params(root, distill={"filter": {}})
        distill(root, "conv", 0)
    report = json.loads((copy / "models/students/conv/seed-0/filter.json").read_text())
    assert (report["num_hypotheses"], report["num_kept"]) == (32, 30)
    assert report["confidence"]["kept"][9] + report["confidence"]["kept"][8] == 30  # 0.9
    assert "filter: dropped word_errors 1" in caplog.text
    assert not (copy / "models/controls/conv/seed-0/filter.json").exists()
    for kind in ("students", "controls"):
        one, two = copy / "models" / kind / "conv/seed-0", other / "models" / kind / "conv/seed-0"
        assert [path.name for path in one.iterdir()] == [path.name for path in two.iterdir()]
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes()


def test_the_filter_leaves_the_control_as_it_is(
    copy: Path, workspace: Path, tmp_path: Path
) -> None:
    """Where it drops no audio, so that the steps are as many."""
    (wrong, *_), _ = labelled_and_bare(copy)
    other = Path(shutil.copytree(workspace, tmp_path / "other"))
    for root, settings in ((copy, {"enabled": True}), (other, {"enabled": False})):
        with_hypotheses(root, {wrong: "ccc ccc ccc ccc"})
        objective = {"sequence": {"where_transcribed": "teacher"}}
        change_params(root, distill={"filter": settings, "objective": objective})
        distill(root, "conv", 0)
    controls, students = "models/controls/conv/seed-0", "models/students/conv/seed-0"
    assert weights(copy / controls) == weights(other / controls)
    assert weights(copy / students) != weights(other / students)


def test_hidden_transcripts_are_as_good_as_none(tmp_path: Path) -> None:
    """Teacher, cache, student and control end as if those transcripts had never been there."""
    hiding, without = tmp_path / "hiding", tmp_path / "without"
    settings = tiny_params(prepare={"labelled_fraction": 0.5})
    settings["distill"]["filter"] = {}
    write_corpus(hiding / "corpus")
    write_params(hiding, settings)
    prepare(hiding)
    rows = PreparedData.open(hiding / "data/prepared").split("train")
    assert 0 < rows["text"].notna().sum() < len(rows)
    shutil.copytree(hiding / "corpus", without / "corpus")
    listed = pd.read_csv(without / "corpus/manifest.csv")
    hidden = set(rows["source_path"][rows["text"].isna()])
    listed.loc[listed["path"].isin(hidden), "text"] = None
    listed.to_csv(without / "corpus/manifest.csv", index=False)
    settings["prepare"]["labelled_fraction"] = 1.0
    write_params(without, settings)
    prepare(without)
    for root in (hiding, without):
        teacher(root)
        cache(root)
        distill(root, "conv", 0)
    for model in ("teacher", "students/conv/seed-0", "controls/conv/seed-0"):
        assert weights(hiding / "models" / model) == weights(without / "models" / model)
