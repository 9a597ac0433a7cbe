"""A student as a folder that sherpa-onnx loads unmodified, on phones, boards and desktops.

    model.onnx       whole utterances, in batches: OfflineRecognizer.from_zipformer_ctc
    model.int8.onnx  the same in 8-bit integers, where there is audio to find the ranges with
    streaming.onnx   of students that stream: OnlineRecognizer.from_zipformer2_ctc
    tokens.txt       one token and its number a line
    README.md        how to load it

The networks take Kaldi's energies as they are: normalisation is inside. Nothing of sherpa-onnx's
Zipformers is needed but its interface. docs/decisions/0029-runs-elsewhere.md has the choice of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distillery.data.feature_constants import VARIANCE_FLOOR
from distillery.data.features import KaldiFbank
from distillery.data.normalisation import normalised_so_far
from distillery.data.subwords import WORD_START
from distillery.data.text import SPACE, Vocabulary
from distillery.errors import ModelError
from distillery.files import write_bytes
from distillery.models.layers import Network, real_frames
from distillery.models.recogniser import Recogniser
from distillery.params.models import KALDI_FBANK
from distillery.serve.export import TRACED_FRAMES, to_int8, traced
from distillery.serve.sherpa_streaming import streaming_model, tail_seconds
from distillery.serve.streaming import can_stream

MODEL_FILE, INT8_FILE, STREAMING_FILE = "model.onnx", "model.int8.onnx", "streaming.onnx"
TOKENS_FILE, README_FILE = "tokens.txt", "README.md"
FILES = (MODEL_FILE, INT8_FILE, STREAMING_FILE, TOKENS_FILE, README_FILE)
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.01
"""What sherpa-onnx computes for such models; it has no setting for it."""
TIME_REDUCTION = 4
"""What sherpa-onnx multiplies times by; it has no setting for it either."""
LARGEST_BYTE = 0xC6
"""Where this is the largest byte of an alphabet, sherpa-onnx takes its tokens for bytes."""
NO_BYTES = "一"
"""A token that no network gives: with it, sherpa-onnx does not."""


class Normaliser(nn.Module):
    """Kaldi's energies of a batch, padded behind, to the features that `Extractor` makes."""

    def __init__(self, normalise: str) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, logs: Tensor, lengths: Tensor) -> Tensor:
        """Return features `(batch, feature_frames, mels)`, 0 behind each utterance's end.

        Args:
            logs: the same shape; what is behind an end does not matter.
            lengths: `(batch,)`.
        """
        mask = real_frames(lengths, logs.shape[1])[..., None]  # (batch, feature_frames, 1)
        if self.normalise == "running":
            shifted = torch.where(mask, logs - logs[:, :1], 0.0).double()
            counts = torch.arange(logs.shape[1], device=logs.device).double()[None, :, None] + 1
            features = normalised_so_far(
                shifted, shifted.cumsum(dim=1), shifted.square().cumsum(dim=1), counts
            )
        else:
            counts, axes = lengths[:, None, None].to(logs.dtype), [1]
            if self.normalise == "level":
                counts, axes = counts * logs.shape[2], [1, 2]
            means = torch.where(mask, logs, 0.0).sum(dim=axes, keepdim=True) / counts
            centred = torch.where(mask, logs - means, 0.0)
            variances = centred.square().sum(dim=axes, keepdim=True) / counts
            features = centred / torch.sqrt(variances + VARIANCE_FLOOR)
        return torch.where(mask, features, 0.0)


class _Whole(nn.Module):
    """A network from Kaldi's energies to log-probabilities and their lengths."""

    def __init__(self, network: Network, normalise: str) -> None:
        super().__init__()
        self.network, self.normaliser = network, Normaliser(normalise)

    def forward(self, logs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        scores, lengths = self.network(self.normaliser(logs, lengths), lengths)
        return scores.log_softmax(dim=-1), lengths


def whole_model(recogniser: Recogniser) -> bytes:
    """Return the network for whole utterances as an ONNX file's content.

    It takes `x` `(batch, feature_frames, mels)` and `x_lens` `(batch,)`, and gives `log_probs`
    `(batch, frames, vocab)` and `log_probs_len` `(batch,)`.
    """
    features = recogniser.features
    return traced(
        _Whole(recogniser.network, features.normalise),
        {
            "x": torch.zeros(2, TRACED_FRAMES, features.num_mels),
            "x_lens": torch.tensor([TRACED_FRAMES, TRACED_FRAMES - 20]),
        },
        ["log_probs", "log_probs_len"],
        {
            "x": {0: "batch", 1: "feature_frames"},
            "x_lens": {0: "batch"},
            "log_probs": {0: "batch", 1: "frames"},
            "log_probs_len": {0: "batch"},
        },
    )


def export_sherpa(
    recogniser: Recogniser, folder: Path, calibration: Sequence[np.ndarray] = ()
) -> list[str]:
    """Write a student as a folder for sherpa-onnx.

    Args:
        recogniser: the student.
        folder: an existing folder.
        calibration: waveforms `(samples,)` whose activations give the ranges of the integers;
            without any there is no model in integers.

    Returns:
        Names of the files.

    Raises:
        ModelError: sherpa-onnx does not compute the features that the student hears.
    """
    check_sherpa(recogniser)
    floats = whole_model(recogniser)
    files = {MODEL_FILE: with_metadata(floats, whole_metadata(recogniser))}
    if len(calibration):
        extractor = recogniser.extractor
        assert isinstance(extractor, KaldiFbank)
        logs = [extractor.bank(waveform)[None] for waveform in calibration]
        inputs = [{"x": item, "x_lens": np.array([item.shape[1]], np.int64)} for item in logs]
        files[INT8_FILE] = with_metadata(to_int8(floats, inputs), whole_metadata(recogniser))
    if can_stream(recogniser):
        content, metadata = streaming_model(recogniser)
        files[STREAMING_FILE] = with_metadata(content, metadata)
    files[TOKENS_FILE] = numbered_tokens(recogniser.vocabulary).encode()
    files[README_FILE] = _readme(recogniser, list(files)).encode()
    for name, content in files.items():
        write_bytes(folder / name, content)
    return list(files)


def check_sherpa(recogniser: Recogniser) -> None:
    """Make sure that sherpa-onnx can make what a student hears.

    Raises:
        ModelError: it cannot.
    """
    features = recogniser.features
    found = f"type {features.type}, window {features.window_seconds:g} s, hop "
    found += f"{features.hop_seconds:g} s"
    timing = (features.window_seconds, features.hop_seconds)
    if features.type != KALDI_FBANK or timing != (WINDOW_SECONDS, HOP_SECONDS):
        raise ModelError(
            f"model: its features are of {found}; sherpa-onnx computes {KALDI_FBANK}, window "
            f"{WINDOW_SECONDS:g} s, hop {HOP_SECONDS:g} s alone. Train a student with "
            f"`features: {{type: {KALDI_FBANK}}}`"
        )
    if WORD_START in recogniser.vocabulary.characters:
        raise ModelError(
            f"model: its alphabet has {WORD_START!r}, which sherpa-onnx writes as a space; leave "
            "it out of prepare.alphabet"
        )


def numbered_tokens(vocabulary: Vocabulary) -> str:
    """Return sherpa-onnx's tokens.txt: one token and its number a line.

    Some published models have tokens that stand for bytes; what tells them from others is the
    largest byte in UTF-8, that of Azerbaijani capitals, too: these get one token more.
    """
    tokens = [token.replace(SPACE, WORD_START) for token in vocabulary.tokens]
    if max(max(token.encode()) for token in vocabulary.tokens) == LARGEST_BYTE:
        tokens.append(NO_BYTES)
    return "".join(f"{token} {number}\n" for number, token in enumerate(tokens))


def whole_metadata(recogniser: Recogniser) -> dict[str, str]:
    """Return what the file for whole utterances says of itself, as sherpa-onnx's models do."""
    return {
        "model_type": "zipformer2_ctc",
        "version": "1",
        "model_author": "distillery",
        "comment": f"non-streaming CTC, {recogniser.architecture.type}",
        "vocab_size": str(len(recogniser.vocabulary)),
        "subsampling_factor": str(recogniser.network.time_reduction),
        "sample_rate": str(recogniser.sample_rate_hz),
        "feature_dim": str(recogniser.features.num_mels),
    }


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return an ONNX file's content with entries of metadata."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(metadata))
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _readme(recogniser: Recogniser, files: Sequence[str]) -> str:
    rate, mels = recogniser.sample_rate_hz, recogniser.features.num_mels
    lines = [
        "# A model for sherpa-onnx",
        "",
        f"Audio at {rate} Hz, {mels} mel bands, {len(recogniser.vocabulary)} tokens.",
        "`pip install sherpa-onnx soundfile`, then:",
        "",
        "```python",
        "import sherpa_onnx",
        "import soundfile",
        "",
        "recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(",
        f'    model="{MODEL_FILE}", tokens="{TOKENS_FILE}", sample_rate={rate}, feature_dim={mels}',
        ")",
        'samples, rate = soundfile.read("recording.wav", dtype="float32")',
        "stream = recogniser.create_stream()",
        "stream.accept_waveform(rate, samples)",
        "recogniser.decode_stream(stream)",
        "print(stream.result.text)",
        "```",
    ]
    if STREAMING_FILE in files:
        lines += [
            "",
            "While one speaks:",
            "",
            "```python",
            "recogniser = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(",
            f'    model="{STREAMING_FILE}", tokens="{TOKENS_FILE}", sample_rate={rate}, '
            f"feature_dim={mels}",
            ")",
            "stream = recogniser.create_stream()",
            "stream.accept_waveform(rate, samples)  # pieces of any size, as they come",
            "while recogniser.is_ready(stream):",
            "    recogniser.decode_stream(stream)",
            "print(recogniser.get_result(stream))",
            "```",
            "",
            f"Behind the last piece belong {tail_seconds(recogniser):.2f} s of zeros: what has not "
            "filled a chunk is not read. More",
            "of them do harm, for nobody speaks in silence as perfect as that.",
        ]
    if recogniser.network.time_reduction != TIME_REDUCTION:
        factor = TIME_REDUCTION / recogniser.network.time_reduction
        lines += [
            "",
            f"sherpa-onnx takes frames for {factor:g} times as long as they are: divide its "
            f"timestamps by {factor:g}.",
        ]
    return "\n".join(lines) + "\n"
