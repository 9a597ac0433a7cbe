"""All augmentations together: what is drawn, when, and that training goes on exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from distillery.augmentations.augmenter import STREAMS
from distillery.augmentations.base import fast_length
from distillery.errors import ParamsError
from distillery.params.augmentation import AugmentationParams
from distillery.params.whole import Params
from distillery.training.batches import Batch, Moment
from tasks.cache import cache
from tasks.distill import distill
from tests.kills import killed_after_two_epochs, killed_in_pass
from tests.tiny import tiny_params, write_params
from tests.unit.augmentations.alignment import Pair, stand_in_place
from tests.unit.augmentations.conftest import Lab, lab_params, targets_of

EVERYTHING: dict[str, Any] = {
    "noise": {},
    "gain": {},
    "reverberation": {"direct_db": [10, 15]},
    "crop": {},
    "concatenate": {"probability": 0.5},
}


def equal(one: Batch, two: Batch) -> bool:
    tensors = ("features", "labels", "teacher_log_probs", "hypotheses", "teacher_lengths")
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in tensors)


def test_fast_lengths_are_the_next_ones() -> None:
    lengths = [fast_length(at_least) for at_least in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 47_981)]
    assert lengths == [1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 49_152]


def test_every_setting_that_draws_has_a_stream_of_its_own() -> None:
    assert set(STREAMS) == set(AugmentationParams.model_fields) - {"time_warp", "speed_factors"}


def test_targets_fit_when_everything_happens_at_once(lab: Lab, tmp_path: Path) -> None:
    pairs: list[Pair] = []
    for step in range(4):
        batch = lab.batch(tmp_path, Moment(0, step), augmentation=EVERYTHING)
        pairs += zip(targets_of(batch), lab.said(batch), strict=True)
    assert stand_in_place(pairs)


def test_draws_come_from_seed_epoch_step_and_utterance_alone(lab: Lab, tmp_path: Path) -> None:
    def at(*moment: int, **distill: Any) -> Batch:
        return lab.batch(tmp_path, Moment(*moment), augmentation=EVERYTHING, **distill)

    first = at(3, 1)
    torch.manual_seed(12345)
    np.random.seed(5)
    assert equal(first, at(3, 1))
    assert not equal(first, at(3, 2))
    assert not equal(first, at(2, 1))
    run = lab.distillation(tmp_path, augmentation=EVERYTHING)
    other = replace(run, params=run.params.for_seed(9))
    data = other._student_set(other.student_rows())
    assert not equal(first, data.batch(range(32), Moment(3, 1)))


def test_an_utterance_sounds_the_same_whatever_stands_beside_it(lab: Lab, tmp_path: Path) -> None:
    settings = {name: EVERYTHING[name] for name in ("noise", "gain", "reverberation", "crop")}
    run = lab.distillation(tmp_path, augmentation=settings)
    data = run._student_set(run.student_rows())
    alone, beside = data.batch([7], Moment(2, 4)), data.batch([3, 7], Moment(2, 4))
    length = int(alone.feature_lengths[0])
    assert int(beside.feature_lengths[1]) == length
    assert torch.equal(alone.features[0], beside.features[1, :length])
    assert torch.equal(
        alone.teacher_log_probs[0],
        beside.teacher_log_probs[1, : int(alone.teacher_lengths[0])],
    )


def test_switching_one_on_leaves_the_others_draws_alone(lab: Lab, tmp_path: Path) -> None:
    cut = {"crop": {"probability": 0.5}}
    one = lab.batch(tmp_path, augmentation=cut)
    two = lab.batch(tmp_path, augmentation={**cut, "noise": {}, "reverberation": {}})
    assert torch.equal(one.teacher_log_probs, two.teacher_log_probs)
    assert not torch.equal(one.features, two.features)


def test_a_control_hears_what_its_student_hears(lab: Lab, tmp_path: Path) -> None:
    settings = {name: EVERYTHING[name] for name in ("noise", "gain", "reverberation")}
    run = lab.distillation(tmp_path, augmentation={**settings, "concatenate": {}})
    rows = run._labelled_rows()
    control = run._training_set(rows, None)
    heard = rows.assign(fit=True, heard_key=rows["audio_key"], stretch=1.0)
    student = run._student_set(heard)
    assert control.plan(1) == student.plan(1)
    for step, items in enumerate(control.plan(1)):
        one, two = control.batch(items, Moment(1, step)), student.batch(items, Moment(1, step))
        assert torch.equal(one.features, two.features)
        assert torch.equal(one.labels, two.labels)
        assert not one.teacher_lengths.any()
        assert two.teacher_lengths.all()


def test_audio_that_nothing_changed_has_the_packed_features(lab: Lab, tmp_path: Path) -> None:
    """Up to the half precision that they are packed in; the plan of batches is the same, too."""
    quiet = {"gain": {"probability": 1.0, "gain_db": [0, 0]}}
    runs = [lab.distillation(tmp_path, augmentation=settings) for settings in (quiet, {})]
    live, packed = (run._student_set(run.student_rows()) for run in runs)
    assert live.plan(0) == packed.plan(0)
    for items in live.plan(0)[:3]:
        one, two = live.batch(items), packed.batch(items)
        assert torch.equal(one.feature_lengths, two.feature_lengths)
        torch.testing.assert_close(one.features, two.features, atol=5e-3, rtol=1e-3)
        assert torch.equal(one.teacher_log_probs, two.teacher_log_probs)
        assert torch.equal(one.labels, two.labels)


def copy_of(lab: Lab, folder: Path, **distill: Any) -> Path:
    root = Path(shutil.copytree(lab.root, folder))
    settings = lab_params(**distill)
    settings["cache"]["speed_factors"] = []
    write_params(root, settings)
    return root


def weights(root: Path, kind: str) -> bytes:
    return (root / f"models/{kind}/conv/seed-0/model.safetensors").read_bytes()


def test_a_killed_run_goes_on_to_the_same_weights(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = {"hidden": {"layers": {"front": "recurrent.0"}}}
    augmentation = EVERYTHING | {"speed_factors": [0.9]}
    training = lab_params()["distill"]["training"] | {"average_steps": 5}
    settings = {"augmentation": augmentation, "objective": objective, "training": training}
    whole = copy_of(lab, tmp_path / "whole", **settings)
    killed = copy_of(lab, tmp_path / "killed", **settings)
    plain = copy_of(lab, tmp_path / "plain", objective=objective)
    distill(whole, "conv", 0)
    often = yaml.safe_load((killed / "params.yaml").read_text())
    write_params(killed, often | {"training": {"checkpoint_seconds": 1e-6}})
    died = killed_in_pass(monkeypatch, 3, lambda: distill(killed, "conv", 0))
    assert (died.epoch, died.within.num_steps) == (0, 3)
    killed_after_two_epochs(monkeypatch, lambda: distill(killed, "conv", 0))
    distill(killed, "conv", 0)
    distill(plain, "conv", 0)
    for kind in ("students", "controls"):
        assert weights(whole, kind) == weights(killed, kind)
        assert weights(whole, kind) != weights(plain, kind)


@pytest.mark.parametrize(
    "settings",
    [
        {"generations": 2},
        {"objective": {"teacher_share": 1.0}},
        {"objective": {"frame": {"weight": 0.0}}, "crop": False},
        {"filter": {"enabled": True}},
        {"features": {"num_mels": 16, "hop_seconds": 0.02}},
    ],
    ids=["generations", "no transcripts", "texts alone", "filter", "slower student"],
)
def test_whatever_is_learnt_from_goes_with_augmentation(
    lab: Lab, tmp_path: Path, settings: dict[str, Any]
) -> None:
    augmentation = dict(EVERYTHING)
    if settings.pop("crop", None) is False:
        del augmentation["crop"]
    root = copy_of(lab, tmp_path / "root", augmentation=augmentation, **settings)
    distill(root, "conv", 0)
    lines = (root / "curves/students/conv/seed-0.jsonl").read_text().splitlines()
    losses = [row["value"] for row in map(json.loads, lines) if row["key"] == "train/loss"]
    assert losses[-1] < losses[0]


def test_sparse_targets_go_with_augmentation(lab: Lab, tmp_path: Path) -> None:
    root = copy_of(lab, tmp_path / "root")
    settings = lab_params(augmentation=EVERYTHING, control=False)
    settings["cache"]["speed_factors"] = []
    settings["cache"]["payload"] = {"log_probs": "sparse", "sparse": {"top_k": 2}}
    write_params(root, settings)
    cache(root)
    distill(root, "conv", 0)
    assert weights(root, "students")


def test_the_recordings_that_were_drawn_from_stand_beside_the_student(
    lab: Lab, tmp_path: Path
) -> None:
    root = copy_of(lab, tmp_path / "root", augmentation={"noise": {"folder": "hum"}})
    (root / "hum").mkdir()
    soundfile.write(root / "hum/a.wav", np.sin(np.arange(800)), 8000)
    distill(root, "conv", 0)
    kept = json.loads((root / "models/students/conv/seed-0/sounds.json").read_text())
    assert set(kept) == {"noise"}
    assert not (root / "models/controls/conv/seed-0/filter.json").exists()


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            {"noise": {"snr_db": [20, 5]}},
            r"noise.snr_db: the ends stand in reverse, expected \[5, 20\] \(found \[20, 5\]\)",
        ),
        ({"noise": {"snr_db": 5}}, "noise.snr_db: Input should be a valid tuple"),
        ({"noise": {"probability": 0}}, "noise.probability: Input should be greater than 0"),
        ({"noise": {"folder": ""}}, "noise.folder: String should have at least 1 character"),
        ({"noise": {"folde": "x"}}, "noise.folde: unknown setting; did you mean 'folder'?"),
        ({"gain": {"gain_db": [6, -6]}}, r"gain.gain_db: the ends stand in reverse"),
        ({"crop": {"kept_fraction": [0, 1]}}, "crop.kept_fraction.0: Input should be greater"),
        ({"crop": {"kept_fraction": [0.9, 0.5]}}, "crop.kept_fraction: the ends stand in"),
        ({"reverberation": {"rt60_seconds": [0.5, 0.1]}}, "rt60_seconds: the ends stand in"),
        ({"reverberation": {"direct_db": [-3, 0]}}, "direct_db.0: Input should be greater than"),
        (
            {"reverberation": {"folder": "rooms", "direct_db": [0, 3]}},
            "reverberation: direct_db is set, but impulse responses come from folder 'rooms'",
        ),
        ({"nois": {}}, "distill.augmentation.nois: unknown setting; did you mean 'noise'?"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    tmp_path: Path, augmentation: dict[str, Any], message: str
) -> None:
    write_params(tmp_path, tiny_params(distill={"augmentation": augmentation}))
    with pytest.raises(ParamsError, match=message):
        Params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([0.9, 1.0], "cache.speed_factors: 1 is the audio itself, which is always there; remove"),
        ([0.9, 0.9], "cache.speed_factors: a factor occurs twice; name each once"),
        ([3.0], "cache.speed_factors.0: Input should be less than or equal to 2"),
    ],
)
def test_speeds_that_make_no_sense_are_named(
    tmp_path: Path, factors: list[float], message: str
) -> None:
    write_params(tmp_path, tiny_params(cache={"speed_factors": factors}))
    with pytest.raises(ParamsError, match=message):
        Params.load(tmp_path / "params.yaml")
