"""An exported student while the audio arrives, run by ONNX Runtime; PyTorch is not imported.

The network is the one that hears whole recordings, in floats or integers. A convolution hears so
many frames and no more, so with every chunk it runs over the new features and those in front of
them that they depend on, as in windows of long recordings: what it says of a frame is what it says
of it in the whole. docs/decisions/0034-streaming-endpoint.md has what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distillery.data.kaldi import KaldiStream
from distillery.decoder.trie import HotWord
from distillery.serve.growing_text import GrowingText, waits_for_the_end
from distillery.serve.log_mel import LogMelSpans, NumpyLogMel
from distillery.serve.normalised_features import NormaliserSoFar, NumpyFeatures
from distillery.serve.numpy_features import NumpyKaldi
from distillery.serve.onnx_recogniser import OnnxRecogniser

STREAMING_TYPE, STREAMING_NORMALISE = "causal_conv", "running"


class OnnxStream(GrowingText):
    """An exported student on its way through one utterance."""

    def __init__(self, student: OnnxRecogniser, hot_words: Sequence[HotWord] = ()) -> None:
        """Start an utterance.

        Args:
            student: in any of its formats; it may be on its way through others, too.
            hot_words: more than its decoder's own.

        Raises:
            ModelError: network or features wait for an utterance's end, or a hot word cannot be
                written.
        """
        kind, normalise = student.layout.type, student.features.normalise
        if (kind, normalise) != (STREAMING_TYPE, STREAMING_NORMALISE):
            raise waits_for_the_end(kind, normalise)
        super().__init__(student.vocabulary, student.decoder, hot_words)
        self.student = student
        self.energies = _energies(student.extractor)
        self.normaliser = NormaliserSoFar()
        self.context_frames = student.layout.context_frames(student.features.hop_seconds)
        self.held = np.zeros((0, student.features.num_mels), np.float32)
        self.held_from = 0  # which feature frame `held` begins with, the first of an output frame
        self.num_frames = 0  # output frames that were given

    def _settled(self, waveform: np.ndarray, *, last: bool) -> np.ndarray:
        layout = self.student.layout
        reduction = layout.time_reduction
        features = self.normaliser(self.energies.push(waveform, last=last))
        self.held = np.concatenate([self.held, features])
        num_heard = -(-(self.held_from + len(self.held)) // reduction)  # output frames begun
        num_settled = num_heard if last else num_heard - layout.lookahead_frames
        if num_settled <= self.num_frames:
            return np.zeros((0, len(self.vocabulary)), np.float32)
        scores = self.student.run(self.held[None])[0]  # (frames, vocab)
        first = self.held_from // reduction
        found: np.ndarray = scores[self.num_frames - first : num_settled - first]
        self.num_frames = num_settled
        kept_from = max(0, num_settled * reduction - self.context_frames)
        self.held = self.held[kept_from - self.held_from :].copy()
        self.held_from = kept_from
        return found


class EnergyStream(Protocol):
    """Log energies on their way through one utterance."""

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return `(new feature_frames, mels)` for the next samples `(samples,)`, float32."""


def _energies(extractor: NumpyFeatures) -> EnergyStream:
    if isinstance(extractor, NumpyKaldi):
        return KaldiStream(extractor.bank)
    assert isinstance(extractor, NumpyLogMel)
    return _LogMelStream(extractor)


class _LogMelStream:
    """Log-mel energies of one utterance, frame by frame as its samples arrive."""

    def __init__(self, extractor: NumpyLogMel) -> None:
        self.extractor = extractor
        hop = extractor.hop_samples
        self.spans = LogMelSpans(extractor.size, extractor.window_samples, hop)

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """As `EnergyStream`."""
        span = self.spans.push(samples, last=last)
        if not len(span):
            return np.zeros((0, self.extractor.filters.shape[1]), np.float32)
        return self.extractor.logs_of(span)
