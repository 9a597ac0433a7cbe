"""Which prepared utterance a recogniser's text is of: by audio key, id, or path.

A path may be longer or shorter than the corpus has it, for recognisers run in other folders:
`/data/corpus/wav/a.wav`, `wav/a.wav` and `a` all name `wav/a.flac` where nothing else is called so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

from distillery.data.audio import AUDIO_SUFFIXES
from distillery.data.manifest import DROPPED_FILE, PreparedData
from distillery.errors import ModelError
from distillery.teachers.written_files import Written

NUM_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """What was found of everything that a recogniser wrote."""

    written: dict[str, Written]
    """By audio key."""
    strangers: Sequence[str]
    """Names that match no utterance."""
    dropped: Sequence[str]
    """Names of utterances that `prepare` left out."""
    ambiguous: Sequence[str]
    """Names that match several utterances."""


class Names:
    """What utterances may be called."""

    def __init__(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Index utterances.

        Args:
            rows: of each what tells it from others, its id, and its path relative to the corpus.
        """
        self._exact: dict[str, set[str]] = defaultdict(set)
        self._whole: dict[str, set[str]] = defaultdict(set)
        self._ends: dict[str, set[str]] = defaultdict(set)
        for key, utterance_id, path in rows:
            self._exact[key].add(key)
            self._exact[utterance_id].add(key)
            for name in {path, _bare(path)}:
                self._whole[name].add(key)
                parts = name.split("/")
                for start in range(len(parts)):
                    self._ends["/".join(parts[start:])].add(key)

    def find(self, name: str) -> set[str]:
        """Return what a name may stand for; empty where nothing is called so."""
        if name in self._exact:
            return self._exact[name]
        tidy = PurePosixPath(name.replace("\\", "/")).as_posix()
        forms = list(dict.fromkeys((tidy, _bare(tidy))))
        for form in forms:
            for known in (self._exact, self._whole, self._ends):
                if form in known:
                    return known[form]
        for form in forms:  # longer than the corpus has it
            parts = form.split("/")
            for start in range(1, len(parts)):
                if (end := "/".join(parts[start:])) in self._whole:
                    return self._whole[end]
        return set()


def _bare(path: str) -> str:
    """Return a path without the suffix of a recording."""
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix) if suffix.lower() in AUDIO_SUFFIXES else path


def match_written(written: Sequence[Written], data: PreparedData) -> Matched:
    """Return what belongs to which prepared utterance.

    Equal audio under several ids has one key, so one text: that of the first in the manifest.

    Args:
        written: everything that the recogniser wrote.
        data: the prepared utterances, and which were left out.

    Raises:
        ModelError: two entries say different things of one utterance.
    """
    frame = data.frame
    order = {name: place for place, name in enumerate(frame["utterance_id"])}
    key_of = dict(zip(frame["utterance_id"], frame["audio_key"], strict=True))
    named = Names(
        zip(frame["utterance_id"], frame["utterance_id"], frame["source_path"], strict=True)
    )
    by_key: dict[str, list[str]] = defaultdict(list)
    for utterance_id, key in key_of.items():
        by_key[key].append(utterance_id)
    left_out = _dropped_names(data)
    found: dict[str, Written] = {}
    strangers: list[str] = []
    dropped: list[str] = []
    ambiguous: list[str] = []
    for item in written:
        ids = by_key.get(item.name) or sorted(named.find(item.name))
        if len({key_of[one] for one in ids}) > 1:
            ambiguous.append(item.name)
        elif not ids:
            (dropped if left_out.find(item.name) else strangers).append(item.name)
        else:
            first = min(ids, key=lambda one: order[one])
            former = found.setdefault(first, item)
            if former.answer != item.answer:
                raise ModelError(
                    f"{item.where}: utterance {first!r} is already in {former.where}, with another "
                    "text; expected one entry for each recording, remove one of them"
                )
    chosen: dict[str, Written] = {}
    for utterance_id in sorted(found, key=lambda one: order[one]):
        chosen.setdefault(key_of[utterance_id], found[utterance_id])
    return Matched(chosen, strangers, dropped, ambiguous)


def _dropped_names(data: PreparedData) -> Names:
    path = data.folder / DROPPED_FILE
    if not path.exists():
        return Names(())
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return Names(zip(rows["utterance_id"], rows["utterance_id"], rows["source_path"], strict=True))


def some(names: Sequence[str]) -> str:
    """Return the first few names for a message."""
    shown = ", ".join(map(repr, names[:NUM_SHOWN]))
    return f"{shown}, …" if len(names) > NUM_SHOWN else shown
