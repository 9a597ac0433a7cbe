"""Which utterances train, validate and test.

A split that the corpus does not publish is chosen by hash: the SHA-256 of a speaker's name, read
as a fraction, is compared with the share asked for. Nothing else enters, so added data moves no
utterance, with one exception: below MIN_SPEAKERS speakers utterances are hashed instead of
speakers, and crossing that number changes the rule. summary.json records which one was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from distillery.corpora.base import Recording

MIN_SPEAKERS = 10


def assign_splits(
    recordings: Sequence[Recording], valid_fraction: float, test_fraction: float
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the split of every utterance, and how validation and test were chosen.

    Official test and validation splits stay. A missing one is taken by hash from what is left, by
    speaker where there are at least MIN_SPEAKERS of them, by utterance otherwise. An undecided
    utterance of a speaker with an official split follows its speaker.

    Returns:
        utterance id → split, and split → rule (`official`, `by speaker` or `by utterance`).
    """
    of_speaker = {r.speaker: r.split for r in recordings if r.speaker and r.split}
    splits = {r.utterance_id: r.split or of_speaker.get(r.speaker or "") for r in recordings}
    rules = {}
    for name, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if name in splits.values():
            rules[name] = "official"
            continue
        rest = [r for r in recordings if splits[r.utterance_id] in (None, "train")]
        by_speaker = len({r.speaker for r in rest if r.speaker}) >= MIN_SPEAKERS
        for recording in rest:
            group = (recording.speaker if by_speaker else None) or recording.utterance_id
            if hash_fraction(name, group) < fraction:
                splits[recording.utterance_id] = name
        rules[name] = "by speaker" if by_speaker else "by utterance"
    return {key: split or "train" for key, split in splits.items()}, rules


def hash_fraction(salt: str, name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
