"""examples/week: what arrives on which day, its table, and two days of it for real."""

from __future__ import annotations

import csv
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from distillery.corpora.base import Recording
from distillery.data.audio import decode
from distillery.errors import AudioError, StageError
from examples.week.__main__ import SETTINGS
from examples.week.deliveries import SENTENCES, TEST_SPEAKERS, VALID_SPEAKERS, Deliveries
from examples.week.nights import live
from examples.week.page import report, table
from examples.week.plan import WEEK, Day, Morning
from flows.looking_back.history import Retraining
from tests.pipeline.conftest import ROOT, make_workspace

RATE_HZ = 16000


def noise(seed: int) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(seed).normal(0, 1000, RATE_HZ).astype(np.int16)
    return samples, RATE_HZ


def pool(num_speakers: int = 5, each: int = 2) -> list[Recording]:
    """Two speakers validate, the last one tests."""
    return [
        Recording(
            utterance_id=f"s{speaker}-{take}",
            source_path="noise",
            speaker=f"s{speaker}",
            text=f"text {speaker} {take}",
            split="test" if speaker == num_speakers - 1 else "train",
            audio=functools.partial(noise, 10 * speaker + take),
        )
        for speaker in range(num_speakers)
        for take in range(each)
    ]


def manifest(folder: Path) -> dict[str, tuple[str, str]]:
    with open(folder / "manifest.csv", encoding="utf-8") as file:
        return {row["path"]: (row["split"], row["text"]) for row in csv.DictReader(file)}


def test_a_corpus_begins_with_validation_and_test(tmp_path: Path) -> None:
    Deliveries(tmp_path, pool())
    splits = {name: split for name, (split, _) in manifest(tmp_path).items()}
    assert splits == {
        **{f"s{speaker}-{take}.flac": "valid" for speaker in (0, 1) for take in (0, 1)},
        **{f"s4-{take}.flac": "test" for take in (0, 1)},
    }


def test_what_arrives_wrong_is_wrong_until_it_comes_again(tmp_path: Path) -> None:
    deliveries = Deliveries(tmp_path, pool())
    deliveries.deliver(Day("first", 2, broken=1))
    with pytest.raises(AudioError, match="noise|s2-0"):
        decode(tmp_path / "s2-0.flac", "s2-0.flac")
    good = (tmp_path / "s2-1.flac").read_bytes()
    deliveries.deliver(Day("second", 2, shifted=True))
    assert manifest(tmp_path)["s3-0.flac"] == ("train", "text 3 1")
    assert manifest(tmp_path)["s3-1.flac"] == ("train", "text 3 0")
    deliveries.deliver(Day("third", mended=True))
    assert manifest(tmp_path)["s3-0.flac"] == ("train", "text 3 0")
    assert np.array_equal(decode(tmp_path / "s2-0.flac", "s2-0.flac")[0], noise(20)[0])
    assert (tmp_path / "s2-1.flac").read_bytes() == good
    with pytest.raises(StageError, match="fourth: 1 recordings, only 0 are left"):
        deliveries.deliver(Day("fourth", 1))


def test_the_week_has_every_kind_of_day() -> None:
    assert len(WEEK) == 7
    assert [day.arrivals for day in WEEK].count("none") == 1
    assert sum(day.shifted for day in WEEK) == 1
    assert sum(day.rollback for day in WEEK) == 1
    limit = yaml.safe_load((ROOT / SETTINGS).read_text())["prepare"]["max_dropped_fraction"]
    everything = sum(day.recordings for day in WEEK)
    everything += (VALID_SPEAKERS + TEST_SPEAKERS) * SENTENCES
    few, many = sorted(day.broken for day in WEEK if day.broken)
    assert few < limit * 80 < limit * everything < many


def test_the_table_says_what_a_night_did() -> None:
    done = Retraining(
        run="r1",
        trigger="schedule",
        started="2026-01-31T03:00:00+00:00",
        status="finished",
        stages={"prepare": "ran", "teacher": "unchanged", "distill@conv-0": "ran"},
        teacher_forwards=3,
        teacher_seconds=1.25,
        wer=0.5,
        wer_low=0.4,
        wer_high=0.6,
        version="2",
        alias="champion",
        verdict="all rules passed",
        seconds=61.2,
    )
    quiet = Retraining(run="r2", trigger="schedule", started="", status="nothing new", seconds=3)
    mornings = [
        Morning(Day("Monday", 3, broken=1, rollback=True), done, "2", rolled_back_to="1"),
        Morning(Day("Tuesday"), quiet, "1"),
    ]
    rows = table(mornings).split("\n")[2:]
    assert rows == [
        "| Monday | 3, 1 of them broken | 3 (1.2 s) | prepare, distill | 50.0 [40.0, 60.0] | "
        "version 2: yes | 2 | 61 s |",
        "| *the morning after* |  |  |  |  | *`make rollback` by hand* | *1* |  |",
        "| Tuesday | none | – | none | – | nothing new | 1 | 3 s |",
    ]
    page = report(mornings, "0123456789abcdef", 90, "week.png")
    assert "commit 0123456789ab;" in page
    assert "(week.png)" in page
    assert "**Monday.** The run reported: *all rules passed*." in page


@pytest.mark.slow
def test_two_days_for_real(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "repository")
    shutil.copytree(ROOT / "examples", root / "examples", dirs_exist_ok=True)
    settings = yaml.safe_load((ROOT / SETTINGS).read_text())
    settings["distill"]["training"]["num_epochs"] = 2
    settings["register"]["gate"] = {"max_wer": 5.0, "max_slowdown_factor": None}
    settings["teacher"]["allow_poor"] = True
    plan = [Day("Monday", 20), Day("Tuesday")]
    monday, tuesday = live(root, tmp_path / "week", plan, settings, 1)
    assert (monday.record.status, monday.record.trigger) == ("finished", "schedule")
    assert monday.record.teacher_forwards == 20
    assert monday.champion == monday.record.version == "1"
    assert (tuesday.record.status, tuesday.champion) == ("nothing new", "1")
