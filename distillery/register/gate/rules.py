"""The gate: rules that a new student must pass before it takes the champion's place.

A model is judged in every *format* in which it may be served, called *form* in verdicts: as PyTorch
runs it, and as each file that was exported from it. All formats hear the same test split, in the
same run as the champion. Each rule is a function from a match of two formats to a ruling: a figure,
its limit, and a sentence. A rule that has nothing to judge, such as one that asks for a champion
where there is none, says so by returning None.

    utterances        the test split is large enough to tell
    wer               no worse than the champion on this test split
    wer_interval      nor, beyond a margin, at the far end of a one-sided interval: the paired
                      bootstrap of distillery/data/scoring.py
    speakers          no speaker with enough words gets much worse
    gain              its control, trained without the teacher, is not clearly better
    size, real_time_factor
    sanity            it recognises something
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from distillery.data.scoring import paired_bootstrap
from distillery.data.units import Unit
from distillery.errors import StageError
from distillery.params.register import GateParams
from distillery.register.gate.verdict import Ruling

BOOTSTRAP_SEED = 0
PYTORCH = "torch"


@dataclass(frozen=True)
class ScoredFormat:
    """A model in one format, and how it did on the test split."""

    name: str
    """`torch`, or the format that it was exported to, a key of onnx_recogniser.MODEL_FILES."""
    predictions: pd.DataFrame
    """A row per utterance, in the order of all other formats: `utterance_id`, `speaker`, `words`,
    `word_errors`."""
    num_bytes: int
    """Size of the weights."""
    real_time_factor: float
    """Computing seconds per second of audio, on one thread."""
    is_searched: bool = False
    """Whether a decoder searches its texts, which takes longer than the best path."""

    @property
    def errors(self) -> np.ndarray:
        """Word errors of each utterance `(utterances,)`."""
        return self.predictions["word_errors"].to_numpy(np.int64)

    @property
    def words(self) -> np.ndarray:
        """Words in each reference `(utterances,)`."""
        return self.predictions["words"].to_numpy(np.int64)

    @property
    def wer(self) -> float:
        """Word error rate over all utterances, as a fraction."""
        return float(self.errors.sum() / max(1, self.words.sum()))


@dataclass(frozen=True)
class Match:
    """What a rule judges."""

    form: ScoredFormat
    """The student's."""
    champion: ScoredFormat | None
    """The champion in the same format, or as PyTorch runs it; None: there is none."""
    control_errors: np.ndarray | None
    """Word errors of the student's control `(utterances,)`; None: none was trained."""
    settings: GateParams
    num_resamples: int
    unit: Unit = Unit.WORD
    """What errors are counted in; the names of fields and settings say words."""


Rule = Callable[[Match], Ruling | None]


def rule_utterances(match: Match) -> Ruling | None:
    """Judge the test split: over a few utterances the intervals are too narrow to say anything."""
    found, limit = len(match.form.predictions), match.settings.min_utterances
    if match.champion is None:
        return None
    return Ruling(
        "utterances",
        match.form.name,
        found,
        limit,
        "utterances",
        found >= limit,
        f"{found} test utterances; {limit} are needed to compare with a champion: add transcribed "
        "test recordings, or lower register.gate.min_utterances",
    )


def rule_wer(match: Match) -> Ruling | None:
    """Judge the WER on the test split as it is against the champion's."""
    form, champion = match.form, match.champion
    if champion is None:
        return None
    difference, _ = _difference(match, form.errors, champion.errors)
    limit = min(0.0, match.settings.wer_margin)
    return Ruling(
        "wer",
        form.name,
        difference,
        limit,
        "points",
        difference <= limit,
        f"{match.unit.rate} {form.wer:.2%} against the champion's {champion.wer:.2%}",
    )


def rule_wer_interval(match: Match) -> Ruling | None:
    """Judge how much worse than the champion's the WER of other such recordings may be."""
    if match.champion is None:
        return None
    _, high = _difference(match, match.form.errors, match.champion.errors)
    limit = match.settings.wer_margin
    return Ruling(
        "wer_interval",
        match.form.name,
        high,
        limit,
        "points",
        high <= limit,
        f"with {match.settings.confidence:.0%} confidence at most {100 * high:+.2f} points of "
        f"{match.unit.rate} to the champion's; {100 * limit:+.2f} are allowed",
    )


def rule_speakers(match: Match) -> Ruling | None:
    """Judge the speaker who lost most by the change."""
    form, champion, settings = match.form, match.champion, match.settings
    if champion is None:
        return None
    more = form.predictions.assign(more=form.errors - champion.errors)
    speakers = more.groupby("speaker")[["more", "words"]].sum()  # the unknown are nobody
    judged = speakers[speakers["words"] >= settings.min_speaker_words]
    if judged.empty:
        return None
    losses = judged["more"] / judged["words"]
    speaker, loss = losses.idxmax(), float(losses.max())
    return Ruling(
        "speakers",
        form.name,
        loss,
        settings.max_speaker_loss,
        "points",
        loss <= settings.max_speaker_loss,
        f"of {len(judged)} speakers with {settings.min_speaker_words} {match.unit.plural} or more, "
        f"{speaker} lost most: {100 * loss:+.1f} points of {match.unit.rate}; "
        f"{100 * settings.max_speaker_loss:.1f} are allowed",
    )


def rule_gain(match: Match) -> Ruling | None:
    """Judge whether the control is clearly better; of a first champion, as PyTorch runs it alone.

    What an exported format loses is no fault of the teacher's, and there is nobody else yet.
    """
    if match.control_errors is None or (match.champion is None and match.form.name != PYTORCH):
        return None
    form = match.form
    gain, high = gain_over_control(
        form.errors, match.control_errors, form.words, match.settings, match.num_resamples
    )
    return Ruling(
        "gain",
        match.form.name,
        high,
        0.0,
        "points",
        high >= 0,
        f"{100 * gain:+.2f} points of {match.unit.rate} over its control, at most "
        f"{100 * high:+.2f} with {match.settings.confidence:.0%} confidence, which must not be "
        "below 0",
    )


def rule_size(match: Match) -> Ruling | None:
    """Judge the weights' size, against the champion's and by itself."""
    settings, size = match.settings, match.form.num_bytes
    limits = [settings.max_bytes]
    if match.champion is not None and settings.max_size_factor is not None:
        limits.append(int(settings.max_size_factor * match.champion.num_bytes))
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    limit = min(known)
    return Ruling(
        "size",
        match.form.name,
        size,
        limit,
        "bytes",
        size <= limit,
        f"{size:,} bytes; {limit:,} are allowed",
    )


def rule_real_time_factor(match: Match) -> Ruling | None:
    """Judge the speed, against the champion's in the same run and by itself."""
    settings, factor = match.settings, match.form.real_time_factor
    limit, champion = settings.max_real_time_factor, match.champion
    # A decoder is switched on for its words: beside a best path the speed is no measure of it.
    is_alike = champion is not None and champion.is_searched >= match.form.is_searched
    if champion is not None and is_alike and settings.max_slowdown_factor is not None:
        limit = min(limit, settings.max_slowdown_factor * champion.real_time_factor)
    return Ruling(
        "real_time_factor",
        match.form.name,
        factor,
        limit,
        "",
        factor <= limit,
        f"{factor:.2g} s of computing for a second of audio; {limit:.2g} s are allowed",
    )


def rule_sanity(match: Match) -> Ruling | None:
    """Judge whether the model is of any use."""
    wer, limit = match.form.wer, match.settings.max_wer
    return Ruling(
        "sanity",
        match.form.name,
        wer,
        limit,
        "%",
        wer <= limit,
        f"{match.unit.rate} {wer:.2%}; a model above {limit:.2%} is broken",
    )


RULES: tuple[Rule, ...] = (
    rule_utterances,
    rule_wer,
    rule_wer_interval,
    rule_speakers,
    rule_gain,
    rule_size,
    rule_real_time_factor,
    rule_sanity,
)


def judge(
    formats: Sequence[ScoredFormat],
    champion: Sequence[ScoredFormat],
    control_errors: np.ndarray | None,
    settings: GateParams,
    num_resamples: int,
    unit: Unit = Unit.WORD,
) -> list[Ruling]:
    """Return every rule's ruling on a student in each of its formats.

    Args:
        formats: the student's, at least one.
        champion: the champion's, on the same utterances; one of the same name is the opponent,
            otherwise the first; empty where there is none.
        control_errors: word errors of the student's control `(utterances,)`, None without one.
        settings: limits.
        num_resamples: bootstrap resamples.
        unit: what errors are counted in.

    Raises:
        StageError: the formats were scored on different utterances.
    """
    _check_utterances([*formats, *champion])
    opponents = {form.name: form for form in champion}
    rulings = []
    for form in formats:
        opponent = opponents.get(form.name, champion[0] if champion else None)
        match = Match(form, opponent, control_errors, settings, num_resamples, unit)
        rulings += [ruling for rule in RULES if (ruling := rule(match)) is not None]
    return rulings


def is_tie(form: ScoredFormat, champion: ScoredFormat) -> bool:
    """Return whether a student errs as the champion does everywhere, and is no smaller."""
    return bool((form.errors == champion.errors).all()) and form.num_bytes >= champion.num_bytes


def gain_over_control(
    errors: np.ndarray,
    control_errors: np.ndarray,
    words: np.ndarray,
    settings: GateParams,
    num_resamples: int,
) -> tuple[float, float]:
    """Return what a student gained over its control, and the upper end of the one-sided interval.

    Below 0 at that end it is significantly worse.

    Args:
        errors: the student's, of each utterance `(utterances,)`.
        control_errors: its control's, of the same.
        words: in each reference.
        settings: whose confidence counts.
        num_resamples: bootstrap resamples.
    """
    two_sided = 2 * settings.confidence - 1
    result = paired_bootstrap(
        control_errors, errors, words, num_resamples, two_sided, BOOTSTRAP_SEED
    )
    return result.difference, result.high


def _difference(match: Match, errors: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return how much more the first err, and the upper end of the one-sided interval."""
    two_sided = 2 * match.settings.confidence - 1
    result = paired_bootstrap(
        errors, others, match.form.words, match.num_resamples, two_sided, BOOTSTRAP_SEED
    )
    return result.difference, result.high


def _check_utterances(formats: Sequence[ScoredFormat]) -> None:
    expected = list(formats[0].predictions["utterance_id"])
    for form in formats[1:]:
        found = list(form.predictions["utterance_id"])
        if found != expected:
            raise StageError(
                f"gate: {form.name} was scored on {len(found)} utterances, {formats[0].name} on "
                f"{len(expected)}, expected the same ones in the same order; run make evaluate"
            )
