"""Channels of a recording into one, and whether mixing them loses or mixes up speech."""

from __future__ import annotations

import math

import numpy as np

from distillery.errors import AudioError

FRAME_SECONDS = 0.05
LEAST_FRAMES = 10
CANCELLING_DB = 6.0
"""A mix this far below the loudest channel alone, the others silent, has lost something."""
ACTIVE_DBFS = -60.0
BALANCE_DB = 20.0
"""Two channels whose levels are further apart are a recording and its noise."""
LIKE = 0.3
"""Correlation from which on two channels hold the same sound."""
SILENCE = 1e-7
"""Of energy: -70 dB below full scale."""
SAMPLE_SCALE = 32768.0


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Return float samples in [-1, 1) as int16, rounded to the nearest, clipped at full scale."""
    with np.errstate(over="ignore"):  # infinity is clipped as well
        scaled = np.rint(waveform * np.float32(SAMPLE_SCALE))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


class Mixer:
    """One recording's blocks into one channel each; what it saw is told at the end."""

    def __init__(self, name: str, channel: int | None) -> None:
        """Begin a recording.

        Args:
            name: how errors call it.
            channel: the one to take, from 0 on; None mixes all.
        """
        self._name, self._channel = name, channel
        self._products: np.ndarray | None = None  # (channels, channels): sums of products
        self._mix_energy = 0.0
        self._num_samples = 0
        self._rest: np.ndarray | None = None  # (samples, channels): less than a frame
        self._levels: list[np.ndarray] = []  # each (frames, channels), decibels

    def mix(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """Return a block as int16 `(samples,)`.

        Args:
            samples: `(samples, channels)`, int16 or float32 in [-1, 1).
            rate_hz: their rate.

        Raises:
            AudioError: there is no such channel, or samples are not finite numbers.
        """
        is_int = samples.dtype == np.int16
        if not is_int and not np.isfinite(samples).all():
            raise AudioError(f"{self._name}: holds samples that are not finite numbers")
        channels = samples.shape[1]
        if channels == 1 or self._channel is not None:
            chosen = self._channel or 0
            if chosen >= channels:
                raise AudioError(
                    f"{self._name}: has {channels} channels, counted from 0, expected channel "
                    f"{chosen}; choose another one"
                )
            one = np.ascontiguousarray(samples[:, chosen])
            return one if is_int else to_int16(one)
        with np.errstate(over="ignore", invalid="ignore"):
            mixed: np.ndarray = samples.mean(axis=1, dtype=np.float32)  # (samples,)
        waveform = samples.astype(np.float32)
        if is_int:
            mixed = mixed / np.float32(SAMPLE_SCALE)
            waveform = waveform / np.float32(SAMPLE_SCALE)
        if not is_int and not np.isfinite(mixed).all():
            raise AudioError(f"{self._name}: holds samples too large to be mixed")
        self._look_at(np.clip(waveform, -1, 1), np.clip(mixed, -1, 1), rate_hz)
        return to_int16(mixed)

    def _look_at(self, waveform: np.ndarray, mixed: np.ndarray, rate_hz: int) -> None:
        products = np.einsum("ij,ik->jk", waveform, waveform, dtype=np.float64)
        if self._products is None:
            self._products = products
        elif self._products.shape == products.shape:
            self._products += products
        self._mix_energy += float(np.einsum("i,i->", mixed, mixed, dtype=np.float64))
        self._num_samples += len(mixed)
        length = round(FRAME_SECONDS * rate_hz)
        if self._rest is not None and self._rest.shape[1] == waveform.shape[1]:
            waveform = np.concatenate([self._rest, waveform])
        num_frames = len(waveform) // length
        self._rest = waveform[num_frames * length :]
        frames = waveform[: num_frames * length].reshape(num_frames, length, waveform.shape[1])
        energy = np.einsum("fsc,fsc->fc", frames, frames) / length
        self._levels.append(10 * np.log10(np.maximum(energy, SILENCE)))

    @property
    def caution(self) -> str | None:
        """What is wrong with the mix, a sentence without the recording's name; None: nothing."""
        if self._products is None or not self._num_samples:
            return None
        energies = np.maximum(np.diag(self._products) / self._num_samples, 1e-20)
        levels = 10 * np.log10(energies)
        mix_level = 10 * math.log10(max(self._mix_energy / self._num_samples, 1e-20))
        channels = len(levels)
        if levels.max() < ACTIVE_DBFS:
            return None
        if mix_level < levels.max() - 20 * math.log10(channels) - CANCELLING_DB:
            return (
                f"its {channels} channels cancel: {levels.max():.1f} dB in the loudest, "
                f"{mix_level:.1f} dB mixed; choose one of them"
            )
        for first in range(channels):
            for second in range(first + 1, channels):
                pair = [first, second]
                if levels[pair].min() < max(ACTIVE_DBFS, levels[pair].max() - BALANCE_DB):
                    continue
                scale = math.sqrt(np.diag(self._products)[pair].prod())
                alike = float(self._products[first, second]) / scale
                if abs(alike) < LIKE and self._are_apart(pair):
                    return (
                        f"its channels {first} and {second} hold different sounds (correlation "
                        f"{abs(alike):.2f}), such as two talkers; choose one of them"
                    )
        return None

    def _are_apart(self, pair: list[int]) -> bool:
        """Return whether two channels are loud at different times, or neither ever changes.

        Two microphones before one talker may be out of phase, yet they rise and fall together.
        """
        same = [levels[:, pair] for levels in self._levels if levels.shape[1] > pair[1]]
        levels = np.concatenate(same) if same else np.empty((0, 2))
        if len(levels) < LEAST_FRAMES:
            return False
        if levels.std(axis=0).min() < 1.0:
            return True
        return float(np.corrcoef(levels.T)[0, 1]) < LIKE
