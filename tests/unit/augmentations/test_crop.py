"""Crops: targets are sliced where the audio is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.augmentations.crop import Crop, cut
from distillery.data.features import LogMel
from distillery.errors import ParamsError
from distillery.params.augmentation import CropParams
from distillery.params.models import FeatureParams
from distillery.params.whole import Params
from distillery.training.batches import NO_LABELS
from tests.tiny import tiny_params, write_params
from tests.unit.augmentations.alignment import divergence, stand_in_place
from tests.unit.augmentations.conftest import Lab, lab_params, targets_of

ALWAYS = {"crop": {"probability": 1.0}}
HIDDEN = {"hidden": {"layers": {"front": "recurrent.0"}}}


def test_a_live_teacher_says_of_a_crop_what_the_sliced_targets_say(
    lab: Lab, tmp_path: Path
) -> None:
    batch = lab.batch(tmp_path, augmentation=ALWAYS)
    plain = lab.batch(tmp_path)
    assert (batch.teacher_lengths < plain.teacher_lengths).all()
    pairs = list(zip(targets_of(batch), lab.said(batch), strict=True))
    assert stand_in_place(pairs)
    assert np.median([divergence(*pair) for pair in pairs]) < 0.2


def test_sliced_targets_and_hidden_states_are_stretches_of_the_cached_ones(
    lab: Lab, tmp_path: Path
) -> None:
    batch = lab.batch(tmp_path, augmentation=ALWAYS, objective=HIDDEN)
    plain = lab.batch(tmp_path, objective=HIDDEN)
    states, whole_states = (x.teacher_hidden["recurrent.0"] for x in (batch, plain))
    starts = set()
    for row, (sliced, whole) in enumerate(zip(targets_of(batch), targets_of(plain), strict=True)):
        count = len(sliced)
        (start,) = [
            start
            for start in range(len(whole) - count + 1)
            if np.array_equal(whole[start : start + count], sliced)
        ]
        starts.add(start)
        assert torch.equal(states[row, :count], whole_states[row, start : start + count])
        assert not states[row, count:].any()
    assert len(starts) > 3


def test_a_slower_student_is_cut_at_its_own_frames(lab: Lab, tmp_path: Path) -> None:
    """Two teacher frames face one of the student: crops begin at even ones, and lengths fit."""
    features = {"num_mels": 16, "hop_seconds": 0.02}
    batch = lab.batch(tmp_path, augmentation=ALWAYS, features=features)
    plain = lab.batch(tmp_path, features=features)
    student_frames = -(-batch.feature_lengths // 4)
    assert torch.equal(student_frames, -(-batch.teacher_lengths // 2))
    for sliced, whole in zip(targets_of(batch), targets_of(plain), strict=True):
        begins = [
            start
            for start in range(len(whole) - len(sliced) + 1)
            if np.array_equal(whole[start : start + len(sliced)], sliced)
        ]
        assert begins[0] % 2 == 0


def test_texts_of_a_cut_utterance_do_not_count(lab: Lab, tmp_path: Path) -> None:
    batch = lab.batch(tmp_path, augmentation={"crop": {"probability": 0.5}})
    plain = lab.batch(tmp_path)
    is_cut = batch.teacher_lengths < plain.teacher_lengths
    assert 8 < int(is_cut.sum()) < 24
    assert (batch.label_lengths[is_cut] == NO_LABELS).all()
    assert (batch.hypothesis_lengths[is_cut] == NO_LABELS).all()
    assert not batch.hypothesis_weights[is_cut].any()
    assert torch.equal(batch.label_lengths[~is_cut], plain.label_lengths[~is_cut])
    assert torch.equal(batch.hypothesis_lengths[~is_cut], plain.hypothesis_lengths[~is_cut])


def test_an_utterance_that_the_teacher_says_nothing_about_is_kept_whole(
    lab: Lab, tmp_path: Path
) -> None:
    """A control's are all of this kind."""
    run = lab.distillation(tmp_path, augmentation=ALWAYS)
    rows = run._labelled_rows()
    batch = run._training_set(rows, None).batch(range(10))
    assert (batch.label_lengths != NO_LABELS).all()
    lengths = LogMel(FeatureParams(num_mels=16), 8000).num_frames(rows["num_samples"].to_numpy())
    assert batch.feature_lengths.tolist() == lengths[:10].tolist()


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("num_frames", [1, 2, 6])
def test_so_many_samples_give_so_many_frames(start: int, num_frames: int) -> None:
    """At 8 kHz a hop has 80 samples, a frame of the student 320."""
    waveform = torch.arange(10 * 320)
    stretch = cut(waveform, start, num_frames, 320)
    assert int(stretch[0]) == start * 320
    feature_frames = LogMel(FeatureParams(), 8000).num_frames(len(stretch))
    assert -(-feature_frames // 4) == num_frames


def test_draws_stay_inside_and_keep_their_share() -> None:
    crop = Crop(CropParams(probability=1.0, kept_fraction=(0.25, 0.5)))
    random = np.random.default_rng(0)
    drawn = [crop.draw(40, random) for _ in range(300)]
    assert {kept[1] for kept in drawn if kept} == set(range(10, 21))
    assert all(kept and 0 <= kept[0] <= 40 - kept[1] for kept in drawn)
    assert {kept[0] for kept in drawn if kept} >= {0, 20}
    assert crop.draw(1, random) is None


@pytest.mark.parametrize("objective", [{"frame": {"weight": 0.0}}, {"teacher_share": 0.0}])
def test_a_student_without_frames_to_learn_is_refused(tmp_path: Path, objective: Any) -> None:
    settings = tiny_params(distill={"objective": objective, "augmentation": ALWAYS})
    write_params(tmp_path, settings)
    with pytest.raises(
        ParamsError,
        match=r"distill: augmentation.crop is set, but students.conv learns neither frames nor "
        r"hidden states .*; remove crop, or give the student frame.weight above 0",
    ):
        Params.load(tmp_path / "params.yaml")


def test_hidden_states_alone_are_frames_enough(tmp_path: Path) -> None:
    objective = {"frame": {"weight": 0.0}, **HIDDEN}
    write_params(tmp_path, lab_params(objective=objective, augmentation=ALWAYS))
    assert Params.load(tmp_path / "params.yaml").distill.augmentation.crop
