"""A Whisper of random weights: the published classes and files, in sizes for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

END, START = "<|endoftext|>", "<|startoftranscript|>"
SPECIAL = (
    START,
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


def write_whisper(
    folder: Path, *, seconds: int = 4, seed: int = 0, multilingual: bool = True, **sizes: Any
) -> Path:
    """Write config, weights, tokenizer and feature extractor as published; return the folder.

    Args:
        folder: where to.
        seconds: what it hears at once; 30 in published models, and slower.
        seed: of the weights.
        multilingual: whether the prompt names language and task.
        sizes: changes of the configuration.
    """
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges = [("a", "b"), ("b", "a"), ("Ġ", "c"), ("Ġc", "ab")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    for token in (END, *SPECIAL):
        vocab[token] = len(vocab)
    tokenizer = transformers.WhisperTokenizer(vocab=vocab, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=seconds)
    ends = {"pad_token_id": vocab[END], "bos_token_id": vocab[END], "eos_token_id": vocab[END]}
    config = transformers.WhisperConfig(
        **{
            "vocab_size": len(vocab),
            "num_mel_bins": 8,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_source_positions": 50 * seconds,
            "max_target_positions": 16,
            "decoder_start_token_id": vocab[START],
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
            "init_std": 0.5,  # far from uniform, so that beams differ
            **ends,
            **sizes,
        }
    )
    torch.manual_seed(seed)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=vocab[START],
        max_length=config.max_target_positions,
        # published models bar symbols that nobody speaks; these weights know no better either
        suppress_tokens=[vocab[c] for c in ByteLevel.alphabet() if c != "Ġ" and not _is_plain(c)],
        begin_suppress_tokens=[vocab["Ġ"], vocab[END]],
        is_multilingual=multilingual,
        lang_to_id={token: vocab[token] for token in ("<|en|>", "<|de|>")},
        task_to_id={name: vocab[f"<|{name}|>"] for name in ("transcribe", "translate")},
        no_timestamps_token_id=vocab["<|notimestamps|>"],
        **ends,
    )
    for part in (model, tokenizer, extractor):
        part.save_pretrained(folder)
    return folder


def write_converted(folder: Path, hub: Path) -> Path:
    """Write a Whisper of random weights in CTranslate2's format, int8; return its folder.

    Args:
        folder: where to; it must not exist.
        hub: where the published layout goes, from which it is converted.
    """
    from ctranslate2.converters import TransformersConverter

    write_whisper(hub, seconds=30, max_target_positions=448)
    copied = ["tokenizer.json", "preprocessor_config.json"]
    converter = TransformersConverter(str(hub), copy_files=copied)
    return Path(converter.convert(str(folder), quantization="int8"))


def _is_plain(symbol: str) -> bool:
    return symbol.isascii() and symbol.isalnum()
