"""Published models made tiny: the real classes and layouts, random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.pipelines import Wav2Vec2ASRBundle, Wav2Vec2Bundle

CONVOLUTIONS = [(8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)]
"""Kernels and strides of all published models, so 20 ms a frame at 16 kHz; fewer channels."""
LABELS = ("|", "E", "A", "C", "'", "B")
"""Behind the blank, in an order of their own, as torchaudio's tables have it."""
CHARACTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "A", "C", "'", "B")
SUBWORDS = ("<unk>", "▁ab", "▁", "a", "b", "c", "▁c", "<pad>")
FEW_SUBWORDS = ("<unk>", "▁ab", "▁", "a", "▁c", "<pad>")
"""They make up no text that has a `b` behind anything but a word's first `a`."""


def loud(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw weights anew, large enough that outputs differ from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if parameter.ndim > 1:
                scale = 1.5 * parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            elif "norm" not in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def tiny_bundle(
    labels: Sequence[str] = LABELS,
    *,
    extractor_mode: str = "group_norm",
    normalise: bool = False,
    num_layers: int = 2,
    width: int = 16,
) -> Wav2Vec2ASRBundle:
    """Return a bundle as torchaudio.pipelines holds them, its model small."""
    params = {
        "extractor_mode": extractor_mode,
        "extractor_conv_layer_config": CONVOLUTIONS,
        "extractor_conv_bias": extractor_mode == "layer_norm",
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": num_layers,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 32,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": extractor_mode == "layer_norm",
        "encoder_layer_drop": 0.05,
        "aux_num_out": 1 + len(labels),
    }
    return Wav2Vec2ASRBundle(
        _path="tiny_asr.pth",
        _params=params,
        _labels=tuple(labels),
        _sample_rate=16000,
        _normalize_waveform=normalise,
        _model_type="Wav2Vec2",
    )


def tiny_encoder(**options: Any) -> Wav2Vec2Bundle:
    """Return a bundle without output layer; `options` as of `tiny_bundle`."""
    bundle = tiny_bundle(**options)
    return Wav2Vec2Bundle(
        _path="tiny.pth",
        _params={**bundle._params, "aux_num_out": None},
        _sample_rate=16000,
        _normalize_waveform=bundle._normalize_waveform,
        _model_type="Wav2Vec2",
    )


def encoder_state(bundle: Wav2Vec2Bundle, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of a bundle's model, as published."""
    return dict(loud(torchaudio.models.wav2vec2_model(**bundle._params), seed).state_dict())


def published_state(bundle: Wav2Vec2ASRBundle, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict as published: three outputs too many, fairseq's special symbols."""
    model = loud(torchaudio.models.wav2vec2_model(**bundle._params), seed)
    state = dict(model.state_dict())
    for name in ("aux.weight", "aux.bias"):
        unused = torch.full((3, *state[name].shape[1:]), 7.0)
        state[name] = torch.cat([state[name][:1], unused, state[name][1:]])
    return state


def write_transformers(
    folder: Path,
    model_class: str = "Wav2Vec2ForCTC",
    tokens: Sequence[str] = CHARACTERS,
    *,
    seed: int = 0,
    pickled: bool = False,
    **config: Any,
) -> Path:
    """Write a model in Hugging Face's layout; `config` goes over the tiny configuration."""
    import transformers

    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "num_codevectors_per_group": 4,
        "vocab_size": len(tokens),
        "pad_token_id": tokens.index("<pad>"),
        **config,
    }
    cls = getattr(transformers, model_class)
    model = loud(cls(cls.config_class(**settings)), seed)
    model.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=settings.get("feat_extract_norm") == "layer"
    ).save_pretrained(folder)
    return folder
