"""Samples at another rate: torchaudio's kernel for usual rates, soxr where that would be huge."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from distillery.data.decoding.channels import SAMPLE_SCALE, to_int16

MAX_KERNEL_SIZE = 2**21
"""Numbers in torchaudio's table, which rates without a large common divisor let grow.

441 × 640 = 282,240 of them resample 11,025 Hz to 16,000; 7,999 Hz to 8,000 would take 64 million:
6.7 s and 2.6 GB, against 3 ms and 1 MB of soxr.
"""


def needs_torch(rate_hz: int, target_hz: int) -> bool:
    """Return whether `resample` takes torchaudio's kernel for these rates."""
    common = math.gcd(rate_hz, target_hz)
    size = (rate_hz // common) * (target_hz // common)
    return rate_hz != target_hz and size <= MAX_KERNEL_SIZE


def resample(samples: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    """Return int16 samples `(ceil(samples · target_hz / rate_hz),)` at another rate.

    Both ways are windowed sincs; the rates alone decide which one is taken, so that equal input
    gives equal bytes.

    Args:
        samples: int16 `(samples,)`.
        rate_hz: their rate.
        target_hz: the rate wanted.
    """
    if rate_hz == target_hz:
        return samples
    waveform = samples.astype(np.float32) / np.float32(SAMPLE_SCALE)
    if not needs_torch(rate_hz, target_hz):
        import soxr

        changed = soxr.resample(waveform, rate_hz, target_hz)
        length = -(-len(samples) * target_hz // rate_hz)
        return to_int16(np.pad(changed[:length], (0, max(0, length - len(changed)))))
    import torch  # waits here: it takes a second, and most audio has the right rate

    return to_int16(_resampler(rate_hz, target_hz)(torch.from_numpy(waveform)).numpy())


@lru_cache(maxsize=8)
def _resampler(rate_hz: int, target_hz: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(rate_hz, target_hz)
