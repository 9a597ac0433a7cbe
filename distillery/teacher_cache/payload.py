"""A frame's token distribution to bytes and back; one class per layout, all with one interface.

    u8      one byte a token and four a frame: vocab + 4 bytes a frame
    f16     half precision: 2 x vocab bytes a frame
    f32     as the teacher gave it: 4 x vocab bytes a frame
    sparse  the likeliest tokens alone, more of them where something is said; for any temperature
            that is stored the kept tokens' probabilities are exact
    none    nothing: texts and hidden states are kept beside it

`u8` counts how many steps every token lies below the likeliest one. The step is the frame's own;
the likeliest token's log-probability is chosen so that the decoded frame sums to one, hence
reading needs no renormalisation. docs/teacher-cache.md gives every layout byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Required, TypedDict

import numpy as np

from distillery.errors import CacheError

LEVELS = 255  # u8: steps below the likeliest token
FLOOR = (
    -80.0
)  # u8: nats; less likely counts as this, or one -inf would cost all others their detail
TOP_SCALE = 2.0**17  # u8: steps per nat of the likeliest token's log-probability
STEP_BITS = 12  # u8: a half-precision number without sign and last three bits
MAX_TOKENS_U8 = 2900  # u8: ln(vocab) must stay below 8 nats
MAX_TOP_K = 255  # sparse: counts are bytes
NOTHING = -1e4  # log-probability of a place that holds no token: exp gives 0, 0 x it stays 0


class PayloadSettings(TypedDict, total=False):
    """A layout as namespace.json has it: its kind, and what that kind needs; see `Sparse`."""

    kind: Required[str]
    """u8, f16, f32, sparse or none."""
    top_k: int
    top_p: float
    near_frames: int
    temperatures: Sequence[float]


@dataclass(frozen=True)
class Targets:
    """A batch of token distributions, as any payload answers; padding counts nothing."""

    log_probs: np.ndarray
    """`(batch, frames, kept)`, float32, at the temperature asked for. Dense: kept = vocab, padded
    frames hold 0. Sparse: normalised over the whole vocabulary, so what is missing to one is the
    mass of the tokens not kept; empty places hold -1e4."""
    ids: np.ndarray | None
    """Sparse: token of each place `(batch, frames, kept)`, int64, 0 where empty. Dense: None."""
    num_kept: np.ndarray | None
    """Sparse: places in use `(batch, frames)`. Dense: None."""
    num_frames: np.ndarray
    """Real frames `(batch,)`."""


class Payload(Protocol):
    """How frames are stored."""

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""

    def encode(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Return the blocks that stand for log-probabilities `(frames, vocab)`."""

    def targets(
        self, records: Iterable[np.ndarray], num_frames: np.ndarray, temperature: float
    ) -> Targets:
        """Return a batch's distributions, softened by a temperature.

        Raises:
            CacheError: the layout cannot answer for this temperature.
        """

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Return `(batch, frames, vocab)`, float32, zeros behind.

        Raises:
            CacheError: the layout does not keep all tokens.
        """


class Dense:
    """What layouts that keep every token have in common."""

    num_tokens: int

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Return `(batch, frames, vocab)`, float32, zeros behind."""
        raise NotImplementedError

    def targets(
        self, records: Iterable[np.ndarray], num_frames: np.ndarray, temperature: float
    ) -> Targets:
        """Return the softened distributions over the whole vocabulary."""
        values = self.log_probs(records, num_frames)
        if temperature != 1.0:
            values = values / np.float32(temperature)
            values -= log_sum_exp(values)[..., None]
            values[~real_frames(num_frames, values.shape[1])] = 0.0
        return Targets(values, None, None, num_frames)


@dataclass(frozen=True)
class Float(Dense):
    """All log-probabilities as floating-point numbers, `(frames, vocab)`."""

    num_tokens: int
    dtype: str  # <f2 or <f4

    def encode(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Return one block `(frames, vocab)`."""
        lowest = np.finfo(self.dtype).min
        if log_probs.min(initial=0.0) < lowest:
            log_probs = np.maximum(log_probs, lowest)
        return [log_probs.astype(self.dtype, copy=False)]

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Return `(batch, frames, vocab)`, float32, zeros behind."""
        return gather(records, num_frames, self.num_tokens, self.dtype, "<f4")


@dataclass(frozen=True)
class Quantised(Dense):
    """`u8`: a word per frame `(frames,)`, then the steps below the top `(frames, vocab)`.

    The upper 20 bits of a word are the likeliest token's log-probability in -1/2^17 nat, the
    lower 12 the step: a positive half-precision number, shifted right by three bits.
    """

    num_tokens: int

    def __post_init__(self) -> None:
        if self.num_tokens > MAX_TOKENS_U8:
            raise CacheError(
                f"payload u8: {self.num_tokens} tokens, at most {MAX_TOKENS_U8} fit; "
                "set cache.payload.log_probs to sparse or f16"
            )

    def encode(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Return the words and the steps below."""
        floored = np.maximum(log_probs.astype(np.float32, copy=False), FLOOR)
        top = floored.max(axis=1, initial=-np.inf, keepdims=True)
        depth = top - floored  # (frames, vocab)
        wanted = depth.max(axis=1, initial=0.0) / LEVELS
        step_code = _round_up(wanted)
        step = _step(step_code)[:, None]
        below = np.rint(depth / np.where(step > 0, step, 1)).astype(np.uint8)
        sums = np.exp(-step * below).sum(axis=1)
        top_code = np.rint(np.log(sums) * TOP_SCALE).astype(np.uint32)
        return [(top_code << STEP_BITS | step_code).astype("<u4"), below]

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Return `(batch, frames, vocab)`, float32, zeros behind."""
        batch, frames = len(num_frames), int(num_frames.max(initial=0))
        words = np.zeros((batch, frames), "<u4")
        below = np.empty((batch, frames, self.num_tokens), np.uint8)  # padding: times a zero step
        word_bytes = words.view(np.uint8)
        below_bytes = below.reshape(batch, frames * self.num_tokens)
        for row, (record, count) in enumerate(zip(records, num_frames.tolist(), strict=True)):
            cut = words.itemsize * count
            word_bytes[row, :cut] = record[:cut]
            below_bytes[row, : len(record) - cut] = record[cut:]
        step = _step(words & (2**STEP_BITS - 1))[..., None]
        values: np.ndarray = np.multiply(below, -step, dtype=np.float32)
        values -= ((words >> STEP_BITS) / np.float32(TOP_SCALE)).astype(np.float32)[..., None]
        return values


def _round_up(step: np.ndarray) -> np.ndarray:
    """Return the codes of the smallest representable steps that are not below `step`."""
    above = np.where(step > 0, np.nextafter(step.astype(np.float16), np.float16(np.inf)), 0)
    bits = above.astype("<f2").view("<u2").astype(np.uint32)
    rounded: np.ndarray = (bits + 7) >> 3
    return rounded


def _step(code: np.ndarray) -> np.ndarray:
    """Return the steps, float32, that codes stand for."""
    return (code << 3).astype("<u2").view("<f2").astype(np.float32)


@dataclass(frozen=True)
class Sparse:
    """`sparse`: counts `(frames,)`, log-sum-exps `(frames, temperatures)`, values, ids.

    A frame keeps its likeliest tokens until they hold `top_p` of the mass, `top_k` at most; within
    `near_frames` of a frame whose likeliest token is no blank it keeps `top_k`. For every stored
    temperature T, ln Σ exp(ln p / T) over the *whole* vocabulary is kept too, so that p_T of the
    kept tokens is exact and the mass of the others is known.
    """

    num_tokens: int
    blank: int
    top_k: int
    top_p: float
    near_frames: int
    temperatures: tuple[float, ...]
    """Other than 1, which needs no log-sum-exp."""

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise CacheError(f"payload sparse: top_k is {self.top_k}, expected 1 to {MAX_TOP_K}")

    @property
    def id_dtype(self) -> np.dtype:
        """The narrowest unsigned integer that holds every token."""
        return np.dtype("<u4" if self.num_tokens > 2**16 else "<u2")

    @property
    def width(self) -> int:
        """Tokens that a frame may keep."""
        return min(self.top_k, self.num_tokens)

    def encode(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Return counts, log-sum-exps, values and ids."""
        log_probs = log_probs.astype(np.float32, copy=False)
        ids = np.argpartition(-log_probs, self.width - 1, axis=1)[:, : self.width]
        values = np.take_along_axis(log_probs, ids, axis=1)
        order = np.lexsort((ids, -values), axis=1)
        ids, values = (np.take_along_axis(x, order, axis=1) for x in (ids, values))
        mass_before = np.cumsum(np.exp(values), axis=1) - np.exp(values)
        counts = (mass_before < self.top_p).sum(axis=1)  # (frames,)
        counts[self._near(ids[:, 0])] = self.width
        kept = np.arange(self.width) < counts[:, None]
        sums = (
            np.stack([log_sum_exp(log_probs / np.float32(t)) for t in self.temperatures], axis=1)
            if self.temperatures
            else np.zeros((len(log_probs), 0))
        )
        half = np.finfo(np.float16)
        return [
            counts.astype(np.uint8),
            sums.astype("<f2"),
            np.maximum(values[kept], half.min).astype("<f2"),
            ids[kept].astype(self.id_dtype),
        ]

    def _near(self, best: np.ndarray) -> np.ndarray:
        """Return the mask `(frames,)` of frames close to a non-blank one."""
        if not len(best):
            return np.zeros(0, bool)
        speaks = (best != self.blank).astype(np.int64)
        window = np.ones(2 * self.near_frames + 1, np.int64)
        # 'full' and a cut instead of 'same', which swaps the two when the window is longer.
        close: np.ndarray = np.convolve(speaks, window)[self.near_frames :][: len(best)] > 0
        return close

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Refuse: not all tokens are kept.

        Raises:
            CacheError: always.
        """
        raise CacheError(
            f"payload sparse: keeps at most {self.width} of {self.num_tokens} tokens a frame, all "
            "were asked for; use its sparse targets, or set cache.payload.log_probs to f16 and "
            "run make cache"
        )

    def targets(
        self, records: Iterable[np.ndarray], num_frames: np.ndarray, temperature: float
    ) -> Targets:
        """Return the kept tokens' softened log-probabilities.

        Raises:
            CacheError: the temperature was not stored.
        """
        stored = (1.0, *self.temperatures)
        if temperature not in stored:
            listed = ", ".join(f"{t:g}" for t in stored)
            raise CacheError(
                f"payload sparse: temperature {temperature:g} was not stored, only {listed}; add "
                "it to cache.payload.sparse.temperatures and run make cache"
            )
        shape = (len(num_frames), int(num_frames.max(initial=0)))
        counts = np.zeros(shape, np.uint8)
        sums = np.zeros(shape, np.float32)
        values, ids = [], []
        for row, (record, frames) in enumerate(zip(records, num_frames.tolist(), strict=True)):
            parts = self._parts(record, frames)
            counts[row, :frames], values_here, ids_here = parts[0], parts[2], parts[3]
            if temperature != 1.0:
                sums[row, :frames] = parts[1][:, self.temperatures.index(temperature)]
            values.append(values_here)
            ids.append(ids_here)
        kept = np.arange(counts.max(initial=0)) < counts[..., None]  # (batch, frames, kept)
        all_values = np.full(kept.shape, NOTHING, np.float32)
        all_ids = np.zeros(kept.shape, np.int64)
        all_values[kept] = np.concatenate(values) if values else 0
        all_ids[kept] = np.concatenate(ids) if ids else 0
        softened = all_values / np.float32(temperature) - sums[..., None]
        return Targets(np.where(kept, softened, np.float32(NOTHING)), all_ids, counts, num_frames)

    def _parts(self, record: np.ndarray, frames: int) -> list[np.ndarray]:
        counts = record[:frames]
        total = int(counts.sum())
        num_sums = frames * len(self.temperatures)
        ends = np.cumsum([frames, 2 * num_sums, 2 * total])
        sums = record[ends[0] : ends[1]].copy().view("<f2").reshape(frames, len(self.temperatures))
        values = record[ends[1] : ends[2]].copy().view("<f2")
        return [counts, sums, values, record[ends[2] :].copy().view(self.id_dtype)]


@dataclass(frozen=True)
class Nothing:
    """`none`: no token distributions."""

    num_tokens: int = 0

    def encode(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Return no block."""
        return []

    def log_probs(self, records: Iterable[np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        """Refuse: none are kept.

        Raises:
            CacheError: always.
        """
        raise CacheError(
            "payload none: keeps no token distributions, but they were asked for; learn texts "
            "(sequence) or hidden states (hidden), or, where the teacher has frames in the "
            "students' tokens, set cache.payload.log_probs to auto and run make cache"
        )

    def targets(
        self, records: Iterable[np.ndarray], num_frames: np.ndarray, temperature: float
    ) -> Targets:
        """Refuse: none are kept.

        Raises:
            CacheError: always.
        """
        return Targets(self.log_probs(records, num_frames), None, None, num_frames)


def payload_of(settings: PayloadSettings, num_tokens: int, blank: int) -> Payload:
    """Return the layout that a namespace's settings describe.

    Raises:
        CacheError: its kind is unknown, or the vocabulary does not fit.
    """
    kind = settings["kind"]
    if kind == "u8":
        return Quantised(num_tokens)
    if kind in ("f16", "f32"):
        return Float(num_tokens, {"f16": "<f2", "f32": "<f4"}[kind])
    if kind == "sparse":
        return Sparse(
            num_tokens,
            blank,
            settings["top_k"],
            settings["top_p"],
            settings["near_frames"],
            tuple(settings["temperatures"]),
        )
    if kind == "none":
        return Nothing()
    raise CacheError(f"payload {kind!r}: unknown, expected u8, f16, f32, sparse or none")


def gather(
    records: Iterable[np.ndarray], num_frames: np.ndarray, width: int, stored: str, wanted: str
) -> np.ndarray:
    """Copy records of `(frames, width)` into one `(batch, frames, width)`, zeros behind.

    Args:
        records: bytes of each.
        num_frames: frames of each `(batch,)`.
        width: numbers in a frame.
        stored: their type in the records.
        wanted: their type in the result.
    """
    longest = int(num_frames.max(initial=0))
    batch = np.empty((len(num_frames), longest * width), wanted)
    for row, record in zip(batch, records, strict=True):
        values = record.view(stored)
        row[: len(values)] = values
        row[len(values) :] = 0
    return batch.reshape(len(batch), longest, width)


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """Return ln Σ exp over the last axis."""
    highest = values.max(axis=-1, initial=-np.inf, keepdims=True)
    sums: np.ndarray = np.log(np.exp(values - highest).sum(axis=-1)) + highest[..., 0]
    return sums


def real_frames(num_frames: np.ndarray, longest: int) -> np.ndarray:
    """Return the mask `(batch, frames)`, True where a frame is real."""
    mask: np.ndarray = np.arange(longest) < np.asarray(num_frames)[:, None]
    return mask
