"""A student as PyTorch runs it, for recordings of any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from distillery.data.audio import as_waveform
from distillery.data.text import Vocabulary
from distillery.decoder.confidence import Confidence
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.decoder.words import Transcript
from distillery.models.recogniser import Recogniser
from distillery.serve.long_audio import Layout, Sound, blocks_of, is_short, scores_in_windows
from distillery.serve.normalised_features import NumpyFeatures
from distillery.serve.numpy_features import numpy_features
from distillery.serve.texts import text_of
from distillery.serve.transcripts import Scribe


@dataclass(frozen=True)
class TorchTranscriber:
    """A `Recogniser` that transcribes; short recordings go through it as a batch."""

    recogniser: Recogniser
    decoder: Decoder | None = None
    """What its texts are searched with; None: they are best paths."""
    confidence: Confidence | None = None

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms that it is given, in hertz."""
        return self.recogniser.sample_rate_hz

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokens."""
        return self.recogniser.vocabulary

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""
        return self.recogniser.weights_digest

    def transcribe(
        self, recordings: Sequence[Sound], hot_words: Sequence[HotWord] = ()
    ) -> list[str]:
        """Return the texts of recordings.

        Args:
            recordings: of any length.
            hot_words: more than the decoder's own.

        Raises:
            AudioError: blocks of a recording cannot be read.
            ModelError: a hot word cannot be written with the student's tokens.
        """
        rate, vocabulary = self.sample_rate_hz, self.vocabulary
        short = [item for item in recordings if is_short(item, rate)]
        texts = iter(self._short_texts(short, hot_words) if short else [])
        return [
            next(texts)
            if is_short(item, rate)
            else text_of(self._windows(blocks_of(item)), vocabulary, self.decoder, hot_words)
            for item in recordings
        ]

    def recognise(
        self, samples: np.ndarray, hot_words: Sequence[HotWord] = (), num_hypotheses: int = 0
    ) -> Transcript:
        """Return the text of a waveform with the times and confidences of its words.

        Args:
            samples: `(samples,)`, float32 in [-1, 1) or int16; it goes through as a whole.
            hot_words: more than the decoder's own.
            num_hypotheses: texts wanted that may have been spoken.

        Raises:
            ModelError: a hot word cannot be written with the student's tokens.
        """
        student = self.recogniser
        (log_probs,) = student.forward(*student.extract([as_waveform(samples)])).items
        shift = student.frame_shift_seconds
        scribe = Scribe(student.vocabulary, shift, self.decoder, self.confidence)
        return scribe.transcript(log_probs, hot_words, num_hypotheses)

    def _short_texts(
        self, waveforms: Sequence[np.ndarray], hot_words: Sequence[HotWord]
    ) -> list[str]:
        recogniser = self.recogniser
        if self.decoder is None and not hot_words:
            return recogniser.transcribe(waveforms)
        items = recogniser.forward(*recogniser.extract([as_waveform(w) for w in waveforms])).items
        return [text_of([i], recogniser.vocabulary, self.decoder, hot_words) for i in items]

    @cached_property
    def _extractor(self) -> NumpyFeatures:
        """Gives what the recogniser's own does, but for rounding, and block by block."""
        return numpy_features(self.recogniser.features, self.sample_rate_hz)

    def _windows(self, recording: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        recogniser = self.recogniser
        layout = Layout(
            **{
                name: value
                for name, value in recogniser.architecture.model_dump().items()
                if name in Layout.__dataclass_fields__
            }
        )
        hop_seconds = recogniser.features.hop_seconds
        return scores_in_windows(recording, self._extractor, layout, hop_seconds, self._run)

    @torch.inference_mode()
    def _run(self, features: np.ndarray) -> np.ndarray:
        """Return log-probabilities `(1, frames, vocab)` for `(1, feature_frames, mels)`."""
        device = self.recogniser.device
        scores = self.recogniser.network.scores(torch.from_numpy(features).to(device), None)
        found: np.ndarray = scores.float().log_softmax(dim=-1).cpu().numpy()
        return found
