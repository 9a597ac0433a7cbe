"""A speech recogniser in Hugging Face's layout as the teacher: wav2vec 2.0, HuBERT, WavLM.

Of transformers only the model classes are used. Weights, tokens and preprocessing are read from
the published files here, so that nothing is guessed, filled with random numbers or executed.

Sources: Baevski et al. (2020), "wav2vec 2.0", arXiv 2006.11477; Hsu et al. (2021), "HuBERT",
arXiv 2106.07447; Chen et al. (2022), "WavLM", arXiv 2110.13900.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.data.text import SPACE
from distillery.errors import ModelError
from distillery.files import digest_of_file
from distillery.models.base import Teacher
from distillery.models.recogniser import CONFIG_FILE
from distillery.params.teacher import TransformersTeacherParams
from distillery.teachers.adapting import adapt
from distillery.teachers.backend import Published, TorchBackend, receptive_field
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.pretrained import load_saved
from distillery.teachers.published import PASSING, import_transformers, read_published, weight_files
from distillery.teachers.token_map import TokenTable
from distillery.teachers.weights import fit_state, read_state

KIND = "transformers"
VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm
UNUSED = r".*masked_spec_embed|quantizer\..*|project_(hid|q)\..*"
"""Tensors of pre-training and of SpecAugment, which inference does not need."""


class TransformersBackend(TorchBackend):
    """A CTC class of transformers."""

    @classmethod
    def build(cls, architecture: Published, table: TokenTable) -> TransformersBackend:
        """Return the model that `architecture` describes, its weights random.

        Args:
            architecture: `model_class`, its `config`, `sample_rate_hz` and `normalise`.
            table: its tokens.
        """
        model_class = getattr(import_transformers(), architecture["model_class"])
        config = model_class.config_class.from_dict(dict(architecture["config"]))
        kernels = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        hop, window = receptive_field(list(kernels))
        return cls(
            model_class(config).eval(),
            table,
            architecture["sample_rate_hz"],
            hop,
            window,
            VARIANCE_FLOOR if architecture["normalise"] else None,
            # Group norm averages over all of time, and a batch norm moves the zeros of padding.
            config.feat_extract_norm == "layer"
            and not getattr(config, "conv_pos_batch_norm", False),
            dict(architecture),
        )

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The Transformer's layers."""
        return list(self.base.encoder.layers)

    @property
    def output(self) -> nn.Linear:
        """The output layer."""
        output: Any = self.module.lm_head
        return output  # type: ignore[no-any-return]

    @property
    def base(self) -> Any:
        """The model without the output layer."""
        module: Any = self.module
        return getattr(module, module.base_model_prefix)

    @property
    def above(self) -> Sequence[nn.Module]:
        """The output layer, and the norm below it where there is one."""
        stable = getattr(self.base.config, "do_stable_layer_norm", False)
        return [self.base.encoder.layer_norm, self.output] if stable else [self.output]

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over the waveform."""
        return self.base.feature_extractor  # type: ignore[no-any-return]

    @property
    def masks_frames(self) -> bool:
        """Whether `encode` can tell padding from frames; a batch norm moves its zeros."""
        return not getattr(self.base.config, "conv_pos_batch_norm", False)

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return what the convolutions give `(batch, frames, channels)`."""
        convolved: Tensor = self.extractor(waveforms).transpose(1, 2)
        return convolved

    def encode(self, convolved: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`."""
        module: Any = self.module
        base = self.base
        projected = base.feature_projection(convolved)  # HuBERT's gives no tuple
        projected = projected if isinstance(projected, Tensor) else projected[0]
        mask = None
        if lengths is not None:
            places = torch.arange(projected.shape[1], device=projected.device)
            mask = places < lengths[:, None]  # (batch, frames)
        scores: Tensor = self.output(module.dropout(base.encoder(projected, mask)[0]))
        return scores

    def scores(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`."""
        mask = None
        if lengths is not None:
            places = torch.arange(waveforms.shape[1], device=waveforms.device)
            mask = (places < lengths[:, None]).long()  # (batch, samples)
        scores: Tensor = self.module(waveforms, attention_mask=mask).logits
        return scores


def take_ctc(
    params: TransformersTeacherParams, place: Workplace, folder: Path, config: Published
) -> ReadyTeacher:
    """Return a CTC model as the teacher; arguments as `TakeModel` has them."""
    model_class = config["architectures"][0]
    architecture = architecture_of(folder, config, model_class)
    full = architecture["config"]
    table = read_tokens(folder, full["vocab_size"], full["pad_token_id"])
    backend = build_published(folder, architecture, table)
    paths = weight_files(folder)
    expected = backend.module.state_dict()
    state = {
        name: value
        for path in paths
        for name, value in read_state(path).items()
        if name in expected or not re.fullmatch(UNUSED, name)
    }
    fit_state(backend.module, state, paths[0], optional=UNUSED)
    source = {
        "model": params.model,
        "model_class": model_class,
        "files": {path.name: digest_of_file(path) for path in paths},
    }
    return adapt(KIND, backend, params, place, source)


def architecture_of(folder: Path, config: Published, model_class: str) -> Published:
    """Return what `TransformersBackend.build` makes a published model of.

    Args:
        folder: of the model, for its preprocessing.
        config: its config.json.
        model_class: the CTC class that reads it.

    Raises:
        ModelError: a file is missing or damaged, or the model is one that is not read here.
    """
    if config.get("add_adapter"):
        raise ModelError(
            f"{folder / CONFIG_FILE}: add_adapter: the model thins its frames out behind the "
            "encoder, which is not read here; name a model without it"
        )
    config_class = getattr(import_transformers(), model_class).config_class
    try:
        full = json.loads(config_class.from_dict(dict(config)).to_json_string(use_diff=False))
    except Exception as error:  # transformers and its validation have many
        raise ModelError(f"{folder / CONFIG_FILE}: cannot be used: {error}") from None
    hearing = _read_preprocessing(folder)
    return {
        "model_class": model_class,
        "config": {name: value for name, value in full.items() if name not in PASSING},
        "sample_rate_hz": int(hearing.get("sampling_rate", 16000)),
        "normalise": bool(hearing.get("do_normalize", True)),
    }


def build_published(
    folder: Path, architecture: Published, table: TokenTable
) -> TransformersBackend:
    """Return a published model, its weights random.

    Args:
        folder: where it is published, for errors.
        architecture: of `architecture_of`.
        table: its tokens.

    Raises:
        ModelError: its configuration describes no model.
    """
    try:
        return TransformersBackend.build(architecture, table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / CONFIG_FILE}: describes no model that can be built: {error!r}"
        ) from None


def read_tokens(folder: Path, num_outputs: int, blank: int | None) -> TokenTable:
    """Return a published model's tokens.

    Args:
        folder: with vocab.json and tokenizer_config.json.
        num_outputs: of the output layer, lm_head.
        blank: index of the CTC blank, config.json's pad_token_id.

    Raises:
        ModelError: a file is missing, or it is another model's.
    """
    path = folder / "vocab.json"
    indices = read_published(path)
    if any(isinstance(value, dict) for value in indices.values()):
        raise ModelError(
            f"{path}: holds the tokens of {len(indices)} languages, expected one table; save the "
            "model with the tokenizer of one language"
        )
    if not indices or not all(isinstance(value, int) for value in indices.values()):
        raise ModelError(f"{path}: expected a number for every token; download it again")
    if blank is None:
        raise ModelError(
            f"{folder / CONFIG_FILE}: has no pad_token_id, which is the blank of a CTC model"
        )
    settings_path = folder / "tokenizer_config.json"
    settings = read_published(settings_path) if settings_path.exists() else {}
    by_index = {
        int(index): str(token["content"])
        for index, token in settings.get("added_tokens_decoder", {}).items()
    }
    by_index |= {index: token for token, index in indices.items()}
    if max(indices.values()) >= num_outputs or set(range(num_outputs)) - set(by_index):
        raise ModelError(
            f"{path}: holds {len(indices)} tokens, the output layer (lm_head) has {num_outputs} "
            "outputs; the tokenizer is another model's"
        )
    tokens = [by_index[index] for index in range(num_outputs)]
    pad = settings.get("pad_token", tokens[blank] if blank < num_outputs else None)
    pad = pad["content"] if isinstance(pad, dict) else pad
    if not 0 <= blank < num_outputs or tokens[blank] != pad:
        found = repr(tokens[blank]) if 0 <= blank < num_outputs else "no token"
        raise ModelError(
            f"{settings_path}: pad_token is {pad!r}, but the blank of config.json (pad_token_id "
            f"{blank}) is {found}; the tokenizer is another model's"
        )
    boundary = settings.get("word_delimiter_token", SPACE)
    boundary = boundary["content"] if isinstance(boundary, dict) else boundary
    return TokenTable(tuple(SPACE if token == boundary else token for token in tokens), blank)


def _read_preprocessing(folder: Path) -> Published:
    """Return the settings of the feature extractor, of which files have one of two layouts."""
    alone, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.exists():
        return read_published(alone)
    if joint.exists() and "feature_extractor" in (content := read_published(joint)):
        return dict(content["feature_extractor"])
    raise ModelError(
        f"{alone}: no such file; it says which sample rate and normalisation the model takes, "
        "download it with the weights"
    )


def load(folder: Path, device: str) -> Teacher:
    """Load a saved teacher of this kind.

    Raises:
        ModelError: transformers or a file is missing, damaged, or does not fit the others.
    """
    return load_saved(folder, device, TransformersBackend.build)
