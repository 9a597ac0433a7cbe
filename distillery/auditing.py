"""The cache against the live teacher: some utterances again, and how far apart the two are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.device import choose_device, num_threads
from distillery.errors import CacheMismatch
from distillery.manifest import PreparedData
from distillery.params import CacheParams
from distillery.recogniser import WEIGHTS_FILE, Recogniser
from distillery.teacher_cache.payload import Targets
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers import TEACHERS

logger = logging.getLogger(__name__)

TOLERANCE = {"f32": 1e-5, "f16": 1e-4, "u8": 2e-3, "sparse": 2e-3}
"""By payload: nats a frame, KL(live ‖ cached), that an utterance may lie apart."""
ROUGH_ARITHMETIC = 2e-2
"""Nats a frame that half-precision arithmetic may add."""


@dataclass(frozen=True)
class Audited:
    """One utterance, compared."""

    utterance_id: str
    key: str
    divergence: float
    """Mean KL(live ‖ cached), nats a frame; infinite where the frames' number differs."""


def audit(
    cache: TeacherCache, data: PreparedData, teacher: Recogniser, count: int, seed: int = 0
) -> list[Audited]:
    """Run the teacher again over some cached utterances, one by one, and compare.

    Args:
        cache: the cache.
        data: prepared data that hold the audio.
        teacher: the live teacher.
        count: utterances, drawn at random from those that are both prepared and cached.
        seed: fixes the draw.
    """
    rows = data.frame.drop_duplicates("audio_key")
    rows = rows[~rows["audio_key"].isin(cache.missing(rows["audio_key"]))]
    rows = rows.sample(min(count, len(rows)), random_state=seed)
    found = []
    for row in rows.itertuples():
        key = str(row.audio_key)
        features, lengths = teacher.extract([data.waveform(row)])
        live = teacher.forward(features, lengths).log_probs[0]
        cached = cache.targets(cache.rows([key]))
        found.append(Audited(str(row.utterance_id), key, divergence(live, cached)))
    return found


def divergence(live: np.ndarray, cached: Targets) -> float:
    """Return the mean KL(live ‖ cached) of one utterance, in nats a frame.

    Where the cache keeps some tokens only, all others count as one token on both sides.

    Args:
        live: log-probabilities `(frames, vocab)`.
        cached: the cache's answer for this one utterance, temperature 1.
    """
    if len(live) != cached.log_probs.shape[1]:
        return float("inf")
    if not len(live):
        return 0.0
    stored = cached.log_probs[0].astype(np.float64)
    wanted = live.astype(np.float64)
    if cached.ids is not None and cached.num_kept is not None:
        wanted = np.take_along_axis(wanted, cached.ids[0], axis=1)
        kept = np.arange(stored.shape[1]) < cached.num_kept[0][:, None]
        wanted = np.where(kept, wanted, -np.inf)
        stored = np.where(kept, stored, -np.inf)
        wanted, stored = (_with_rest(values) for values in (wanted, stored))
    p = np.exp(wanted)
    terms = np.where(p > 0, p * (wanted - np.maximum(stored, np.log(SMALLEST))), 0.0)
    return float(terms.sum(axis=1).mean())


SMALLEST = 1e-30
"""Probability below which the cached one is not followed: half precision ends there too."""


def _with_rest(log_probs: np.ndarray) -> np.ndarray:
    rest = np.log(np.maximum(1 - np.exp(log_probs).sum(axis=1, keepdims=True), SMALLEST))
    return np.concatenate([log_probs, rest], axis=1)


def tolerance(cache: TeacherCache) -> float:
    """Return the divergence that a namespace's payload and arithmetic explain, nats a frame."""
    rough = 0.0 if cache.namespace.compute_dtype == "float32" else ROUGH_ARITHMETIC
    return TOLERANCE[cache.namespace.payload["kind"]] + rough


def check_audit(cache: TeacherCache, audited: Sequence[Audited]) -> None:
    """Make sure that the cache says what the live teacher says.

    Raises:
        CacheMismatch: an utterance lies further apart than the payload explains.
    """
    allowed = tolerance(cache)
    worst = max(audited, key=lambda item: item.divergence, default=None)
    if worst is not None and not worst.divergence <= allowed:
        bad = sum(not item.divergence <= allowed for item in audited)
        raise CacheMismatch(
            f"teacher cache {cache.folder.name}: utterance {worst.utterance_id!r} (key "
            f"{worst.key[:12]}) lies {worst.divergence:.2g} nat a frame from the live teacher, "
            f"at most {allowed:.2g} expected; {bad} of {len(audited)} audited are off. The "
            "teacher's code or libraries changed since: run `distillery cache gc --all --delete`, "
            "then make cache"
        )


def audit_before_training(
    cache: TeacherCache, data: PreparedData, teacher_folder: Path, params: CacheParams
) -> list[str]:
    """Audit as many utterances as the settings ask for, and return what to tell the user.

    A teacher whose weights are not here, as with somebody who pulled the cache alone, cannot be
    asked: that is said, and is no error.

    Raises:
        CacheMismatch: cache and teacher disagree.
    """
    if params.audit_utterances == 0:
        return []
    if not (teacher_folder / WEIGHTS_FILE).exists():
        return [f"audit: skipped, {teacher_folder / WEIGHTS_FILE} is not here"]
    with num_threads(params.num_threads):
        teacher = Recogniser.load(teacher_folder, TEACHERS, choose_device(params.device))
        audited = audit(cache, data, teacher, params.audit_utterances)
    check_audit(cache, audited)
    worst = max((item.divergence for item in audited), default=0.0)
    return [
        f"audit: {len(audited)} utterances, at most {worst:.1e} nat a frame from the live teacher "
        f"({tolerance(cache):.0e} allowed)"
    ]
