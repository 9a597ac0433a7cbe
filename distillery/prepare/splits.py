"""Which utterances train, validate and test.

A split that the corpus does not publish is drawn. The SHA-256 of a speaker's name, read as a
fraction, is compared with the share asked for, so added data moves nobody. Where that leaves a
split without a speaker, or without a transcript although there are some, the transcribed speaker of
the lowest fraction is drawn, too. Utterances are drawn one by one where speakers are unknown, where
one speaker is left alone, or where all of them stand in another split already.

What was decided before is given (`Kept`) and stays: docs/decisions/0021-splits-that-stay.md.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from distillery.corpora.base import Recording, fold_speaker

MANY_SPEAKERS = 10
"""From here on no speaker is taken to be most of the corpus."""
OFFICIAL, BY_SPEAKER, BY_UTTERANCE = "official", "by speaker", "by utterance"
IsTranscribed = Callable[[Recording], bool]


@dataclass(frozen=True)
class Kept:
    """What was decided when the data were prepared before; empty the first time."""

    utterances: Mapping[str, str] = field(default_factory=dict)
    """Utterance id → split."""
    speakers: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """Speaker, as `fold_speaker` returns the name → the splits of their utterances."""
    audio: Mapping[str, str] = field(default_factory=dict)
    """The beginning of an audio key → split."""
    additions: Mapping[str, int] = field(default_factory=dict)
    """Utterance id → with which addition to the corpus it came; 0 is what there was at first."""

    @cached_property
    def next_addition(self) -> int:
        """With which addition what is new comes."""
        return max(self.additions.values(), default=-1) + 1

    def addition_of(self, utterance_id: str) -> int:
        """Return with which addition an utterance came, or comes now."""
        return self.additions.get(utterance_id, self.next_addition)

    def places_of(self, recording: Recording) -> AbstractSet[str]:
        """Return the splits that a recording's speaker was in; none where there is no such."""
        if recording.speaker is None:
            return frozenset()
        return self.speakers.get(fold_speaker(recording.speaker), frozenset())


NOTHING_KEPT = Kept()


def assign_splits(
    recordings: Sequence[Recording],
    valid_fraction: float,
    test_fraction: float,
    kept: Kept = NOTHING_KEPT,
    is_transcribed: IsTranscribed | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the split of every utterance, and how validation and test were chosen.

    Official test and validation splits stay, and so does what was kept; only of the rest is drawn.
    An utterance without an official split follows its speaker.

    Args:
        recordings: the whole corpus.
        valid_fraction: share of the training speakers, or utterances, that validate.
        test_fraction: the same for test, used where there is no official test split.
        kept: former decisions.
        is_transcribed: whether models can be measured on it; by default, whether its text holds a
            letter or digit.

    Returns:
        utterance id → split, and split → rule (`official`, `by speaker` or `by utterance`).
    """
    draw = _Draw(recordings, kept, is_transcribed or holds_words)
    fractions = {"test": test_fraction, "valid": valid_fraction}
    drawn = [name for name in fractions if name not in draw.official]
    rules = {}
    for name, fraction in fractions.items():
        if name in drawn:
            later = [other for other in drawn[drawn.index(name) + 1 :] if fractions[other] > 0]
            rules[name] = draw.fill(name, fraction, [*later, "train"])
        else:
            rules[name] = OFFICIAL
    return {key: split or "train" for key, split in draw.splits.items()}, rules


def hash_fraction(salt: str, name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def holds_words(recording: Recording) -> bool:
    """Return whether a recording's text holds a letter or digit."""
    return any(character.isalnum() for character in recording.text or "")


class _Draw:
    """One corpus's splits while they are decided."""

    def __init__(
        self, recordings: Sequence[Recording], kept: Kept, is_transcribed: IsTranscribed
    ) -> None:
        self.official = {r.split for r in recordings} & {"valid", "test"}
        self._recordings = recordings
        self._kept = kept
        self._transcribed = {r.utterance_id for r in recordings if is_transcribed(r)}
        self._of_speaker = _official_places(recordings)
        self.splits: dict[str, str | None] = {}
        self._pinned: set[str] = set()
        """What no draw may touch."""
        for recording in recordings:
            split, is_final = self._known(recording)
            self.splits[recording.utterance_id] = split
            if is_final:
                self._pinned.add(recording.utterance_id)

    def _known(self, recording: Recording) -> tuple[str | None, bool]:
        """Return where a recording belongs as far as that is known, and whether it is final.

        The corpus comes first, but validation may have been drawn from what it calls training; then
        come former decisions, then the speaker's place.
        """
        split = recording.split
        if split in ("valid", "test"):
            return split, True
        former = self._kept.utterances.get(recording.utterance_id)
        if former is None and split is None:
            split = self._of_speaker.get(recording.speaker or "")
            if split in ("valid", "test"):
                return split, True
        if former is None:
            places = self._kept.places_of(recording)
            former = next(iter(places)) if len(places) == 1 else None
        if former is None:
            return split, False
        return ("train" if split == "train" and former in self.official else former), True

    def fill(self, name: str, fraction: float, later: Sequence[str]) -> str:
        """Draw one split from what is not decided; return the rule.

        Args:
            name: of the split.
            fraction: share of the rest.
            later: the splits that must find something in what is left.
        """
        rest = [r for r in self._recordings if self.splits[r.utterance_id] in (None, "train")]
        speakers = {r.speaker for r in rest if r.speaker}
        elsewhere = {
            r.speaker
            for r in self._recordings
            if self.splits[r.utterance_id] not in (None, "train")
        }
        grows = bool(self._kept.utterances)
        num_fresh = len(speakers - elsewhere)
        enough = 2 if grows and num_fresh else MANY_SPEAKERS
        by_speaker = num_fresh > 1 or len(speakers) >= enough
        free = [r for r in rest if r.utterance_id not in self._pinned and self._may(r, name)]
        missing = [other for other in (name, *later) if fraction and not self._has_words(other)]
        groups = self._grouped(free, by_speaker)
        if by_speaker and name in missing and sum(1 for g in groups if g.transcribed) < 2:
            by_speaker = False
            groups = self._grouped(free, by_speaker)
        few = by_speaker and len(speakers) < MANY_SPEAKERS
        for group in _chosen(groups, name, fraction, missing, few=few):
            self.splits.update(dict.fromkeys(group.ids, name))
        return BY_SPEAKER if by_speaker else BY_UTTERANCE

    def _may(self, recording: Recording, name: str) -> bool:
        """Return whether a speaker who stands in several splits has some of this one."""
        places = self._kept.places_of(recording)
        return not places or name in places

    def _has_words(self, name: str) -> bool:
        """Return whether a split holds a transcribed utterance for good."""
        return any(
            self.splits[key] == name and key in self._transcribed
            for key in self._pinned | (set() if name == "train" else set(self.splits))
        )

    def _grouped(self, recordings: Iterable[Recording], by_speaker: bool) -> list[_Group]:
        ids: dict[str, list[str]] = defaultdict(list)
        for recording in recordings:
            whole = by_speaker and not self._kept.places_of(recording)
            group = (recording.speaker if whole else None) or recording.utterance_id
            ids[group].append(recording.utterance_id)
        return [
            _Group(group, members, len(self._transcribed.intersection(members)))
            for group, members in ids.items()
        ]


def _official_places(recordings: Sequence[Recording]) -> dict[str, str]:
    """Return the split that a speaker's other utterances follow; none where nobody would train."""
    found = {r.speaker: r.split for r in recordings if r.speaker and r.split}
    places = {r.split or found.get(r.speaker or "", "train") for r in recordings}
    return found if "train" in places else {}


@dataclass(frozen=True)
class _Group:
    """A speaker, or an utterance without one: drawn as a whole."""

    name: str
    ids: Sequence[str]
    transcribed: int
    """How many of them."""


def _chosen(
    groups: Sequence[_Group], name: str, fraction: float, missing: Sequence[str], *, few: bool
) -> list[_Group]:
    """Return the groups that a split gets: whose hash says so, and one more if need be.

    Args:
        groups: what may be drawn.
        name: of the split.
        fraction: share of the groups.
        missing: this split and later ones, as far as each still lacks a transcribed utterance.
        few: whether one of them may be most of the corpus; such a one is trained on.
    """
    order = {group.name: hash_fraction(name, group.name) for group in groups}
    worded = sorted((g for g in groups if g.transcribed), key=lambda g: (order[g.name], g.name))
    half = sum(group.transcribed for group in worded) / 2
    large = {group.name for group in worded if few and group.transcribed > half}
    chosen = {group.name for group in groups if order[group.name] < fraction} - large
    num_left = min(len([other for other in missing if other != name]), max(0, len(worded) - 1))
    drawn = [group for group in worded if group.name in chosen]
    chosen -= {group.name for group in drawn[len(worded) - num_left :]}
    if name in missing and worded and not any(group.name in chosen for group in worded):
        chosen.add(min(worded, key=lambda g: (g.name in large, order[g.name], g.name)).name)
    return [group for group in groups if group.name in chosen]
