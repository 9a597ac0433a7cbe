"""An exported student, run by ONNX Runtime; PyTorch is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from distillery.data.audio import as_waveform
from distillery.data.text import Vocabulary
from distillery.decoder.confidence import Confidence
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.decoder.words import Transcript
from distillery.errors import ModelError
from distillery.files import digest_of_file, read_json
from distillery.params.models import FeatureParams
from distillery.serve.long_audio import Layout, Sound, blocks_of, is_short, scores_in_windows
from distillery.serve.normalised_features import NumpyFeatures
from distillery.serve.numpy_features import numpy_features
from distillery.serve.texts import text_of
from distillery.serve.transcripts import Scribe

CONFIG_FILE = "config.json"
TOKENS_FILE = "tokens.txt"
MODEL_FILES: Mapping[str, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
"""Files of an exported student, by format."""
INPUT, OUTPUT = "features", "log_probs"


@dataclass(frozen=True)
class _Config:
    """What config.json says beside the exported network."""

    architecture: Layout
    features: FeatureParams
    sample_rate_hz: int


class OnnxRecogniser:
    """A student's network as ONNX, with everything that is needed to turn audio into text.

    It answers as the `Recogniser` that it was exported from does; where a decoder lies beside it,
    its texts are searched. Utterances go through the network one by one, on one thread.
    """

    def __init__(self, folder: Path, model_format: str) -> None:
        """Load an exported student.

        Args:
            folder: where config.json, tokens.txt and the network lie.
            model_format: a key of MODEL_FILES.

        Raises:
            ModelError: a file is missing, damaged or does not fit the others.
        """
        try:
            config = read_json(folder / CONFIG_FILE, _Config)
        except FileNotFoundError:
            raise ModelError(f"{folder}: holds no {CONFIG_FILE}; expected a saved model") from None
        except ValueError as error:
            raise ModelError(f"{folder / CONFIG_FILE}: cannot be used: {error}") from None
        self.features, self.sample_rate_hz = config.features, config.sample_rate_hz
        self.layout = config.architecture
        self.vocabulary = Vocabulary.load(folder / TOKENS_FILE)
        self.decoder = Decoder.find(folder, self.vocabulary)
        self.confidence = Confidence.find(folder)
        self.path = folder / MODEL_FILES[model_format]
        self.session = _open(self.path)
        widths = (self.session.get_inputs()[0].shape[-1], self.session.get_outputs()[0].shape[-1])
        expected = (self.features.num_mels, len(self.vocabulary))
        if widths != expected:
            raise ModelError(
                f"{self.path}: turns {widths[0]} mel bands into {widths[1]} tokens, expected "
                f"{expected[0]} and {expected[1]} by {CONFIG_FILE} and {TOKENS_FILE}; export the "
                "student again"
            )

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one output frame to the next, in seconds."""
        return self.features.hop_seconds * self.layout.time_reduction

    @property
    def num_bytes(self) -> int:
        """Size of the network's file."""
        return self.path.stat().st_size

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the network's file."""
        return digest_of_file(self.path)

    @cached_property
    def extractor(self) -> NumpyFeatures:
        """What makes features of waveforms."""
        return numpy_features(self.features, self.sample_rate_hz)

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio of this rate is what the student was made for.

        Raises:
            ModelError: it was trained at another rate.
        """
        if sample_rate_hz != self.sample_rate_hz:
            raise ModelError(
                f"{self.path}: made for {self.sample_rate_hz} Hz, the audio has "
                f"{sample_rate_hz} Hz; resample it, or train a student at that rate"
            )

    def run(self, features: np.ndarray) -> np.ndarray:
        """Return log-probabilities `(batch, frames, vocab)`.

        Args:
            features: `(batch, feature_frames, mels)`, float32, all rows as long.
        """
        log_probs: np.ndarray = self.session.run([OUTPUT], {INPUT: features})[0]
        return log_probs

    def log_probs(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return log-probabilities `(frames, vocab)`, float32, for waveforms `(samples,)`.

        Args:
            waveforms: float32 audio in [-1, 1) at `sample_rate_hz`.
        """
        return [
            self.run(self.extractor(waveform)[None])[0]
            if is_short(waveform, self.sample_rate_hz)
            else np.concatenate(list(self._in_windows([waveform])))
            for waveform in waveforms
        ]

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
        return [
            text_of(self._frames(sound), self.vocabulary, self.decoder, hot_words)
            for sound in recordings
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
        log_probs = self.run(self.extractor(as_waveform(samples))[None])[0]
        shift = self.frame_shift_seconds
        scribe = Scribe(self.vocabulary, shift, self.decoder, self.confidence)
        return scribe.transcript(log_probs, hot_words, num_hypotheses)

    def _frames(self, sound: Sound) -> Iterator[np.ndarray]:
        if is_short(sound, self.sample_rate_hz):
            return iter(self.log_probs([as_waveform(sound)]))
        return self._in_windows(blocks_of(sound))

    def _in_windows(self, recording: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        hop_seconds = self.features.hop_seconds
        return scores_in_windows(recording, self.extractor, self.layout, hop_seconds, self.run)


def _open(path: Path) -> onnxruntime.InferenceSession:
    if not path.exists():
        raise ModelError(f"{path}: no such file; run make evaluate, which exports students")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors, which are raised as well
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are derived from Exception, one for each status
        raise ModelError(f"{path}: cannot be loaded: {error}; export the student again") from None
