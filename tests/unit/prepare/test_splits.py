"""Splits by hash: close to the shares asked for, and unmoved by what is added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from distillery.corpora.base import Recording
from distillery.data.manifest import SPLITS
from distillery.prepare.splits import assign_splits, hash_fraction


def recording(name: str, speaker: str | None = None, split: str | None = None) -> Recording:
    return Recording(name, f"{name}.wav", speaker, "x", split, Path(f"{name}.wav"))


def speakers(first: int, last: int, split: str | None = None) -> list[Recording]:
    return [
        recording(f"s{speaker}-{index}", f"s{speaker}", split)
        for speaker in range(first, last)
        for index in range(3)
    ]


def test_a_hash_fraction_depends_on_salt_and_name_alone() -> None:
    digest = hashlib.sha256(b"valid\0anna").hexdigest()
    assert hash_fraction("valid", "anna") == int(digest[:12], 16) / 16**12
    assert hash_fraction("test", "anna") != hash_fraction("valid", "anna")


def test_a_share_of_the_speakers_is_chosen_close_to_what_was_asked() -> None:
    splits, rules = assign_splits(speakers(0, 2000), 0.1, 0.2)
    shares = pd.Series(splits).value_counts(normalize=True)
    assert rules == {"test": "by speaker", "valid": "by speaker"}
    # standard error of a share over 2,000 speakers: sqrt(0.2 * 0.8 / 2000) = 0.009
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert shares["valid"] == pytest.approx(0.8 * 0.1, abs=0.03)


def test_no_speaker_is_in_two_chosen_splits() -> None:
    splits, _ = assign_splits(speakers(0, 100), 0.3, 0.3)
    of_speaker = pd.Series(splits).groupby(lambda name: name.split("-")[0]).nunique()
    assert set(of_speaker) == {1}


def test_added_speakers_and_utterances_move_nothing() -> None:
    before, _ = assign_splits(speakers(0, 40), 0.2, 0.2)
    added = [recording(f"s{speaker}-later", f"s{speaker}") for speaker in range(40)]
    after, _ = assign_splits(speakers(0, 70) + added, 0.2, 0.2)
    assert {name: after[name] for name in before} == before
    assert set(before.values()) == set(SPLITS)
    assert all(after[f"s{speaker}-later"] == after[f"s{speaker}-0"] for speaker in range(40))


def speakers_of(splits: Mapping[str, str], split: str) -> set[str]:
    return {name.rpartition("-")[0] for name, found in splits.items() if found == split}


@pytest.mark.parametrize("number", range(3, 31))
def test_every_split_gets_a_speaker_of_its_own(number: int) -> None:
    for first in range(0, 3000, 100):
        splits, rules = assign_splits(speakers(first, first + number), 0.1, 0.1)
        assert rules == {"test": "by speaker", "valid": "by speaker"}
        found = [speakers_of(splits, split) for split in SPLITS]
        assert all(found)
        assert sum(map(len, found)) == number


@pytest.mark.parametrize("number", [5, 8, 9, 10, 15])
def test_more_speakers_move_nobody_out_of_training_even_if_nothing_was_kept(number: int) -> None:
    for first in range(0, 3000, 100):
        before, _ = assign_splits(speakers(first, first + number), 0.1, 0.1)
        for more in (1, 2, 5, 20):
            after, _ = assign_splits(speakers(first, first + number + more), 0.1, 0.1)
            assert speakers_of(before, "train") <= speakers_of(after, "train")


def test_of_two_speakers_one_is_tested_on_and_the_other_is_split_by_utterance() -> None:
    many = [recording(f"a-{index}", "a") for index in range(60)]
    few = [recording(f"b-{index}", "b") for index in range(6)]
    splits, rules = assign_splits(many + few, 0.1, 0.1)
    assert rules == {"test": "by speaker", "valid": "by utterance"}
    assert speakers_of(splits, "test") == {"b"}  # a would be most of the corpus
    assert speakers_of(splits, "valid") == speakers_of(splits, "train") == {"a"}
    official = [
        *few,
        *(replace(item, split="train") for item in many),
        recording("t-0", "t", "test"),
    ]
    splits, rules = assign_splits(official, 0.1, 0.1)
    assert rules == {"test": "official", "valid": "by speaker"}
    assert speakers_of(splits, "valid") == {"b"}


@pytest.mark.parametrize("number", [3, 4, 10, 100])
def test_one_speaker_alone_is_split_by_utterance(number: int) -> None:
    for name in ("anna", "bert", "carl"):
        alone = [recording(f"{name}-{index}", name) for index in range(number)]
        splits, rules = assign_splits(alone, 0.1, 0.1)
        assert rules == {"test": "by utterance", "valid": "by utterance"}
        assert set(splits.values()) == set(SPLITS)


def test_speakers_who_are_tested_on_anyway_are_split_by_utterance() -> None:
    both = speakers(0, 6, "train") + [recording(f"t{n}", f"s{n}", "test") for n in range(6)]
    splits, rules = assign_splits(both, 0.1, 0.1)
    assert rules == {"test": "official", "valid": "by utterance"}
    assert set(splits.values()) == set(SPLITS)


@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_splits_are_drawn_with_transcripts_in_mind(number: int) -> None:
    for salt in range(40):
        transcribed = [
            recording(f"t{salt}.{speaker}-{index}", f"t{salt}.{speaker}")
            for speaker in range(number)
            for index in range(12 if number == 1 else 4)
        ]
        bare = [replace(item, text=None) for item in speakers(0, 30)]
        bare += [replace(recording(f"u{salt}-{index}"), text=" ") for index in range(10)]
        splits, _ = assign_splits(transcribed + bare, 0.1, 0.1)
        assert {splits[item.utterance_id] for item in transcribed} == set(SPLITS)


def test_what_was_fine_before_is_drawn_as_before() -> None:
    """The rule of old, as it was, for corpora that it served well."""

    def of_old(recordings: list[Recording]) -> dict[str, str]:
        splits = {}
        for item in recordings:
            by_test = hash_fraction("test", str(item.speaker)) < 0.1
            by_valid = hash_fraction("valid", str(item.speaker)) < 0.1
            splits[item.utterance_id] = "test" if by_test else "valid" if by_valid else "train"
        return splits

    num_fine = 0
    for first in range(0, 2000, 50):
        corpus = speakers(first, first + 40)
        old = of_old(corpus)
        if set(old.values()) == set(SPLITS):
            num_fine += 1
            assert assign_splits(corpus, 0.1, 0.1)[0] == old
    assert num_fine > 30


def test_utterances_without_a_speaker_are_split_one_by_one() -> None:
    nameless = [recording(f"u{index}") for index in range(200)]
    splits, _ = assign_splits(speakers(0, 20) + nameless, 0.3, 0.3)
    assert {splits[item.utterance_id] for item in nameless} == set(SPLITS)


def test_official_splits_stay_as_published() -> None:
    official = [
        *speakers(0, 20, "train"),
        *speakers(20, 25, "valid"),
        *speakers(25, 30, "test"),
    ]
    splits, rules = assign_splits(official, 0.5, 0.5)
    assert splits == {item.utterance_id: item.split for item in official}
    assert rules == {"test": "official", "valid": "official"}


def test_an_official_test_split_neither_grows_nor_shrinks() -> None:
    official = speakers(0, 30, "train") + speakers(30, 40, "test")
    splits, _ = assign_splits(official, 0.5, 0.5)
    in_test = {name for name, split in splits.items() if split == "test"}
    assert in_test == {item.utterance_id for item in official if item.split == "test"}
    assert "valid" in splits.values()


def test_where_only_test_speakers_are_there_their_other_utterances_train() -> None:
    tested = [recording(f"t{place}", "anna", "test") for place in range(5)]
    rest = [recording(f"r{place}", "anna") for place in range(40)]
    splits, rules = assign_splits([*tested, *rest], 0.2, 0.1)
    assert {key for key, split in splits.items() if split == "test"} == {
        r.utterance_id for r in tested
    }
    assert set(splits.values()) == {"train", "valid", "test"}
    assert rules == {"test": "official", "valid": "by utterance"}


def test_an_undecided_utterance_follows_its_speaker() -> None:
    mixed = [
        *speakers(0, 5, "train"),
        *speakers(5, 8, "valid"),
        *speakers(8, 11, "test"),
        *(recording(f"new-{number}", f"s{number}") for number in (0, 5, 8)),
    ]
    splits, _ = assign_splits(mixed, 0.5, 0.5)
    assert [splits[f"new-{number}"] for number in (0, 5, 8)] == [
        "train",
        "valid",
        "test",
    ]
