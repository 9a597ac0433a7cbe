"""Recognition while the audio arrives: chunks in, log-probabilities and a growing text out.

Samples, features and convolutions keep what later outputs need, so that the pieces together are
what the whole utterance would have given, wherever it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import numpy as np
import torch
import torchaudio
from torch import Tensor

from distillery.data.feature_constants import LOG_FLOOR
from distillery.data.features import Extractor, KaldiFbank, LogMel
from distillery.data.kaldi import KaldiStream
from distillery.data.normalisation import RunningNormaliser
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.models.base import Teacher
from distillery.models.layers import StreamingNetwork
from distillery.models.recogniser import Recogniser
from distillery.serve.growing_text import GrowingText, waits_for_the_end
from distillery.serve.log_mel import LogMelSpans


def can_stream(recogniser: Teacher) -> TypeGuard[Recogniser]:
    """Return whether neither network nor features wait for the end of an utterance."""
    return (
        isinstance(recogniser, Recogniser)
        and isinstance(recogniser.network, StreamingNetwork)
        and recogniser.features.normalise == "running"
    )


def algorithmic_latency_seconds(recogniser: Recogniser) -> float:
    """Return the longest time from a sound to the output of its frame, in seconds.

    Computing and chunks come on top. Frame t stands for the sounds since frame t - 1, the first of
    which have waited for one frame; it then waits for its lookahead and for the half of the
    analysis window behind its instant.
    """
    assert isinstance(recogniser.network, StreamingNetwork)
    frames = recogniser.network.lookahead_frames + 1
    return frames * recogniser.frame_shift_seconds + recogniser.features.window_seconds / 2


class StreamingRecogniser(GrowingText):
    """A recogniser on its way through one utterance."""

    def __init__(
        self,
        recogniser: Recogniser,
        decoder: Decoder | None = None,
        hot_words: Sequence[HotWord] = (),
    ) -> None:
        """Start an utterance.

        Args:
            recogniser: the student.
            decoder: what its text is searched with; None: the best path, or where there are hot
                words a search with these alone.
            hot_words: more than the decoder's own.

        Raises:
            ModelError: network or features wait for an utterance's end, or a hot word cannot be
                written.
        """
        if not can_stream(recogniser):
            raise waits_for_the_end(recogniser.architecture.type, recogniser.features.normalise)
        assert isinstance(recogniser.network, StreamingNetwork)
        super().__init__(recogniser.vocabulary, decoder, hot_words)
        self.recogniser = recogniser
        self.features = feature_stream(recogniser.extractor)
        self.network = recogniser.network.stream()

    @torch.inference_mode()
    def _settled(self, waveform: np.ndarray, *, last: bool) -> np.ndarray:
        features = self.features.push(torch.from_numpy(waveform), last=last)
        scores = self.network.push(features.to(self.recogniser.device), last=last)
        log_probs: np.ndarray = scores.float().log_softmax(dim=-1).cpu().numpy()
        return log_probs


class FeatureStream(Protocol):
    """Features on their way through one utterance."""

    def push(self, samples: Tensor, *, last: bool = False) -> Tensor:
        """Return the features `(new feature_frames, mels)` that these samples `(samples,)` settle.

        Args:
            samples: the next ones; there may be none.
            last: whether the utterance ends here.
        """


def feature_stream(extractor: Extractor) -> FeatureStream:
    """Return what makes of an utterance's pieces what the extractor makes of the whole."""
    if isinstance(extractor, KaldiFbank):
        return KaldiFbankStream(extractor)
    assert isinstance(extractor, LogMel)
    return LogMelStream(extractor)


class KaldiFbankStream:
    """Kaldi's features of one utterance, frame by frame as its samples arrive, normalised."""

    def __init__(self, extractor: KaldiFbank) -> None:
        self.stream = KaldiStream(extractor.bank)
        self.normaliser = RunningNormaliser()

    def push(self, samples: Tensor, *, last: bool = False) -> Tensor:
        """Return the features `(new feature_frames, mels)` that these samples `(samples,)` settle.

        Args:
            samples: the next ones; there may be none.
            last: whether the utterance ends here.
        """
        logs = self.stream.push(samples.numpy(), last=last)
        return self.normaliser(torch.from_numpy(logs))


class LogMelStream:
    """Log-mel features of one utterance, frame by frame as its samples arrive.

    Frame t is centred on sample `t * hop`; it is there once the half of its window behind that
    sample is. Zeros stand before the start and behind the end, as in `LogMel`.
    """

    def __init__(self, extractor: LogMel) -> None:
        self.extractor = extractor
        self.normaliser = RunningNormaliser()
        spectrogram = extractor.mel.spectrogram
        self.num_fft, self.window = spectrogram.n_fft, spectrogram.window
        self.spans = LogMelSpans(self.num_fft, len(self.window), extractor.hop_samples)

    def push(self, samples: Tensor, *, last: bool = False) -> Tensor:
        """Return the features `(new feature_frames, mels)` that these samples `(samples,)` settle.

        Args:
            samples: the next ones; there may be none.
            last: whether the utterance ends here.
        """
        span = self.spans.push(samples.numpy(), last=last)
        if not len(span):
            return samples.new_zeros(0, self.extractor.mel.n_mels)
        power = torchaudio.functional.spectrogram(
            torch.from_numpy(span),
            pad=0,
            window=self.window,
            n_fft=self.num_fft,
            hop_length=self.extractor.hop_samples,
            win_length=len(self.window),
            power=2.0,
            normalized=False,
            center=False,
        )  # (bins, new feature_frames)
        return self.normaliser(torch.log(self.extractor.mel.mel_scale(power) + LOG_FLOOR).T)
