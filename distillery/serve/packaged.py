"""A student out of a package that was handed over: NumPy and ONNX Runtime alone.

It is not imported here but by `make package`, which copies what it needs of this library into the
package; see pruned.py. A package holds what a registered version holds, unpacked:

    config.json, tokens.txt         features as settings, and the tokens
    model.onnx, model.int8.onnx     the network, in one format or both
    decoder.lm, decoder.json        where texts are searched
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import onnxruntime

from distillery.data.audio import as_waveform
from distillery.data.decoding.channels import to_int16
from distillery.data.text import Vocabulary
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.serve.long_audio import Layout, is_long, scores_in_windows
from distillery.serve.numpy_features import numpy_features
from distillery.serve.texts import text_of

if TYPE_CHECKING:
    from distillery.params.models import FeatureParams


@dataclass(frozen=True)
class Features:
    """`FeatureParams` without pydantic; a test compares the two."""

    type: str = "log_mel"
    num_mels: int = 64
    window_seconds: float = 0.025
    hop_seconds: float = 0.01
    normalise: str = "bands"


class PackagedRecogniser:
    """Turns recordings into the texts that `distillery transcribe` gives."""

    def __init__(self, folder: Path, model_file: str) -> None:
        """Load a package.

        Args:
            folder: where it lies.
            model_file: the network in it.
        """
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self.sample_rate_hz = int(config["sample_rate_hz"])
        self.features = Features(**config["features"])
        known = ("type", "time_reduction", "num_blocks", "kernel_size")
        self.layout = Layout(**{k: v for k, v in config["architecture"].items() if k in known})
        params = cast("FeatureParams", self.features)
        self.extractor = numpy_features(params, self.sample_rate_hz)
        self.vocabulary = Vocabulary.load(folder / "tokens.txt")
        self.decoder = Decoder.find(folder, self.vocabulary)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path, providers = str(folder / model_file), ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)

    def text(self, samples: np.ndarray, hot_words: Sequence[str] = (), weight: float = 4.0) -> str:
        """Return what is said in a recording.

        Args:
            samples: `(samples,)` or `(samples, channels)`, float32 in [-1, 1), at `sample_rate_hz`.
            hot_words: words and phrases that are expected, in the letters of tokens.txt.
            weight: what each of them adds to a text's score, in nats.

        Raises:
            ModelError: a hot word cannot be written with the tokens.
        """
        if samples.ndim == 2:
            samples = samples.mean(axis=1, dtype=np.float32)
        samples = to_int16(samples)
        expected = [HotWord.written(text, weight, self.vocabulary) for text in hot_words]
        return text_of(self.scores(samples), self.vocabulary, self.decoder, expected)

    def scores(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield log-probabilities `(frames, vocab)` of `(samples,)`, in windows where it is long.

        Args:
            samples: int16 or float32 in [-1, 1), at `sample_rate_hz`.
        """
        if is_long(len(samples), self.sample_rate_hz):
            hop = self.features.hop_seconds
            yield from scores_in_windows([samples], self.extractor, self.layout, hop, self.run)
        else:
            yield self.run(self.extractor(as_waveform(samples))[None])[0]

    def run(self, features: np.ndarray) -> np.ndarray:
        """Return log-probabilities `(1, frames, vocab)` of `(1, feature_frames, mels)`."""
        log_probs: np.ndarray = self.session.run(["log_probs"], {"features": features})[0]
        return log_probs
