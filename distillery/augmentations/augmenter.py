"""Batches of augmented audio with targets that fit it.

For each utterance: reverberation, noise, gain, crop; then pairs are joined and features made. What
is drawn is a function of the seed, the epoch, the step in it and the utterance's audio key, and
each augmentation has a stream of its own: a run that was killed goes on with the same draws, a
control gets the same audio as its student, and switching one on leaves the others' draws alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.augmentations.base import WaveformAugmentation
from distillery.augmentations.concatenation import Concatenation, join
from distillery.augmentations.crop import Crop, cut
from distillery.augmentations.gain import Gain
from distillery.augmentations.noise import Noise, generated_noises
from distillery.augmentations.retiming import Piece, retime, what_is_known
from distillery.augmentations.reverberation import Reverberation
from distillery.augmentations.sounds import Sounds, read_sounds
from distillery.data.features import Extractor, pad
from distillery.params.augmentation import AugmentationParams
from distillery.training.batches import Batch, Moment

SOUNDS_FILE = "sounds.json"
"""Beside a student: SHA-256 of the recordings that its augmentation drew from."""
STREAMS = ("reverberation", "noise", "gain", "crop", "concatenate")
"""In the order in which they happen; a place in it is a stream of random numbers."""


@dataclass(frozen=True)
class Effects:
    """The augmentations that are switched on."""

    of_waveforms: Mapping[str, WaveformAugmentation]
    """By setting, in the order of STREAMS."""
    crop: Crop | None = None
    concatenation: Concatenation | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the recordings that an augmentation draws from, by its setting."""

    @classmethod
    def build(cls, params: AugmentationParams, root: Path, sample_rate_hz: int) -> Effects:
        """Prepare what the settings ask for; folders are read.

        Args:
            params: settings.
            root: where the settings' folders start from.
            sample_rate_hz: of the audio.

        Raises:
            CorpusError: a folder is not there, holds no recording, or a damaged one.
        """
        effects: dict[str, WaveformAugmentation] = {}
        digests = {}

        def recordings(name: str, folder: str | None) -> Sequence[np.ndarray]:
            if folder is None:
                return ()
            sounds: Sounds = read_sounds(
                root / folder, sample_rate_hz, f"distill.augmentation.{name}.folder"
            )
            digests[name] = sounds.digest
            return sounds.recordings

        if (room := params.reverberation) is not None:
            responses = recordings("reverberation", room.folder)
            effects["reverberation"] = Reverberation(room, sample_rate_hz, responses)
        if (noise := params.noise) is not None:
            noises = recordings("noise", noise.folder)
            effects["noise"] = Noise(noise, noises or generated_noises(sample_rate_hz))
        if params.gain is not None:
            effects["gain"] = Gain(params.gain)
        return cls(
            effects,
            Crop(params.crop) if params.crop else None,
            Concatenation(params.concatenate) if params.concatenate else None,
            digests,
        )


@dataclass(frozen=True)
class Augmenter:
    """What changes the batches of one training set."""

    effects: Effects
    waveform_of: Callable[[int], np.ndarray]
    """The audio of a row of the training set, float32 `(samples,)`."""
    keys: Sequence[str]
    """Audio keys of the rows."""
    extractor: Extractor
    time_reduction: int
    """Feature frames per frame of the student."""
    rate_ratio: int
    """Teacher frames per frame of the student."""
    between: Sequence[int]
    """The tokens between two texts that are joined."""
    seed: int

    def __call__(self, batch: Batch, rows: Sequence[int], moment: Moment) -> Batch:
        """Return a batch of augmented audio.

        Args:
            batch: targets of whole utterances; its features are not read.
            rows: of the training set, one for each utterance in the batch.
            moment: which step this is.
        """
        waveforms = [self._waveform(row, moment) for row in rows]
        whole = [
            self._piece(batch, position, row, len(waveforms[position]), moment)
            for position, row in enumerate(rows)
        ]
        groups = self._groups(batch, whole, moment)
        changed = [self._audio(group, waveforms) for group in groups]
        features, lengths = pad([self.extractor(waveform) for waveform in changed])
        retimed = retime(batch, groups, self.rate_ratio, self.between)
        return replace(retimed, features=features, feature_lengths=lengths)

    @property
    def frame_samples(self) -> int:
        """Samples from one frame of the student to the next."""
        return self.extractor.hop_samples * self.time_reduction

    def num_frames(self, num_samples: int) -> int:
        """Return the student's frames of a waveform."""
        return -(-self.extractor.num_frames(num_samples) // self.time_reduction)

    def _random(self, stream: str, moment: Moment, key: str = "0") -> np.random.Generator:
        entropy = [self.seed, moment.epoch, moment.step, STREAMS.index(stream), int(key[:16], 16)]
        return np.random.default_rng(entropy)

    def _waveform(self, row: int, moment: Moment) -> Tensor:
        waveform = torch.from_numpy(self.waveform_of(row))
        for name, effect in self.effects.of_waveforms.items():
            waveform = effect(waveform, self._random(name, moment, self.keys[row]))
        return waveform

    def _piece(
        self, batch: Batch, position: int, row: int, num_samples: int, moment: Moment
    ) -> Piece:
        """Return what is kept of an utterance; one that has no frames to slice is kept whole."""
        num_frames, crop = self.num_frames(num_samples), self.effects.crop
        kept = None
        if crop is not None and batch.teacher_lengths[position] > 0:
            kept = crop.draw(num_frames, self._random("crop", moment, self.keys[row]))
        if kept is None:
            return Piece(position, 0, num_frames, is_whole=True)
        return Piece(position, *kept, is_whole=False)

    def _groups(self, batch: Batch, pieces: Sequence[Piece], moment: Moment) -> list[list[Piece]]:
        """Return pieces in the groups that are joined; of a pair with unlike targets each alone."""
        concatenation = self.effects.concatenation
        if concatenation is None:
            return [[piece] for piece in pieces]
        groups = []
        for drawn in concatenation.draw(len(pieces), self._random("concatenate", moment)):
            group = [pieces[position] for position in drawn]
            alike = len({what_is_known(batch, piece) for piece in group}) == 1
            groups += [group] if alike else [[piece] for piece in group]
        return groups

    def _audio(self, group: Sequence[Piece], waveforms: Sequence[Tensor]) -> Tensor:
        parts = [self._part(piece, waveforms[piece.position]) for piece in group]
        return join(parts, [piece.num_frames for piece in group], self.frame_samples)

    def _part(self, piece: Piece, waveform: Tensor) -> Tensor:
        if piece.is_whole:
            return waveform
        return cut(waveform, piece.start, piece.num_frames, self.frame_samples)
