"""Speed perturbation: copies have keys and teacher outputs of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distillery.commands.cache import _prepared
from distillery.data.copies import copy_at, training_rows, waveform_of, with_copies
from distillery.errors import ParamsError
from distillery.params.cache import CacheParams
from distillery.params.whole import Params
from distillery.teacher_cache.filling.audit import audit
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.batches import START
from tasks.distill import distill
from tests.tiny import RATE_HZ, write_params
from tests.unit.augmentations.conftest import SPEEDS, Lab, lab_params

ROWS = pd.DataFrame(
    {
        "utterance_id": ["a", "b"],
        "audio_key": ["0" * 64, "1" * 64],
        "num_samples": [8000, 4001],
        "duration_seconds": [1.0, 4001 / 8000],
        "offset_samples": [0, 8000],
    }
)


def test_a_copy_has_its_own_id_key_and_length_and_its_sources_samples() -> None:
    fast = copy_at(ROWS, 1.25, 8000)
    assert list(fast["utterance_id"]) == ["a@1.25", "b@1.25"]
    assert list(fast["duration_seconds"]) == [6400 / 8000, 3201 / 8000]  # 4001 / 1.25 = 3200.8
    assert list(fast["num_samples"]) == [8000, 4001]
    slow = copy_at(ROWS, 0.8, 8000)
    keys = {*ROWS["audio_key"], *fast["audio_key"], *slow["audio_key"]}
    assert len(keys) == 6
    assert list(fast["audio_key"]) == list(copy_at(ROWS, 1.25, 8000)["audio_key"])
    assert ROWS["audio_key"].tolist() == ["0" * 64, "1" * 64]


def test_no_factors_leave_the_rows_alone() -> None:
    assert with_copies(ROWS, (), 8000) is ROWS


def test_the_cached_targets_of_a_copy_are_what_the_teacher_says_of_its_audio(lab: Lab) -> None:
    rows = training_rows(lab.data, SPEEDS)
    assert len(rows) == 3 * 32 == len(lab.cache)
    copies = rows[rows["played_hz"] != RATE_HZ]
    assert set(copies["played_hz"]) == {7200, 8800}
    for row in copies.iloc[::7].itertuples():
        waveform = waveform_of(lab.data, row)
        assert len(waveform) == round(row.duration_seconds * RATE_HZ) != row.num_samples
        cached = lab.cached(row.audio_key)
        live = lab.live(waveform)
        assert cached.shape == live.shape
        np.testing.assert_allclose(cached, live, atol=1e-3)


def test_a_new_factor_costs_its_copies_alone(lab: Lab, tmp_path: Path) -> None:
    places = Places(
        lab.root / "data/prepared",
        lab.root / "models/teacher",
        Path(shutil.copytree(lab.root / "data/teacher_cache", tmp_path / "cache")),
    )
    settings = lab_params()["cache"]
    report = fill_cache(places, load_teacher, CacheParams.model_validate(settings))
    assert (report.num_hits, report.num_teacher_forwards) == (96, 0)
    settings["speed_factors"] = [0.9, 1.2]
    report = fill_cache(places, load_teacher, CacheParams.model_validate(settings))
    assert (report.num_hits, report.num_teacher_forwards) == (64, 32)
    assert len(TeacherCache.open_current(places.cache)) == 4 * 32


def test_the_audit_hears_copies_and_cleaning_up_keeps_them(lab: Lab) -> None:
    found = audit(lab.cache, lab.data, lab.teacher, 1000, speed_factors=SPEEDS)
    assert len(found) == 96
    assert any(item.utterance_id.endswith("@1.1") for item in found)
    assert max(item.divergence for item in found) < 1e-5
    prepared = _prepared(lab.root, Places.in_workspace(lab.root))
    assert set(lab.cache.keys(lab.cache.all_rows)) <= set(prepared["audio_key"])


def test_students_and_controls_train_on_the_copies_too(lab: Lab, tmp_path: Path) -> None:
    run = lab.distillation(tmp_path, filter={})
    rows = run.student_rows()
    assert {0.9, 1.1} == {float(name.split("@")[1]) for name in rows["utterance_id"] if "@" in name}
    assert run.filtered is not None
    assert len(run.filtered.faults) == 96
    unlabelled = int(lab.data.split("train")["text"].isna().sum())
    assert run._labelled_rows()["text"].notna().sum() == 3 * (32 - unlabelled)


def test_copies_that_the_teacher_does_not_hear_learn_what_it_said_stretched(
    lab: Lab, tmp_path: Path
) -> None:
    augmentation = {"speed_factors": [0.8, 1.25]}
    objective = {"hidden": {"layers": {"last": "recurrent.0"}}}
    run = lab.distillation(tmp_path, augmentation=augmentation, objective=objective)
    rows = run.student_rows()
    assert len(rows) == 3 * 32 + 2 * 32
    unheard = rows[rows["stretch"] != 1.0]
    assert set(unheard["played_hz"]) == {6400, 10000}
    assert set(unheard["heard_key"]) == set(lab.data.split("train")["audio_key"])
    assert not set(unheard["audio_key"]) & set(lab.cache.keys(lab.cache.all_rows))
    batch = run._student_set(rows).batch(list(unheard.index), START)
    seconds = unheard["duration_seconds"].to_numpy()
    shift = lab.cache.namespace.frame_shift_seconds
    assert np.abs(batch.teacher_lengths.numpy() - seconds / shift).max() <= 2
    assert batch.teacher_hidden["recurrent.0"].shape[:2] == batch.teacher_log_probs.shape[:2]
    for place, row in enumerate(unheard.itertuples()):
        length = int(batch.teacher_lengths[place])
        said = batch.teacher_log_probs[place, :length].argmax(-1).numpy()
        heard = lab.cached(row.heard_key).argmax(-1)
        spoken, before = np.flatnonzero(said) + 0.5, np.flatnonzero(heard) + 0.5
        for end in (0, -1):
            assert abs(spoken[end] - before[end] / row.stretch) <= 1.5, "in its place in time"
    labelled = int(lab.data.split("train")["text"].notna().sum())
    assert len(run._labelled_rows()) == 5 * labelled, "the control hears them, too"


def test_a_copy_is_heard_by_the_teacher_or_not(tmp_path: Path) -> None:
    settings = lab_params(augmentation={"speed_factors": [0.9, 1.2]})
    write_params(tmp_path, settings)
    with pytest.raises(
        ParamsError, match=r"speed_factors: 0\.9 stands in cache\.speed_factors, too"
    ):
        Params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("generations", [1, 2])
def test_the_stage_trains_on_copies(lab: Lab, tmp_path: Path, generations: int) -> None:
    root = Path(shutil.copytree(lab.root, tmp_path / "root"))
    write_params(root, lab_params(generations=generations))
    distill(root, "conv", 0)
    plain = json.loads((root / "reports/cache.json").read_text())
    assert plain["num_utterances"] == 96
    steps = {
        json.loads(line)["step"]
        for line in (root / "curves/students/conv/seed-0.jsonl").read_text().splitlines()
    }
    write_params(root, {**lab_params(), "cache": {**lab_params()["cache"], "speed_factors": []}})
    distill(root, "conv", 0)
    fewer = {
        json.loads(line)["step"]
        for line in (root / "curves/students/conv/seed-0.jsonl").read_text().splitlines()
    }
    assert max(steps) > 2 * max(fewer)
