"""Log-probabilities to bytes and back.

`u8` keeps, per frame, the largest log-probability and a step (both fp16), and for every token how
many steps it lies below: vocab + 4 bytes a frame. The likeliest tokens are exact to fp16, the
others to half a step, and renormalising on the way out removes what is common to all. `f16`
keeps half-precision values: 2 x vocab bytes a frame.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

LogProbType = Literal["u8", "f16"]
LEVELS = 255


def frame_dtype(kind: LogProbType, num_tokens: int) -> np.dtype:
    """Return the layout of one frame."""
    if kind == "f16":
        return np.dtype([("values", "<f2", (num_tokens,))])
    return np.dtype([("top", "<f2"), ("step", "<f2"), ("below", "u1", (num_tokens,))])


def encode(log_probs: np.ndarray, kind: LogProbType) -> np.ndarray:
    """Return frames `(frames,)` of `frame_dtype` for log-probabilities `(frames, vocab)`."""
    frames = np.zeros(len(log_probs), frame_dtype(kind, log_probs.shape[1]))
    if kind == "f16":
        frames["values"] = log_probs
        return frames
    top = log_probs.max(axis=1)
    depth = top - log_probs.min(axis=1)
    # The smallest fp16 step that still reaches the lowest value; 0 only for a flat frame.
    step = np.nextafter((depth / LEVELS).astype(np.float16), np.float16(np.inf))
    frames["top"], frames["step"] = top, step
    below = np.rint((top[:, None] - log_probs) / step.astype(np.float32)[:, None])
    frames["below"] = np.clip(below, 0, LEVELS)
    return frames


def decode(frames: np.ndarray, kind: LogProbType) -> np.ndarray:
    """Return normalised log-probabilities `(frames, vocab)`, float32."""
    if kind == "f16":
        values = frames["values"].astype(np.float32)
    else:
        step = frames["step"].astype(np.float32)[:, None]
        top = frames["top"].astype(np.float32)[:, None]
        values = top - step * frames["below"]
    highest = values.max(axis=1, keepdims=True)
    sums = np.log(np.exp(values - highest).sum(axis=1, keepdims=True))
    normalised: np.ndarray = values - highest - sums
    return normalised
