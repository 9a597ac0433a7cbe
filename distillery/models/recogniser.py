"""A recogniser as it is saved, loaded and used: features, network and tokens in one piece.

A saved recogniser is a folder without pickles:

    model.safetensors  weights
    config.json        architecture, features, sample rate
    tokens.txt         one token a line, the blank first
    subwords.model     of tokens that are pieces of words: what cuts texts into them
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distillery.data.audio import as_waveform
from distillery.data.features import Extractor, extractor_of, pad
from distillery.data.subwords import load_vocabulary
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, write_bytes, write_json
from distillery.models.decoding import greedy_text
from distillery.models.layers import Network
from distillery.params.models import FeatureParams, StudentArchitecture

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
RECOGNISER = "recogniser"
"""What `saved_kind` calls a model that was made here."""
TOKENS_FILE = "tokens.txt"

Architecture = StudentArchitecture
"""Of teachers, too: what can be a teacher can be a student."""
Networks = Mapping[str, Callable[[Any, int, int], Network]]
_ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(StudentArchitecture)


@dataclass(frozen=True)
class Outputs:
    """What a model says about a batch; frames behind an utterance's end mean nothing.

    A model that gives no frames gives `hypotheses` and `confidences`, and `num_frames` are those of
    its hidden states, 0 where there are none. One that finds its texts in its own way gives both.
    """

    log_probs: np.ndarray | None  # (batch, frames, vocab), float32
    num_frames: list[int]
    hidden: dict[str, np.ndarray]  # by layer: (batch, frames, width), float32
    hypotheses: Sequence[Sequence[tuple[str, float]]] | None = None  # texts, best first, and ln P
    confidences: Sequence[float] | None = None  # in (0, 1]
    languages: Sequence[str] = ()  # that a model which detects them heard, of each utterance

    @property
    def items(self) -> list[np.ndarray]:
        """Log-probabilities `(frames, vocab)` of each utterance; without frames `(frames, 0)`."""
        if self.log_probs is None:
            return [np.zeros((n, 0), np.float32) for n in self.num_frames]
        return [self.log_probs[row, :n] for row, n in enumerate(self.num_frames)]


@dataclass
class Recogniser:
    """A trained network with everything that is needed to turn audio into text."""

    network: Network
    architecture: Architecture
    features: FeatureParams
    vocabulary: Vocabulary
    sample_rate_hz: int
    device: str = "cpu"

    @classmethod
    def load(cls, folder: Path, networks: Networks, device: str = "cpu") -> Recogniser:
        """Read a saved recogniser, ready for inference.

        Args:
            folder: where it was saved.
            networks: the architectures that it may have, by name.
            device: where it shall run.

        Raises:
            ModelError: a file is missing or damaged, or the weights do not fit the configuration.
        """
        try:
            config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
            architecture = _ARCHITECTURE.validate_python(config["architecture"])
            features = FeatureParams.model_validate(config["features"])
            rate = int(config["sample_rate_hz"])
        except FileNotFoundError:
            raise ModelError(f"{folder}: holds no {CONFIG_FILE}; expected a saved model") from None
        except (KeyError, ValueError, ValidationError) as error:
            raise ModelError(f"{folder / CONFIG_FILE}: cannot be used: {error}") from None
        vocabulary = load_vocabulary(folder / TOKENS_FILE)
        if architecture.type not in networks:
            raise ModelError(
                f"{folder / CONFIG_FILE}: architecture {architecture.type!r}, expected one of "
                f"{sorted(networks)}"
            )
        network = networks[architecture.type](architecture, features.num_mels, len(vocabulary))
        weights = folder / WEIGHTS_FILE
        try:
            network.load_state_dict(load_file(weights))
        except FileNotFoundError:
            raise ModelError(f"{weights}: no such file; run the stage that makes it") from None
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"{weights}: does not fit {CONFIG_FILE} and {TOKENS_FILE}: {error}"
            ) from None
        return cls(network.eval().to(device), architecture, features, vocabulary, rate, device)

    def save(self, folder: Path) -> None:
        """Write the recogniser into an existing folder; equal recognisers give equal bytes."""
        save_weights(self.network, folder)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return {
            "architecture": self.architecture.model_dump(),
            "features": self.features.model_dump(),
            "sample_rate_hz": self.sample_rate_hz,
        }

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one output frame to the next, in seconds."""
        return self.features.hop_seconds * self.network.time_reduction

    @property
    def num_parameters(self) -> int:
        """Trainable parameters."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def layer_widths(self) -> dict[str, int]:
        """Widths of the network's hidden layers."""
        return {name: width for name, (_, width) in self.network.layers.items()}

    @property
    def gives_frames(self) -> bool:
        """Always: every network here is a CTC one."""
        return True

    @property
    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights and buffers."""
        return digest_of_weights(self.network)

    @cached_property
    def extractor(self) -> Extractor:
        """What makes features of waveforms."""
        return extractor_of(self.features, self.sample_rate_hz)

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio of this rate is what the recogniser was made for.

        Raises:
            ModelError: it was trained at another rate.
        """
        if sample_rate_hz != self.sample_rate_hz:
            raise ModelError(
                f"model: made for {self.sample_rate_hz} Hz, the audio has {sample_rate_hz} Hz; "
                "set prepare.sample_rate_hz to the model's rate, or train the model again"
            )

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return one batch's features `(batch, feature_frames, mels)` and lengths `(batch,)`.

        Args:
            waveforms: audio at `sample_rate_hz`, each `(samples,)`, float32 in [-1, 1) or int16.
        """
        return pad([self.extractor(torch.from_numpy(as_waveform(w))) for w in waveforms])

    @torch.inference_mode()
    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return what the network says about one batch of features.

        Args:
            features: `(batch, feature_frames, mels)`.
            lengths: `(batch,)`.
            layers: hidden layers wanted, of `network.layers`.
            precision: arithmetic of the network: fp32, bf16 or fp16.

        Raises:
            ModelError: the network has no such layer.
        """
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        cast = torch.autocast(torch.device(self.device).type, dtype, enabled=dtype is not None)
        with self.network.recording(layers) as hidden, cast:
            scores, lengths = self.network(features.to(self.device), lengths.to(self.device))
        return Outputs(
            scores.float().log_softmax(dim=-1).cpu().numpy(),
            lengths.tolist(),
            {name: values.float().cpu().numpy() for name, values in hidden.items()},
        )

    def log_probs(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return log-probabilities `(frames, vocab)`, float32, for waveforms `(samples,)`.

        Args:
            waveforms: float32 audio in [-1, 1) at `sample_rate_hz`; together one batch.
        """
        return self.forward(*self.extract(waveforms)).items

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the greedy transcripts of a batch of waveforms `(samples,)`."""
        return [greedy_text(item, self.vocabulary) for item in self.log_probs(waveforms)]


def saved_kind(folder: Path) -> str:
    """Return which kind of model a folder holds; config.json names it unless it was made here.

    Raises:
        ModelError: config.json is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        return str(json.loads(path.read_text("utf-8")).get("kind", RECOGNISER))
    except FileNotFoundError:
        raise ModelError(f"{folder}: holds no {CONFIG_FILE}; expected a saved teacher") from None
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write a module's weights into model.safetensors; equal modules give equal bytes."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    state = {name: t.detach().cpu().contiguous().clone() for name, t in module.state_dict().items()}
    write_bytes(folder / WEIGHTS_FILE, save(dict(sorted(state.items()))))


def digest_of_weights(module: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
