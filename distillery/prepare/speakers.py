"""Speakers under one name each: spellings that differ by blanks or case may part them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from distillery.corpora.base import Recording, fold_speaker

NUM_SHOWN = 3


def unify_speakers(
    recordings: Sequence[Recording],
) -> tuple[list[Recording], Mapping[str, Sequence[str]]]:
    """Return the recordings with one spelling for each speaker, and the spellings of who changed.

    The spelling that most utterances have stays, blanks at its ends stripped; a speaker of blanks
    alone is unknown.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        if recording.speaker is not None:
            spellings[fold_speaker(recording.speaker)][recording.speaker] += 1
    names = {
        folded: " ".join(min(found, key=lambda name: (-found[name], name)).split())
        for folded, found in spellings.items()
    }
    changed = {
        folded: sorted(found)
        for folded, found in spellings.items()
        if set(found) != {names[folded]}
    }
    if not changed:
        return list(recordings), {}
    unified = [
        recording
        if recording.speaker is None
        else replace(recording, speaker=names[fold_speaker(recording.speaker)] or None)
        for recording in recordings
    ]
    return unified, {names[folded]: found for folded, found in sorted(changed.items())}


def say_unified(changed: Mapping[str, Sequence[str]]) -> str:
    """Return in a sentence whose spellings became one.

    Args:
        changed: as `unify_speakers` returns it, not empty.
    """
    shown = "; ".join(
        f"{', '.join(map(repr, found))} as {name or None!r}"
        for name, found in list(changed.items())[:NUM_SHOWN]
    )
    more = f" and {len(changed) - NUM_SHOWN} more" if len(changed) > NUM_SHOWN else ""
    return (
        f"speakers that differ by blanks or case alone are one: {shown}{more}; give them names "
        "that differ otherwise if they are not"
    )
