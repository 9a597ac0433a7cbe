"""Whether CTC can align texts with audio at all, asked before a training takes its first step.

CTC gives every token a frame, and one more to the blank between two equal tokens. Where audio has
fewer frames, there is no path: the loss is infinite, PyTorch makes it zero, and nobody learns
anything from the pair. So every training counts such texts with its own frames and its own tokens,
says how many there are, leaves them out of CTC, and stops where they are too many.

Imports no PyTorch.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, Self

import numpy as np
import pandas as pd

from distillery.data.kaldi_filters import kaldi_frames, kaldi_samples
from distillery.data.text import Vocabulary, min_ctc_frames
from distillery.errors import CorpusError
from distillery.params.distill import DistillParams
from distillery.params.models import KALDI_FBANK, FeatureParams
from distillery.params.teacher import TrainedTeacherParams
from distillery.params.training import TrainingParams

ADVISED_REDUCTIONS = (2, 4)
"""Time reductions that are named where there are too few frames."""
TEXTS_AT_ONCE = 2**14
"""Held as Python's strings at a time."""
MAX_SHOWN = 40
"""Characters of a text in a message."""
MILLISECONDS_PER_SECOND = 1000
TEACHERS_LIMIT = "teacher.training.max_unalignable_fraction"
STUDENTS_LIMIT = "distill.training.max_unalignable_fraction"
"""What the settings call the share of texts that may be left out."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """Texts of one kind that a training learns by CTC, each of some audio; all in one order."""

    what: str
    """Of which kind, such as `transcripts`."""
    names: pd.Series[str]
    """Ids of the utterances; a copy at another speed has its own."""
    texts: pd.Series[str]
    """Normalised."""
    needed: np.ndarray
    """Frames that CTC needs, `(texts,)`."""
    num_samples: np.ndarray
    """Samples of the audio, `(texts,)`."""

    @classmethod
    def of(
        cls,
        what: str,
        rows: pd.DataFrame,
        texts: Iterable[str],
        vocabulary: Vocabulary,
        sample_rate_hz: int,
    ) -> Self:
        """Return texts of some audio.

        Args:
            what: of which kind.
            rows: of the manifest, one for each text; copies at other speeds may be among them.
            texts: normalised; read once, piece by piece.
            vocabulary: tokens of the model that learns them.
            sample_rate_hz: of the audio.

        Raises:
            ModelError: a character has no token.
        """
        needed, kept, remaining = array("q"), [pd.Series(dtype="str")], iter(texts)
        while piece := list(islice(remaining, TEXTS_AT_ONCE)):
            needed.extend(min_ctc_frames(vocabulary.encode(text)) for text in piece)
            kept.append(pd.Series(piece, dtype="str"))
        num_samples = np.rint(rows["duration_seconds"].to_numpy() * sample_rate_hz)
        return cls(
            what,
            rows["utterance_id"].reset_index(drop=True),
            pd.concat(kept, ignore_index=True),
            np.array(needed, np.int64),
            num_samples.astype(np.int64),
        )

    @classmethod
    def transcripts(cls, rows: pd.DataFrame, vocabulary: Vocabulary, sample_rate_hz: int) -> Self:
        """Return the transcripts of those rows that have one; see `of`."""
        columns = ["utterance_id", "duration_seconds", "text"]
        rows = rows.loc[rows["text"].notna(), columns]
        return cls.of("transcripts", rows, rows["text"], vocabulary, sample_rate_hz)

    def __len__(self) -> int:
        return len(self.texts)


class FrameClock(Protocol):
    """How a network counts frames."""

    def num_frames(self, num_samples: np.ndarray) -> np.ndarray:
        """Return the frames of audio of so many samples, `(utterances,)` both."""

    def __str__(self) -> str:
        """Return how far frames are apart, in words."""

    def advice(self, texts: Sequence[Texts], max_fraction: float) -> str:
        """Return what would help too many texts that cannot be aligned."""


@dataclass(frozen=True)
class FeatureClock:
    """The frames of a network that hears filter-bank features and thins them out."""

    features: FeatureParams
    sample_rate_hz: int
    time_reduction: int
    """Feature frames per frame of the network."""
    section: str
    """Where the settings have the features, such as `distill.features`."""
    multiple_of: float | None = None
    """Frames must be a whole multiple of so many seconds apart; None: no matter."""

    @property
    def shift_seconds(self) -> float:
        """From one frame to the next."""
        return self.features.hop_seconds * self.time_reduction

    def num_frames(self, num_samples: np.ndarray) -> np.ndarray:
        """Return the frames of audio of so many samples, `(utterances,)` both."""
        # As `LogMel`, `KaldiFilterBank` and `Network` have them.
        if self.features.type == KALDI_FBANK:
            hop_samples = kaldi_samples(self.features.hop_seconds, self.sample_rate_hz)
            num_frames = kaldi_frames(num_samples, hop_samples)
        else:
            hop_samples = max(1, round(self.features.hop_seconds * self.sample_rate_hz))
            num_frames = num_samples // hop_samples + 1
        return -(-num_frames // self.time_reduction)

    def __str__(self) -> str:
        hop = f"hop_seconds {self.features.hop_seconds:g}"
        shift = MILLISECONDS_PER_SECOND * self.shift_seconds
        return f"one per {shift:g} ms ({hop} x time_reduction {self.time_reduction})"

    def advice(self, texts: Sequence[Texts], max_fraction: float) -> str:
        """Return which hops would do, for each time reduction: for all texts where there is one."""
        for limit, whom in ((0.0, "all of them"), (max_fraction, "enough of them")):
            found = [
                f"{self.section}.hop_seconds {hop:g} with time_reduction {reduction}"
                for reduction in ADVISED_REDUCTIONS
                if (hop := self._largest_hop(texts, reduction, limit)) is not None
            ]
            if found:
                return f"{' or '.join(found)} would do for {whom}"
        if self.multiple_of is not None:
            shift = MILLISECONDS_PER_SECOND * self.multiple_of
            return (
                f"no hop_seconds would do, for frames may not be less than the teacher's {shift:g} "
                "ms apart: give the teacher a smaller hop_seconds or time_reduction, too"
            )
        return "no hop_seconds would do: the texts do not belong to this audio"

    def _largest_hop(
        self, texts: Sequence[Texts], reduction: int, max_fraction: float
    ) -> float | None:
        for hop in self._hops(reduction):
            features = self.features.model_copy(update={"hop_seconds": hop})
            clock = replace(self, features=features, time_reduction=reduction)
            if all(len(too_short(item, clock)) <= max_fraction * len(item) for item in texts):
                return hop
        return None

    def _hops(self, reduction: int) -> Iterator[float]:
        """Yield hops in seconds that make frames denser than they are, from the largest down.

        None is longer than the window, or samples would be heard by nobody.
        """
        longest = self.features.window_seconds
        if self.multiple_of is None:
            most = MILLISECONDS_PER_SECOND * min(self.shift_seconds / reduction, longest)
            for milliseconds in range(int(round(most, 6)), 0, -1):
                yield milliseconds / MILLISECONDS_PER_SECOND
        else:
            for multiple in range(round(self.shift_seconds / self.multiple_of), 0, -1):
                if (hop := round(multiple * self.multiple_of / reduction, 6)) <= longest:
                    yield hop


@dataclass(frozen=True)
class FixedClock:
    """The frames of a published network, which settings do not change."""

    sample_rate_hz: int
    """Of the audio that samples are counted in."""
    shift_seconds: float
    """From one frame to the next."""

    def num_frames(self, num_samples: np.ndarray) -> np.ndarray:
        """Return the frames of audio of so many samples, `(utterances,)` both."""
        frames = num_samples / self.sample_rate_hz / self.shift_seconds
        return np.maximum(1, np.floor(frames + 1e-9)).astype(np.int64)

    def __str__(self) -> str:
        return f"one per {MILLISECONDS_PER_SECOND * self.shift_seconds:g} ms, as it was published"

    def advice(self, texts: Sequence[Texts], max_fraction: float) -> str:
        """Return that settings of the preparation would help: its frames are what they are."""
        return (
            f"prepare.ctc_frame_shift_seconds {self.shift_seconds:g} with "
            "prepare.too_short_for_ctc drop leaves such utterances out"
        )


def too_short(texts: Texts, clock: FrameClock) -> np.ndarray:
    """Return which texts have too few frames, indices `(texts,)`."""
    return np.flatnonzero(clock.num_frames(texts.num_samples) < texts.needed)


def check_alignable(
    name: str,
    texts: Sequence[Texts],
    clock: FrameClock,
    max_fraction: float,
    setting: str,
    *,
    warn: bool = True,
) -> None:
    """Count the texts that CTC cannot align, and say so in a line for each kind.

    Args:
        name: who is trained, such as `student conv`.
        texts: all that it learns by CTC, kind by kind.
        clock: its frames.
        max_fraction: the largest share of a kind that may be left out.
        setting: what the settings call that share.
        warn: whether to say how many are left out; off where the training itself will.

    Raises:
        CorpusError: it is larger, or nothing is left of any kind.
    """
    kinds = [item for item in texts if len(item)]
    nothing_left = all(len(too_short(item, clock)) == len(item) for item in kinds)
    for item in kinds:
        if not len(short := too_short(item, clock)):
            continue
        frames = clock.num_frames(item.num_samples)
        worst = short[np.argmax((item.needed - frames)[short])]
        text = item.texts[worst]
        shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
        found = (
            f"{name}: {len(short)} of {len(item)} {item.what} ({len(short) / len(item):.1%}) need "
            f"more frames than it has, {clock}"
        )
        example = (
            f"{item.names[worst]!r} has {frames[worst]}, {shown!r} needs {item.needed[worst]}: one "
            "for each token, and one between equal neighbours"
        )
        if len(short) > max_fraction * len(item) or nothing_left:
            raise CorpusError(
                f"{found}; {example}. CTC learns nothing from these, expected at most "
                f"{max_fraction:.0%} ({setting}): {clock.advice(texts, max_fraction)}"
            )
        if warn:
            logger.warning("warning: %s; they are left out of CTC. %s", found, example)


def teacher_clock(teacher: TrainedTeacherParams, sample_rate_hz: int) -> FeatureClock:
    """Return how a teacher that is trained here counts frames."""
    reduction = teacher.architecture.time_reduction
    return FeatureClock(teacher.features, sample_rate_hz, reduction, "teacher.features")


def student_clock(
    distill: DistillParams, student: str, sample_rate_hz: int, teacher_shift: float | None
) -> FeatureClock:
    """Return how a student and its control count frames.

    Args:
        distill: settings of all.
        student: its name.
        sample_rate_hz: of the audio.
        teacher_shift: from one frame of its teacher to the next, in seconds; None: not known.
    """
    params, objective = distill.students[student], distill.objective_of(student)
    faces_frames = objective.uses_frames or objective.uses_hidden
    own = f".students.{student}" if params.features is not None else ""
    return FeatureClock(
        distill.features_of(student),
        sample_rate_hz,
        params.architecture.time_reduction,
        f"distill{own}.features",
        teacher_shift if faces_frames else None,
    )


def check_teacher(
    texts: Texts, clock: FrameClock, training: TrainingParams, *, warn: bool = True
) -> None:
    """Make sure that a teacher has frames enough for its transcripts; see `check_alignable`.

    Raises:
        CorpusError: too many need more.
    """
    limit = training.max_unalignable_fraction
    check_alignable("teacher", [texts], clock, limit, TEACHERS_LIMIT, warn=warn)
