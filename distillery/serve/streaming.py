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
from torch.nn import functional as F

from distillery.data.feature_constants import LOG_FLOOR
from distillery.data.features import Extractor, KaldiFbank, LogMel
from distillery.data.kaldi import KaldiStream
from distillery.data.normalisation import RunningNormaliser
from distillery.decoder.decoder import Decoder
from distillery.decoder.search import Search
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from distillery.models.base import Teacher
from distillery.models.decoding import BLANK_INDEX
from distillery.models.layers import StreamingNetwork
from distillery.models.recogniser import Recogniser
from distillery.serve.texts import letters_alone


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


class StreamingRecogniser:
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
            raise ModelError(
                f"model: {recogniser.architecture.type} with features normalised "
                f"{recogniser.features.normalise!r} waits for the end of an utterance; expected "
                "a student such as causal_conv with features normalised 'running'"
            )
        assert isinstance(recogniser.network, StreamingNetwork)
        self.recogniser = recogniser
        self.features = feature_stream(recogniser.extractor)
        self.network = recogniser.network.stream()
        self.path = GreedyPath()
        self.has_ended = False
        if decoder is None and hot_words:
            decoder = letters_alone(recogniser.vocabulary)
        self.search: Search | None = None if decoder is None else decoder.begin(hot_words)

    @property
    def text(self) -> str:
        """The text so far. Of a search it may still change, until the utterance has ended."""
        if self.search is None:
            return self.recogniser.vocabulary.decode(self.path.tokens)
        return self.search.finish()[0].text if self.has_ended else self.search.text

    @property
    def settled_text(self) -> str:
        """The part of the text that what is to come cannot change; at the end all of it."""
        if self.search is None or self.has_ended:
            return self.text
        return self.search.settled_text

    @torch.inference_mode()
    def push(self, waveform: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return the log-probabilities `(new frames, vocab)` that this chunk settles.

        Args:
            waveform: the next samples `(samples,)`, float32 in [-1, 1); there may be none.
            last: whether the utterance ends here.

        Raises:
            ModelError: it had ended.
        """
        if self.has_ended:
            raise ModelError("stream: a chunk came after the last one; start a new stream")
        self.has_ended = last
        features = self.features.push(torch.from_numpy(waveform), last=last)
        scores = self.network.push(features.to(self.recogniser.device), last=last)
        log_probs: np.ndarray = scores.float().log_softmax(dim=-1).cpu().numpy()
        self.path.push(log_probs)
        if self.search is not None:
            self.search.push(log_probs)
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
        # torch centres a window that is shorter than the transform.
        start = (self.num_fft - len(self.window)) // 2
        self.reach_samples = start + len(self.window) - self.num_fft // 2
        self.held = torch.zeros(self.num_fft // 2)  # what lies before the first sample
        self.num_unread = 0  # samples to come that no frame reads: hops longer than a window
        self.num_samples = 0
        self.num_frames = 0

    def push(self, samples: Tensor, *, last: bool = False) -> Tensor:
        """Return the features `(new feature_frames, mels)` that these samples `(samples,)` settle.

        Args:
            samples: the next ones; there may be none.
            last: whether the utterance ends here.
        """
        hop = self.extractor.hop_samples
        self.num_samples += len(samples)
        settled = self.num_samples - (0 if last else self.reach_samples)
        num_new = max(0, settled // hop + 1 - self.num_frames)
        self.num_frames += num_new
        held = self._drop(torch.cat([self.held, samples]), self.num_unread)
        if not num_new:
            self.held = held
            return samples.new_zeros(0, self.extractor.mel.n_mels)
        span = (num_new - 1) * hop + self.num_fft
        # What is missing lies behind the end, or where the window is 0.
        frames = F.pad(held, (0, max(0, span - len(held))))[:span]
        self.held = self._drop(held, num_new * hop)
        power = torchaudio.functional.spectrogram(
            frames,
            pad=0,
            window=self.window,
            n_fft=self.num_fft,
            hop_length=hop,
            win_length=len(self.window),
            power=2.0,
            normalized=False,
            center=False,
        )  # (bins, new feature_frames)
        return self.normaliser(torch.log(self.extractor.mel.mel_scale(power) + LOG_FLOOR).T)

    def _drop(self, samples: Tensor, count: int) -> Tensor:
        self.num_unread = max(0, count - len(samples))
        return samples[count:]


class GreedyPath:
    """The best path through log-probabilities that come in pieces, repeats and blanks collapsed."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.frames: list[int] = []
        """The frame in which each token begins."""
        self.num_frames = 0
        self._former = BLANK_INDEX

    def push(self, log_probs: np.ndarray) -> None:
        """Go on with the frames `(frames, vocab)`."""
        for frame, token in enumerate(log_probs.argmax(axis=-1).tolist(), self.num_frames):
            if token not in (self._former, BLANK_INDEX):
                self.tokens.append(token)
                self.frames.append(frame)
            self._former = token
        self.num_frames += len(log_probs)
