"""The cache against the live teacher: some utterances again, and how far apart the two are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.data.copies import waveform_of, with_copies
from distillery.data.manifest import PreparedData
from distillery.device import choose_device, num_threads
from distillery.errors import CacheMismatch
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.models.base import LoadTeacher, Teacher, hears_originals
from distillery.models.recogniser import CONFIG_FILE
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import DECODER_FOLDER, LANGUAGE_MODEL
from distillery.teacher_cache.payload import Targets
from distillery.teacher_cache.store import TeacherCache

TOLERANCE = {"f32": 1e-5, "f16": 1e-4, "u8": 2e-3, "sparse": 1e-3, "none": 0.0}
"""By payload: nats a frame, KL(live ‖ cached), that an utterance may lie apart; of texts, none."""
ROUGH_ARITHMETIC = 2e-2
"""Nats a frame that half-precision arithmetic may add."""
LEAST_REST = 1e-2
"""Sparse: mass that the tokens not kept have at least in the comparison. What is truly left may be
less than the kept ones' rounding, which must not count."""
SMALLEST = 1e-30
"""Probability below which the cached one is not followed: half precision ends there too."""


@dataclass(frozen=True)
class Audited:
    """One utterance, compared."""

    utterance_id: str
    key: str
    num_frames: int
    """As cached."""
    divergence: float
    """Mean KL(live ‖ cached), nats a frame; infinite where it has no value. Where no frames are
    cached, 0 for equal texts, infinite for others."""


def audit(
    cache: TeacherCache,
    data: PreparedData,
    teacher: Teacher,
    count: int,
    seed: int = 0,
    speed_factors: Sequence[float] = (),
) -> list[Audited]:
    """Run the teacher again over some cached utterances, one by one, and compare.

    Args:
        cache: the cache.
        data: prepared data that hold the audio.
        teacher: the live teacher.
        count: utterances, drawn at random from those that are both prepared and cached.
        seed: fixes the draw.
        speed_factors: of the copies that are cached, too.

    Raises:
        CacheMismatch: the cache is another teacher's, or holds nothing that was prepared.
        ModelError: the teacher was made for another sample rate.
    """
    check_weights(cache, teacher)
    teacher.check_sample_rate(data.sample_rate_hz)
    rows = with_copies(data.frame, speed_factors, data.sample_rate_hz)
    rows = rows.drop_duplicates("audio_key")
    rows = rows[~rows["audio_key"].isin(cache.missing(rows["audio_key"]))]
    if rows.empty:
        raise CacheMismatch(
            f"teacher cache {cache.folder.name}: holds none of the {len(data.frame)} prepared "
            "utterances, so there is nothing to compare; run make cache"
        )
    found = []
    for row in rows.sample(min(count, len(rows)), random_state=seed).itertuples():
        key = str(row.audio_key)
        waveform = waveform_of(data, row, original=hears_originals(teacher))
        cached = cache.rows([key])
        frames = int(cache.num_frames(cached)[0])
        if cache.namespace.payload["kind"] == "none":
            same = _best_text(cache, teacher, waveform) == cache.greedy_texts(cached)[0]
            apart = 0.0 if same else float("inf")
        else:
            (live,) = teacher.forward(*teacher.extract([waveform])).items
            apart = divergence(live, cache.targets(cached))
        found.append(Audited(str(row.utterance_id), key, frames, apart))
    return found


def _best_text(cache: TeacherCache, teacher: Teacher, waveform: np.ndarray) -> str:
    if LANGUAGE_MODEL not in cache.namespace.teacher:
        return teacher.transcribe([waveform])[0]
    folder = cache.folder.parent / DECODER_FOLDER
    decoder = LanguageModelDecoder.load(folder, teacher.vocabulary)
    return decoder.n_best(teacher.forward(*teacher.extract([waveform])).items)[0][0]


def check_weights(cache: TeacherCache, teacher: Teacher) -> None:
    """Make sure that these are the weights that filled the cache.

    The namespace is compared with fingerprint.json; this sees weights that fingerprint.json no
    longer describes.

    Raises:
        CacheMismatch: they are others.
    """
    live, cached = teacher.weights_digest, str(cache.namespace.teacher["weights"])
    if live != cached:
        raise CacheMismatch(
            f"teacher cache {cache.folder.name}: the teacher's weights hash to {live[:12]}, the "
            f"cache was made with {cached[:12]}; run make teacher, then make cache"
        )


def divergence(live: np.ndarray, cached: Targets) -> float:
    """Return the mean KL(live ‖ cached) of one utterance, in nats a frame.

    Both are normalised anew, so that what a payload rounds counts in the second order alone. Where
    the cache keeps some tokens only, all others count as one token on both sides.

    Args:
        live: log-probabilities `(frames, vocab)`.
        cached: the cache's answer for this one utterance, temperature 1.
    """
    if len(live) != cached.log_probs.shape[1]:
        return float("inf")
    if not len(live):
        return 0.0
    wanted, stored = np.exp(live.astype(np.float64)), np.exp(cached.log_probs[0].astype(np.float64))
    if cached.ids is not None and cached.num_kept is not None:
        kept = np.arange(stored.shape[1]) < cached.num_kept[0][:, None]
        wanted = np.take_along_axis(wanted, cached.ids[0], axis=1) * kept
        wanted, stored = _with_rest(wanted), _with_rest(stored)
    masses = [values.sum(axis=1, keepdims=True) for values in (wanted, stored)]
    if not all((np.isfinite(mass) & (mass > 0)).all() for mass in masses):
        return float("inf")
    wanted, stored = wanted / masses[0], stored / masses[1]
    gone = wanted == 0  # their terms are 0
    ratio = np.where(gone, 1.0, wanted) / np.where(gone, 1.0, np.maximum(stored, SMALLEST))
    return float((wanted * np.log(ratio)).sum(axis=1).mean())


def _with_rest(probabilities: np.ndarray) -> np.ndarray:
    rest = np.maximum(1 - probabilities.sum(axis=1, keepdims=True), LEAST_REST)
    return np.concatenate([probabilities, rest], axis=1)


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
    if worst is not None and worst.divergence > allowed:
        bad = sum(item.divergence > allowed for item in audited)
        raise CacheMismatch(
            f"teacher cache {cache.folder.name}: utterance {worst.utterance_id!r} (key "
            f"{worst.key[:12]}) lies {worst.divergence:.2g} nat a frame from the live teacher, "
            f"at most {allowed:.2g} expected; {bad} of {len(audited)} audited are off. The "
            "teacher's code or libraries changed since; run `distillery cache gc --all --delete`, "
            "then make cache"
        )


def audit_saved(
    cache: TeacherCache,
    data: PreparedData,
    teacher_folder: Path,
    load: LoadTeacher,
    params: CacheParams,
    count: int,
    seed: int = 0,
) -> list[Audited]:
    """Load a teacher and audit, with the threads and on the device of the stage `cache`.

    Args:
        cache: the cache.
        data: prepared data that hold the audio.
        teacher_folder: of the saved teacher.
        load: loads it.
        params: settings of the stage `cache`.
        count: utterances, drawn at random.
        seed: fixes the draw.

    Raises:
        CacheMismatch: the cache is another teacher's, or holds nothing that was prepared.
        ModelError: the teacher cannot be loaded, or was made for another sample rate.
    """
    with num_threads(params.num_threads):
        teacher = load(teacher_folder, choose_device(params.device))
        return audit(cache, data, teacher, count, seed, params.speed_factors)


def audit_before_training(
    cache: TeacherCache,
    data: PreparedData,
    teacher_folder: Path,
    load: LoadTeacher,
    params: CacheParams,
) -> list[str]:
    """Audit as many utterances as the settings ask for, and return what to tell the user.

    The stage `cache` ends with it: what fails here trains nobody. A teacher whose weights are not
    here, as with somebody who pulled the cache alone, cannot be asked: that is said, and is no
    error.

    Args:
        cache: the cache.
        data: prepared data that hold the audio.
        teacher_folder: of the saved teacher.
        load: loads it.
        params: settings of the stage `cache`.

    Raises:
        CacheMismatch: cache and teacher disagree.
    """
    if params.audit_utterances == 0:
        return []
    if not (teacher_folder / CONFIG_FILE).exists():
        return [f"audit: skipped, {teacher_folder / CONFIG_FILE} is not here"]
    audited = audit_saved(cache, data, teacher_folder, load, params, params.audit_utterances)
    check_audit(cache, audited)
    worst = max((item.divergence for item in audited), default=0.0)
    return [
        f"audit: {len(audited)} utterances, at most {worst:.1e} nat a frame from the live teacher "
        f"({tolerance(cache):.0e} allowed)"
    ]
