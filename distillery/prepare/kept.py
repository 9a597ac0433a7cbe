"""Decisions about splits, kept beside prepared data: data/splits.csv.

Added data must not move an utterance from training to where models are judged, and a champion
trained on it must not be tested on it. So what was decided is written down and comes first the next
time. The first line says what was drawn from, and with which shares; then there is a row for each
utterance that ever was prepared, with the beginning of its audio key, by which a recording is known
under any name, and with which addition to the corpus it came, by which its audio stays where it is.
"""

from __future__ import annotations

import csv
import heapq
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from distillery.corpora.base import fold_speaker
from distillery.data.manifest import SPLITS, PreparedData
from distillery.errors import ManifestError
from distillery.files import whole_text
from distillery.params.prepare import PrepareParams
from distillery.prepare.splits import NOTHING_KEPT, Kept

HEADER = ("utterance_id", "speaker", "split", "audio", "addition")
KEY_LENGTH = 16
"""Hexadecimal digits of an audio key that are kept: 64 bits."""
MARK = "# "


@dataclass(frozen=True)
class Terms:
    """What splits were drawn from."""

    corpus: str
    source: str
    """As the settings have it; empty where it is not known."""
    valid_fraction: float | None
    """None: not known."""
    test_fraction: float | None

    @classmethod
    def of(cls, params: PrepareParams) -> Terms:
        """Return what the settings say."""
        return cls(params.corpus, params.source, params.valid_fraction, params.test_fraction)


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one utterance went."""

    utterance_id: str
    speaker: str
    """Empty where unknown."""
    split: str
    audio: str
    """The beginning of its audio key."""
    addition: int = 0
    """With which addition to the corpus it came; 0: at first, or before this was written down."""


@dataclass(frozen=True)
class Decisions:
    """All that was decided so far."""

    terms: Terms
    by_id: Mapping[str, Decision]

    def recall(self, params: PrepareParams, ids: Iterable[str]) -> Recall:
        """Return what still holds.

        Other shares are a wish for other splits. Of another corpus, one without any utterance in
        common, names say nothing; equal audio still does.
        """
        now, then = Terms.of(params), self.terms
        if None not in (then.valid_fraction, then.test_fraction) and (
            (now.valid_fraction, now.test_fraction) != (then.valid_fraction, then.test_fraction)
        ):
            return Recall(
                note="splits are drawn anew: prepare.valid_fraction and prepare.test_fraction are "
                f"{now.valid_fraction:g} and {now.test_fraction:g}, they were "
                f"{then.valid_fraction:g} and {then.test_fraction:g}"
            )
        audio = {item.audio: item.split for item in self.by_id.values()}
        if now.corpus != then.corpus or (
            now.source != then.source and not any(key in self.by_id for key in ids)
        ):
            return Recall(Kept(audio=audio))
        speakers: dict[str, set[str]] = defaultdict(set)
        for item in self.by_id.values():
            if item.speaker:
                speakers[fold_speaker(item.speaker)].add(item.split)
        utterances = {key: item.split for key, item in self.by_id.items()}
        additions = {key: item.addition for key, item in self.by_id.items()}
        return Recall(Kept(utterances, speakers, audio, additions), self)


@dataclass(frozen=True)
class Recall:
    """What former decisions mean for what is prepared now."""

    kept: Kept = NOTHING_KEPT
    decisions: Decisions | None = None
    """Those that go on; None where the file begins anew."""
    note: str | None = None
    """What a person should know."""


class Prepared(Protocol):
    """A row of prepared data, as far as it is kept."""

    @property
    def utterance_id(self) -> str:
        """Its id."""

    @property
    def speaker(self) -> str | None:
        """None where unknown."""

    @property
    def split(self) -> str:
        """Where it went."""

    @property
    def audio_key(self) -> str:
        """SHA-256 of its samples."""


@dataclass(frozen=True)
class Shown:
    """A row of a manifest."""

    utterance_id: str
    speaker: str | None
    split: str
    audio_key: str


def read_decisions(path: Path) -> Decisions | None:
    """Return what was decided; None where nothing was.

    Raises:
        ManifestError: the file is no such file.
    """
    if not path.exists():
        return None
    try:
        first, _, rest = path.read_text("utf-8").partition("\n")
        terms = TypeAdapter(Terms).validate_json(first.removeprefix(MARK))
        rows = [_decision(row) for row in csv.DictReader(io.StringIO(rest, newline=""))]
        if unknown := {row.split for row in rows} - set(SPLITS):
            raise ValueError(f"splits {sorted(unknown)}, expected {list(SPLITS)}")
    except (ValueError, TypeError, csv.Error) as error:
        reason = "its first line is no such line" if isinstance(error, ValidationError) else error
        raise ManifestError(
            f"{path}: cannot be read ({reason}); restore it with dvc checkout, or delete it, "
            "and the splits are drawn anew"
        ) from None
    return Decisions(terms, {row.utterance_id: row for row in rows})


def _decision(row: dict[str, str]) -> Decision:
    """Return what a row says; files of before say nothing of additions."""
    addition = int(row.pop("addition", 0))
    return Decision(**row, addition=addition)


def write_decisions(path: Path, terms: Terms, recall: Recall, rows: Sequence[Prepared]) -> None:
    """Write what was decided, what is not in the corpus any more included.

    Args:
        path: data/splits.csv.
        terms: what was drawn from.
        recall: what the file said, as far as it was taken into account.
        rows: what is prepared now.
    """
    former = {} if recall.decisions is None else recall.decisions.by_id
    names = [row.utterance_id for row in rows]
    order = sorted(range(len(names)), key=names.__getitem__)
    known = frozenset(names) if former else frozenset()
    gone = sorted(name for name in former if name not in known)

    def now() -> Iterator[Decision]:
        for place in order:
            row = rows[place]
            addition = recall.kept.addition_of(row.utterance_id)
            audio = row.audio_key[:KEY_LENGTH]
            yield Decision(row.utterance_id, row.speaker or "", row.split, audio, addition)

    decided = heapq.merge(now(), map(former.__getitem__, gone), key=attrgetter("utterance_id"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_text(path) as file:
        file.write(f"{MARK}{TypeAdapter(Terms).dump_json(terms).decode()}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(map(astuple, decided))


def keep_splits_of(folder: Path, path: Path) -> None:
    """Write down the decisions that prepared data show, where there are prepared data.

    Args:
        folder: the prepared data.
        path: data/splits.csv.
    """
    try:
        data = PreparedData.open(folder)
    except ManifestError:
        return
    frame = data.frame
    speakers = (name if isinstance(name, str) else None for name in frame["speaker"])
    columns = (frame["utterance_id"], speakers, frame["split"], frame["audio_key"])
    rows = [Shown(*row) for row in zip(*columns, strict=True)]
    write_decisions(path, Terms(data.summary.corpus, "", None, None), Recall(), rows)
