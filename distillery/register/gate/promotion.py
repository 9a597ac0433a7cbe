"""A newly registered student at the gate: scored beside the champion, judged, given its alias."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.units import Unit
from distillery.errors import AliasConflict, ModelError, TrackingError
from distillery.evaluate.comparison import UNKNOWN_TRUTH
from distillery.evaluate.predictions import as_served
from distillery.evaluate.tables import with_distance
from distillery.params.evaluate import EvaluateParams
from distillery.params.register import GateParams
from distillery.register.aliases import (
    GATE,
    Aliases,
    check_exists,
    check_version,
    moves,
    read_aliases,
    record_unrecorded,
    set_challenger,
    set_champion,
    withdrawn,
)
from distillery.register.gate import verdict as verdicts
from distillery.register.gate.rules import PYTORCH, ScoredFormat, is_tie, judge
from distillery.register.gate.verdict import Ruling, Verdict
from distillery.tracking.names import STUDENT
from distillery.tracking.store import Tracking
from distillery.tracking.trained_on import read_keys
from distillery.tracking.versions import CHALLENGER, CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from distillery.register.gate.formats import LoadedFormat, TestSplit

ATTEMPTS = 3
FORMAT_TAG = "serve.format"
"""Of a version: the format in which it is served."""
MAX_TAG = 5000
"""Characters that MLflow keeps of a version's tag."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A registered student, or a control in its place, that may become champion."""

    model_name: str
    version: str
    name: str
    seed: int
    folder: Path
    description: str
    """Of the version, without the verdict."""
    role: str = STUDENT
    """student or control."""
    decoder: Path | None = None
    """Folder of its decoder, where it is not that of the exported student."""
    instead: str = ""
    """Why it was put up instead of another, in a sentence; nothing where there is no such."""

    @property
    def model(self) -> str:
        """What it is called among predictions."""
        return f"{self.role}s/{self.name}"


@dataclass(frozen=True)
class Terms:
    """On what, and by which rules, it is judged."""

    data: PreparedData
    predictions: pd.DataFrame
    """Of the evaluation: all models and seeds."""
    exported: pd.DataFrame
    """Of the evaluation: the exported students, by format."""
    evaluate: EvaluateParams
    gate: GateParams


def decide(tracking: Tracking, entry: Entry, terms: Terms) -> Verdict:
    """Judge a student against the champion of this moment, and move the aliases accordingly.

    The verdict goes to reports/gate.json, and into the version's tags and description.

    Raises:
        TrackingError: MLflow cannot be reached or refuses, or the champion keeps changing.
        StageError: the evaluation and the prepared data do not belong together.
    """
    record_unrecorded(tracking, entry.model_name)
    for attempt in range(1, ATTEMPTS + 1):
        aliases = read_aliases(tracking, entry.model_name)
        verdict = _with_choice(entry, _weigh(tracking, entry, terms, aliases))
        try:
            verdict = _move(tracking, entry, verdict, aliases)
            break
        except AliasConflict as conflict:
            if attempt == ATTEMPTS:
                raise
            logger.warning("%s; the gate judges again", conflict)
    verdicts.write_verdict(tracking.root, entry.model_name, verdict)
    if entry.version != aliases.champion and (verdict.rulings or verdict.changed):
        _record(tracking, entry, verdict)
    return verdict


def _weigh(tracking: Tracking, entry: Entry, terms: Terms, aliases: Aliases) -> Verdict:
    """Return the verdict; nothing is moved."""
    if entry.version == aliases.champion:
        return _kept(tracking, entry)
    if taken_back := withdrawn(tracking, entry.model_name, entry.version):
        reason = f"it was rolled back, {taken_back}; make promote VERSION={entry.version} forgives"
        return Verdict(entry.version, CHALLENGER, reason)
    if not terms.gate.enabled:
        return Verdict(entry.version, CHAMPION, "register.gate.enabled is false")
    return _compare(tracking, entry, terms, aliases)


def _with_choice(entry: Entry, verdict: Verdict) -> Verdict:
    """Return a verdict whose reason also says why this model was put up, where there is a why."""
    if entry.instead in verdict.reason:  # a champion's verdict is of former days
        return verdict
    return replace(verdict, reason=f"{verdict.reason}; {entry.instead}")


def _compare(tracking: Tracking, entry: Entry, terms: Terms, aliases: Aliases) -> Verdict:
    """Return the verdict on a student that is scored beside the champion, if there is one."""
    # PyTorch comes with these; who is champion already needs none.
    from distillery.register.gate.formats import TestSplit, formats_of_student

    split = TestSplit(terms.data, terms.evaluate)
    mine = terms.predictions[terms.predictions["seed"] == entry.seed]
    own = formats_of_student(
        entry.folder,
        mine[mine["model"] == entry.model],
        tracking.root / "models/exported" / entry.name,
        terms.exported[terms.exported["model"] == entry.model],
        terms.evaluate.stream_chunk_seconds,
        entry.decoder or tracking.root / "models/exported" / entry.name,
    )
    check_exists(tracking, entry.model_name, entry.version)
    # Asked before the work, for versions may be deleted meanwhile.
    served = _served(tracking, entry.model_name, entry.version)
    rival = _rival(tracking, entry.model_name, aliases, split, terms.gate)
    if rival.obstacle is None and rival.heard is not None:
        split = split.without(rival.heard)
    scored = split.score([*own, *rival.formats])
    own_scores, rival_scores = scored[: len(own)], scored[len(own) :]
    control_errors = (
        _control_errors(split, as_served(mine), entry.name) if entry.role == STUDENT else None
    )
    rulings = judge(
        own_scores,
        rival_scores,
        control_errors,
        terms.gate,
        terms.evaluate.num_resamples,
        terms.data.unit_of("test"),
    )
    verdict = Verdict(
        version=entry.version,
        alias=CHALLENGER,
        reason="",
        against=rival.version,
        wer=own_scores[0].wer,
        against_wer=rival_scores[0].wer if rival_scores else None,
        num_utterances=len(split.rows),
        unit=terms.data.unit_of("test"),
        num_left_out=rival.num_left_out,
        note=_note(rival, terms.data.unit_of("test")),
        rulings=tuple(_binding(rulings, served)),
    )
    if rival.obstacle is not None:
        return replace(verdict, reason=_cannot_compare(entry, rival, aliases))
    tied = rival.version is not None and is_tie(
        _format(own_scores, served), _format(rival_scores, rival.served)
    )
    return _conclude(verdict, aliases, _lost(tracking, entry), tied=tied)


@dataclass(frozen=True)
class _Rival:
    """Whom a student is compared with: the champion or, where none is left, the previous one."""

    version: str | None = None
    """None: there is neither."""
    served: str = PYTORCH
    """The format in which it is served."""
    formats: Sequence[LoadedFormat] = ()
    obstacle: str | None = None
    """Why it cannot be scored; None where it can."""
    heard: np.ndarray | None = None
    """The audio that it learnt from; None where it does not say."""
    num_left_out: int | None = None
    """Test utterances among that; None where it is not known."""


def _rival(
    tracking: Tracking, model_name: str, aliases: Aliases, split: TestSplit, gate: GateParams
) -> _Rival:
    """Return whom a student is compared with, loaded unless something is in the way."""
    from distillery.register.gate.formats import formats_of_version  # PyTorch comes with it

    version = aliases.champion or aliases.previous
    if version is None:
        return _Rival()
    served = _served(tracking, model_name, version)
    heard, left_out = None, None
    try:
        heard = read_keys(check_version(tracking, model_name, version))
        judged = split if heard is None else split.without(heard)
        if heard is not None:
            left_out = len(split.rows) - len(judged.rows)
        obstacle = _too_little_unheard(len(split.rows), left_out or 0, gate.min_utterances)
        if obstacle is not None:
            return _Rival(version, served, (), obstacle, heard, left_out)
        formats = formats_of_version(tracking, model_name, version, judged)
    except (ModelError, TrackingError) as error:
        return _Rival(version, served, obstacle=str(error))
    return _Rival(version, served, formats, None, heard, left_out)


def _too_little_unheard(total: int, left_out: int, least: int) -> str | None:
    """Return why a champion cannot be judged: too much of the test split is what it learnt from."""
    if not left_out or total - left_out >= max(1, least):
        return None
    return (
        f"it was trained or validated on {left_out} of the {total} test utterances, so "
        f"{total - left_out} are left to judge it on, expected {max(1, least)} or more "
        "(register.gate.min_utterances)"
    )


def _note(rival: _Rival, unit: Unit = Unit.WORD) -> str:
    """Return what a person should know of what was judged on, and by what."""
    truth = f"This was {UNKNOWN_TRUTH}." if unit.is_vs_teacher else ""
    return " ".join(filter(None, (truth, _note_of_utterances(rival))))


def _note_of_utterances(rival: _Rival) -> str:
    """Return what a person should know of the utterances that both were judged on."""
    if rival.version is None or rival.obstacle is not None:
        return ""
    if rival.num_left_out is None:
        return (
            f"Version {rival.version} does not say what it was trained on, as versions of old; no "
            "test utterance was left out."
        )
    if not rival.num_left_out:
        return ""
    return (
        f"{rival.num_left_out} test utterances were left out, for version {rival.version} was "
        "trained or validated on them."
    )


def _kept(tracking: Tracking, entry: Entry) -> Verdict:
    """Return the verdict that a champion got: it is not judged again, least against itself.

    With its rulings where gate.json still is about it.
    """
    tags = tracking.client.get_model_version(entry.model_name, entry.version).tags
    said, by_gate = tags.get("gate.reason"), tags.get("gate.alias") == CHAMPION
    reason = said if said and by_gate else "it is the champion already"
    if said and not by_gate:
        reason += f", not by the gate, which said: {said}"
    verdict = verdicts.read_verdict(tracking.root, entry.model_name)
    about_it = verdict is not None and verdict.version == entry.version
    same = ("gate.against", "gate.failed")
    if verdict is None or not about_it or any(verdict.tags[it] != tags.get(it) for it in same):
        verdict = Verdict(entry.version, CHAMPION, reason)
    return replace(verdict, alias=CHAMPION, reason=reason, changed=False)


def _served(tracking: Tracking, model_name: str, version: str) -> str:
    """Return the format in which a version is served."""
    tags = tracking.client.get_model_version(model_name, version).tags
    return str(tags.get(FORMAT_TAG, PYTORCH))


def _format(formats: list[ScoredFormat], name: str) -> ScoredFormat:
    """Return the format of that name, or else PyTorch's, which comes first."""
    return next((item for item in formats if item.name == name), formats[0])


def _binding(rulings: list[Ruling], served: str) -> list[Ruling]:
    """Return rulings that count in PyTorch's format, from which others start, and as served."""
    return [replace(item, binding=item.form in (PYTORCH, served)) for item in rulings]


def _conclude(verdict: Verdict, aliases: Aliases, lost: str, *, tied: bool) -> Verdict:
    """Return a verdict with its reason, from what the rules said."""
    if verdict.failed:
        said: dict[tuple[str, str], list[str]] = {}  # formats often fail alike
        for item in verdict.failed:
            said.setdefault((item.rule, item.sentence), []).append(item.form)
        reason = "; ".join(
            f"{rule} ({', '.join(formats)}): {sentence}"
            for (rule, sentence), formats in said.items()
        )
        return replace(verdict, reason=reason)
    if verdict.against_wer is None:
        reason = f"the first champion{lost}"
        return replace(verdict, alias=CHAMPION, reason=reason)
    name = f"version {verdict.against}"
    if aliases.champion is None:
        name = f"the {PREVIOUS} {name}, for no champion is left"
    elif tied:
        reason = f"a tie: every utterance has as many errors as with {name}, and it is no smaller"
        return replace(verdict, reason=reason)
    reason = (
        f"all rules passed, {verdict.unit.rate} {verdict.wer:.2%} against the "
        f"{verdict.against_wer:.2%} of {name} on the same {verdict.num_utterances} utterances"
    )
    return replace(verdict, alias=CHAMPION, reason=reason)


def _cannot_compare(entry: Entry, rival: _Rival, aliases: Aliases) -> str:
    role = CHAMPION if aliases.champion else PREVIOUS
    back = " or make rollback" if aliases.previous else ""
    return (
        f"it cannot be compared with the {role}, version {rival.version}: {rival.obstacle}. Listen "
        f"to both, and run make promote VERSION={entry.version}{back}"
    )


def _lost(tracking: Tracking, entry: Entry) -> str:
    """Return what became of former champions, where none is left."""
    former = moves(tracking, entry.model_name)
    return f" since version {former[0].version} was deleted" if former else ""


def _control_errors(split: TestSplit, mine: pd.DataFrame, name: str) -> np.ndarray | None:
    control = mine[mine["model"] == f"controls/{name}"]
    if control.empty:
        return None
    return split.ordered(control, f"the control of {name}")["word_errors"].to_numpy(np.int64)


def _move(tracking: Tracking, entry: Entry, verdict: Verdict, aliases: Aliases) -> Verdict:
    name, version = entry.model_name, entry.version
    if verdict.alias == CHAMPION:
        if version == aliases.champion:
            return verdict
        check_exists(tracking, name, version)
        # First, for should this process be killed, a champion is not judged again.
        _record(tracking, entry, verdict)
        set_champion(tracking, name, version, aliases, GATE, verdict.reason)
        return replace(verdict, changed=True)
    changed = set_challenger(tracking, name, version, aliases)
    alias = PREVIOUS if version == aliases.previous else CHALLENGER
    return replace(verdict, alias=alias, changed=changed)


def _record(tracking: Tracking, entry: Entry, verdict: Verdict) -> None:
    client, name, version = tracking.client, entry.model_name, entry.version
    for tag, value in verdict.tags.items():
        client.set_model_version_tag(name, version, tag, value[:MAX_TAG])
    description = f"{with_distance(verdicts.markdown(verdict))}\n{entry.description}"
    client.update_model_version(name, version, description)
