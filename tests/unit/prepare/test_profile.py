from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distillery.errors import ManifestError
from distillery.prepare.levels import clipped_fraction, level_dbfs
from distillery.prepare.profile import (
    MEASURES,
    Profile,
    ProfileBuilder,
    bin_of,
    chi_square,
    compare,
    group_ends,
    grouped,
    read_profile,
    stability_index,
    write_profile,
)


def test_levels_of_known_signals() -> None:
    time = np.arange(16000) / 16000
    sine = np.rint(32767 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    assert level_dbfs(sine) == pytest.approx(10 * math.log10(0.5), abs=1e-3)
    assert level_dbfs(np.full(100, -32768, np.int16)) == 0.0
    assert level_dbfs(np.full(100, 328, np.int16)) == pytest.approx(20 * math.log10(328 / 32768))
    assert level_dbfs(np.zeros(100, np.int16)) == level_dbfs(np.zeros(0, np.int16)) == -100.0


def test_samples_at_both_ends_count_as_clipped() -> None:
    samples = np.array([32767, -32768, 32766, -32767, 0, -1, 1, 5], np.int16)
    assert clipped_fraction(samples) == 2 / 8
    assert clipped_fraction(np.zeros(0, np.int16)) == 0.0


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        ("duration_seconds", [0.0, 0.1, 0.2, 1.0, 1.06, 30.0]),
        ("level_dbfs", [-100.0, -20.0, -19.6, -19.4, 0.0]),
        ("clipped_fraction", [0.0, 1e-9, 2e-5, 2e-4, 0.5]),
        ("characters_per_second", [0.0, 10.0, 10.6, 100.0]),
    ],
)
def test_larger_values_never_fall_into_lower_bins(measure: str, values: list[float]) -> None:
    bins = [bin_of(measure, value) for value in values]
    assert bins == sorted(bins)
    assert len(set(bins)) >= len(values) - 1


def test_a_profile_counts_what_it_is_told(tmp_path: Path) -> None:
    builder = ProfileBuilder()
    builder.add("train", 2.0, -20.0, 0.0, "ab a")
    builder.add("train", 4.0, -30.0, 0.01, None)
    builder.add("test", 1.0, -20.0, 0.0, "ñ")
    builder.refuse({"é", "ü"})
    builder.refuse({"é"})
    profile = builder.profile()
    train = profile.splits["train"]
    assert train.characters == {" ": 1, "a": 2, "b": 1}
    duration = train.measures["duration_seconds"]
    assert (duration.count, duration.mean, duration.sd) == (2, 3.0, 1.0)
    assert (duration.min, duration.max) == (2.0, 4.0)
    assert sum(count for _, count in duration.histogram) == 2
    rate = train.measures["characters_per_second"]
    assert (rate.count, rate.mean, rate.sd) == (1, 2.0, 0.0)
    assert profile.unknown_characters == {"é": 2, "ü": 1}
    assert profile.num_utterances_with_unknown_characters == 2
    write_profile(tmp_path, profile)
    assert read_profile(tmp_path / "profile.json") == profile


def test_profile_json_is_as_it_always_was(tmp_path: Path) -> None:
    builder = ProfileBuilder()
    builder.add("test", 2.0, -20.0, 0.0, None)
    write_profile(tmp_path, builder.profile())
    path = tmp_path / "profile.json"
    measured = {"count": 1, "sd": 0.0}
    assert json.loads(path.read_text()) == {
        "version": 1,
        "splits": {
            "test": {
                "measures": {
                    "duration_seconds": {
                        **measured,
                        **{"mean": 2.0, "min": 2.0, "max": 2.0, "histogram": [[14, 1]]},
                    },
                    "level_dbfs": {
                        **measured,
                        **{"mean": -20.0, "min": -20.0, "max": -20.0, "histogram": [[-40, 1]]},
                    },
                    "clipped_fraction": {
                        **measured,
                        **{"mean": 0.0, "min": 0.0, "max": 0.0, "histogram": [[0, 1]]},
                    },
                    "characters_per_second": {"count": 0, "histogram": []},
                },
                "characters": {},
            }
        },
        "num_utterances_with_unknown_characters": 0,
        "unknown_characters": {},
    }
    assert read_profile(path) == builder.profile()


def test_a_profile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(ManifestError, match="profile.json: cannot be read .*; run make prepare ag"):
        read_profile(path)
    for content, version in (("{}", "None"), ('{"version": 2}', "2")):
        path.write_text(content)
        with pytest.raises(ManifestError, match=f"version {version}, expected 1; run make prepare"):
            read_profile(path)
    for content, found in (("[]", "object"), ('{"version": 1}', "splits: Field required")):
        path.write_text(content)
        with pytest.raises(ManifestError, match=f"cannot be read .*{found}.*; run make prepare"):
            read_profile(path)


def test_groups_are_the_deciles_of_the_reference_and_what_lies_beyond() -> None:
    even = [(index, 5) for index in range(20)]
    assert group_ends(even) == [-1, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert grouped(even, group_ends(even)) == [0, *[10] * 10, 0]
    assert grouped([(-7, 3), (0, 1), (25, 2)], group_ends(even)) == [3, 1, *[0] * 9, 2]
    one = [(4, 9)]
    assert group_ends(one) == [3, 4]
    assert grouped([(3, 1), (4, 2), (5, 3)], group_ends(one)) == [1, 2, 3]


def test_the_stability_index_is_that_of_its_formula() -> None:
    # p = (3.5, 7.5) / 11 and q = (7.5, 3.5) / 11: twice 4/11 · ln(7.5/3.5).
    psi, num_groups = stability_index([3, 7, 0], [7, 3, 0])
    assert psi == pytest.approx(2 * 4 / 11 * math.log(7.5 / 3.5))
    assert num_groups == 2
    assert stability_index([5, 5], [50, 50])[0] == pytest.approx(0.0, abs=1e-12)


def test_chi_square_is_as_in_the_tables() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4, probability 0.999.
    table = {1: 10.828, 2: 13.816, 3: 16.266, 5: 20.515, 10: 29.588, 12: 32.909}
    for degrees, value in table.items():
        assert chi_square(degrees) == pytest.approx(value, abs=5e-4)
    assert chi_square(0) == 0.0


def profile_of(seed: int, count: int = 400, text: str = "abc abc", **changes: float) -> Profile:
    """Return a profile of random utterances; changes are added to one measure."""
    random = np.random.default_rng(seed)
    builder = ProfileBuilder()
    for _ in range(count):
        builder.add(
            "train",
            float(random.lognormal(1, 0.4)) * math.exp(changes.get("log_duration", 0.0)),
            float(random.normal(-25, 4)) + changes.get("level_db", 0.0),
            changes.get("clipped", 0.0),
            text,
        )
    return builder.profile()


def test_equal_data_do_not_move_and_other_draws_of_them_rarely() -> None:
    for count in (8, 50, 400):
        first = profile_of(0, count)
        assert all(shift.psi == 0 for shift in compare(first, first).shifts)
        for seed in range(1, 40):
            assert compare(profile_of(seed, count), first).warnings == []


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"level_db": -6.0}, "level_dbfs"),
        ({"log_duration": 0.5}, "duration_seconds"),
        ({"clipped": 0.01}, "clipped_fraction"),
    ],
)
def test_a_measure_that_moved_is_named_with_both_means(
    changes: dict[str, float], measure: str
) -> None:
    reference = profile_of(0)
    moved = [s for s in compare(profile_of(1, **changes), reference).shifts if s.moved]
    assert measure in [shift.measure for shift in moved]
    assert {shift.measure for shift in moved} <= {measure, "characters_per_second"}
    line = next(str(shift) for shift in moved if shift.measure == measure)
    assert line.startswith(f"train: {measure} ")
    assert "on average, it was" in line


def test_a_small_move_is_no_warning() -> None:
    found = compare(profile_of(1, level_db=-0.5), profile_of(0))
    (level,) = [shift for shift in found.shifts if shift.measure == "level_dbfs"]
    assert 0 < level.psi < 0.25
    assert not found.warnings


def test_characters_that_are_new_are_counted() -> None:
    reference = profile_of(0, 50)
    found = compare(profile_of(0, 50, text="abd abç"), reference)
    assert found.new_characters == {"d": 50, "ç": 50}
    assert "characters that it did not hold: 'd' × 50, 'ç' × 50" in found.warnings
    builder = ProfileBuilder()
    builder.refuse({"é"})
    refused = replace(reference, unknown_characters=builder.profile().unknown_characters)
    assert compare(refused, reference).warnings == [
        "utterances dropped for unknown characters: 'é' × 1"
    ]
    assert compare(refused, refused).warnings == []


def test_splits_of_one_side_are_left_out() -> None:
    builder = ProfileBuilder()
    builder.add("test", 1.0, -20.0, 0.0, None)
    assert compare(builder.profile(), profile_of(0)).shifts == []
    assert len(compare(profile_of(0), profile_of(0)).shifts) == len(MEASURES)
