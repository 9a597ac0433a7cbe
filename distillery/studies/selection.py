"""Which untranscribed recordings a person should transcribe next, from what models already know.

Greedy: each pick has the greatest sum of three values between 0 and 1.

    doubt    mean rank, among all candidates, of 1 - the teacher's confidence and of how far the
             texts of teacher and students differ (characters, mean over all pairs of models)
    novelty  sum over the letter trigrams of the teacher's text of sqrt(n + 1) - sqrt(n), n being
             how often transcripts and earlier picks hold the trigram; over the square root of
             their number, and over the greatest such value before the first pick
    spread   sqrt(n + 1) - sqrt(n), n being the speaker's recordings that are transcribed or picked

Doubt alone asks for outliers, and for the same thing again and again; the other two give less the
more there is of a thing, as submodular functions do. A plain sum would take the longest recordings,
and a mean the shortest; a transcript costs a person something by the recording and something by
the word, so the square root stands between the two.

Sources: Riccardi and Hakkani-Tür (2005), "Active Learning: Theory and Applications to Automatic
Speech Recognition" (confidence); Hamanaka et al. (2011), committee-based active learning
(disagreement); Lin and Bilmes (2009), "How to Select a Good Training-data Subset for
Transcription", and Wei et al. (2014), "Unsupervised Submodular Subset Selection for Speech Data"
(square roots over features).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein
from scipy.stats import rankdata

from distillery.data.lengths import in_batches_by_length
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
from distillery.models.base import Teacher
from distillery.teacher_cache.store import TeacherCache

COLUMNS = ("path", "speaker", "seconds", "proposal", "why", "text", "utterance_id")
BATCH_SECONDS = 60.0
GRAM = 3
BYTE_ORDER_MARK = "\ufeff"
"""Spreadsheets take a CSV without it for something else than UTF-8."""


@dataclass(frozen=True)
class Candidate:
    """A recording without a transcript, and what models make of it."""

    utterance_id: str
    path: str
    """Relative to the corpus."""
    speaker: str | None
    """None where unknown."""
    seconds: float
    text: str
    """The teacher's."""
    confidence: float
    """The teacher's, in [0, 1]."""
    disagreement: float | None
    """Share of the characters in which two models' texts differ; None without a student."""


@dataclass(frozen=True)
class Pick:
    """A recording that was chosen, and what for."""

    candidate: Candidate
    doubt: float
    novelty: float
    spread: float

    @property
    def why(self) -> str:
        """In a few words, for the person who transcribes."""
        found = self.candidate
        parts = [f"teacher's confidence {found.confidence:.2f}"]
        if found.disagreement is not None:
            parts.append(f"models differ in {found.disagreement:.0%} of the letters")
        parts.append(f"novelty of the text {self.novelty:.2f}, of the speaker {self.spread:.2f}")
        return "; ".join(parts)


def disagreement(texts: Sequence[str]) -> float:
    """Return the mean over all pairs of texts of their distance: 0 equal, 1 nothing in common."""
    pairs = list(itertools.combinations(texts, 2))
    return sum(Levenshtein.normalized_distance(*pair) for pair in pairs) / max(1, len(pairs))


def find_candidates(
    data: PreparedData, cache: TeacherCache, students: Mapping[str, Teacher]
) -> list[Candidate]:
    """Return the training recordings without a transcript; equal audio once.

    Args:
        data: prepared data; validation and test are not looked at.
        cache: what the teacher said.
        students: those whose texts are compared with the teacher's; they hear all candidates.

    Raises:
        CorpusError: all are transcribed.
        CacheMismatch: the cache lacks some.
    """
    train = data.split("train")
    known = set(train.loc[train["text"].notna(), "audio_key"])
    rows = train[train["text"].isna() & ~train["audio_key"].isin(known)]
    rows = rows.drop_duplicates("audio_key").reset_index(drop=True)
    if rows.empty:
        raise CorpusError(
            f"split 'train': all {len(train)} recordings have a transcript, expected some without; "
            "add recordings to the corpus and run make prepare"
        )
    cached = cache.rows(list(rows["audio_key"]))
    greedy = cache.greedy_texts(cached)
    best = [found[0].text if found else None for found in cache.hypotheses(cached)]
    said = [text if first is None else first for first, text in zip(best, greedy, strict=True)]
    heard = [_hear(data, rows, student) for student in students.values()]
    confidences = np.clip(np.nan_to_num(cache.confidences(cached)), 0, 1).tolist()
    columns = (rows[name].tolist() for name in ("utterance_id", "source_path", "duration_seconds"))
    speakers = [None if pd.isna(name) else str(name) for name in rows["speaker"].tolist()]
    return [
        Candidate(
            utterance_id=str(utterance_id),
            path=str(path),
            speaker=speakers[place],
            seconds=float(seconds),
            text=said[place],
            confidence=confidences[place],
            disagreement=disagreement([said[place], *(texts[place] for texts in heard)])
            if heard
            else None,
        )
        for place, (utterance_id, path, seconds) in enumerate(zip(*columns, strict=True))
    ]


def _hear(data: PreparedData, rows: pd.DataFrame, student: Teacher) -> list[str]:
    """Return a student's text of each row."""
    seconds = rows["duration_seconds"].to_numpy()
    order = np.argsort(seconds, kind="stable").tolist()
    texts = [""] * len(rows)
    for batch in in_batches_by_length(order, seconds, max_padded=BATCH_SECONDS):
        waveforms = [data.waveform(row) for row in rows.iloc[batch].itertuples()]
        for place, text in zip(batch, student.transcribe(waveforms), strict=True):
            texts[place] = text
    return texts


def choose(candidates: Sequence[Candidate], count: int, transcribed: pd.DataFrame) -> list[Pick]:
    """Return the recordings to transcribe, the most useful first; the same for equal input.

    Args:
        candidates: as `find_candidates` returns them.
        count: how many; fewer where there are fewer candidates.
        transcribed: rows of prepared data that have a transcript.
    """
    doubt = _doubt(candidates)
    texts = _Counts([_grams(item.text) for item in candidates], map(_grams, transcribed["text"]))
    known = ([str(name)] for name in transcribed["speaker"].dropna())
    # Who is unknown counts as somebody by himself: such recordings compete by the rest alone.
    people = [[item.speaker or f"\0{place}"] for place, item in enumerate(candidates)]
    speakers = _Counts(people, known)
    is_open = np.ones(len(candidates), bool)
    picks = []
    scale = max(texts.gains(), default=0.0) or 1.0
    for _ in range(min(count, len(candidates))):
        novelty, spread = texts.gains() / scale, speakers.gains()
        place = int(np.argmax(np.where(is_open, doubt + novelty + spread, -np.inf)))
        values = (float(value[place]) for value in (doubt, novelty, spread))
        picks.append(Pick(candidates[place], *values))
        is_open[place] = False
        texts.add(place)
        speakers.add(place)
    return picks


def _doubt(candidates: Sequence[Candidate]) -> np.ndarray:
    """Return the mean rank of what speaks for errors `(candidates,)`, in [0, 1]."""
    kinds = [[1 - item.confidence for item in candidates]]
    differences = [item.disagreement for item in candidates if item.disagreement is not None]
    if len(differences) == len(candidates):
        kinds.append(differences)
    ranks = [(rankdata(kind) - 1) / max(1, len(candidates) - 1) for kind in kinds]
    mean: np.ndarray = np.mean(ranks, axis=0)
    return mean


def _grams(text: str) -> list[str]:
    """Return the trigrams of a text and the blanks around it; none of an empty one."""
    padded = f" {text} "
    return [padded[i : i + GRAM] for i in range(len(padded) - GRAM + 1)] if text else []


class _Counts:
    """How often things stand in what is transcribed or picked, and what one more is worth."""

    def __init__(self, items: Sequence[Sequence[str]], known: Iterable[Sequence[str]]) -> None:
        """Count what is known.

        Args:
            items: the things in each candidate.
            known: the things in what is transcribed already.
        """
        names: dict[str, int] = {}
        self._ids = [[names.setdefault(name, len(names)) for name in item] for item in items]
        counts = Counter(name for item in known for name in item)
        self._counts = np.array([counts[name] for name in names], float)
        self._flat = np.array([i for item in self._ids for i in item], np.int64)
        lengths = np.array([len(item) for item in self._ids], np.int64)
        self._owner = np.repeat(np.arange(len(items)), lengths)
        self._roots = np.sqrt(np.maximum(lengths, 1))

    def gains(self) -> np.ndarray:
        """Return what each candidate's things are worth, over the root of their number."""
        worth = np.sqrt(self._counts + 1) - np.sqrt(self._counts)
        sums = np.bincount(self._owner, worth[self._flat], minlength=len(self._roots))
        gains: np.ndarray = sums / self._roots
        return gains

    def add(self, place: int) -> None:
        """Count a candidate's things as known."""
        np.add.at(self._counts, self._ids[place], 1)


def as_csv(picks: Sequence[Pick]) -> bytes:
    """Return a table for a person to fill in: column `text` is empty."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(COLUMNS)
    for pick in picks:
        item = pick.candidate
        cells = (item.path, item.speaker or "", f"{item.seconds:.2f}", item.text, pick.why, "")
        writer.writerow((*cells, item.utterance_id))
    return (BYTE_ORDER_MARK + content.getvalue()).encode()
