"""What the students' layouts are worth: a training step against the same network in plain layers.

    python -m benchmarks.student_step [--source FSDD] [--rounds 9] [--seeds 3] [--epochs 10]

A step is forward, log-softmax, backward and AdamW over a batch of 32, on one thread; times are CPU
time, medians of paired rounds. The recurrent student is timed against the same network whose
convolutions are laid out as they come and whose GRU is PyTorch's, one direction after the other.
Then both layouts are trained on FSDD's transcripts, from equal
weights in equal order, and their word errors on the test split compared seed by seed. bf16 is
measured where the processor has instructions for it. Rows go to
benchmarks/results/student_step.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import not_measured, paired_rounds, report, row
from benchmarks.digits import FEATURES, RATE_HZ, STUDENT, TRAINING, Digits, recordings
from distillery.architectures.crnn import CRNN
from distillery.architectures.separable_conv import SeparableConv
from distillery.data.manifest import labelled
from distillery.data.scoring import count_errors, paired_bootstrap
from distillery.device import choose_precision, num_threads
from distillery.models.layers import BidirectionalRecurrent, Network, real_frames
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, SeparableConvParams
from distillery.training.objective import TranscriptObjective

BATCH, NUM_TOKENS = 32, 29
FEATURE_FRAMES = (44, 300)
STEPS = 3
LEARNING_RATE = 4e-3
RECURRENT = CRNNParams(type="crnn", hidden_size=64)
MIN_RECURRENT_SPEED_UP = 1.3
MIN_SPEED_UP = {"fp32": 1.5, "bf16": 1.9}
NUM_RESAMPLES = 1000


class Conv1dStudent(SeparableConv):
    """The same network, its layers one-dimensional, over `(batch, channels, frames)`."""

    def __init__(self, params: SeparableConvParams, num_mels: int, num_tokens: int) -> None:
        """Draw the same weights from the same seed."""
        super().__init__(params, num_mels, num_tokens)
        for name, child in list(self.named_children()):
            setattr(self, name, flattened(child))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, vocab)` and their lengths `(batch,)`."""
        x = features.transpose(1, 2)
        for index, stride in enumerate(self.strides):
            lengths = -(-lengths // stride)
            x = self.front[index](x)
            if index == 1:
                x = self.mix(x)
            x = torch.relu(self.norms[index](x))
            mask = real_frames(lengths, x.shape[-1])[:, None].to(x.dtype)
            x = x * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.output(x).transpose(1, 2), lengths


class PlainRecurrent(BidirectionalRecurrent):
    """The same layers, whose directions take turns."""

    def _layer(self, x: Tensor, order: Tensor | None, ahead: nn.Module, back: nn.Module) -> Tensor:
        assert order is not None
        index = order[..., None]
        turned = torch.gather(x, 1, index.expand(-1, -1, x.shape[2]))
        said = back(turned)[0]
        said = torch.gather(said, 1, index.expand(-1, -1, said.shape[2]))
        return torch.cat([ahead(x)[0], said], dim=-1)


class PlainCRNN(CRNN):
    """The same network, of PyTorch's layers as they come."""

    def __init__(self, params: CRNNParams, num_mels: int, num_tokens: int) -> None:
        """Draw the same weights from the same seed."""
        super().__init__(params, num_mels, num_tokens)
        self.recurrent.__class__ = PlainRecurrent
        self.front.to(memory_format=torch.contiguous_format)


KINDS = (SeparableConv, Conv1dStudent)


def flattened(module: nn.Module) -> nn.Module:
    """Return a copy of a layer, or of a tree of layers, without the dimension of size 1."""
    if isinstance(module, nn.Conv2d):
        flat: nn.Module = nn.Conv1d(
            module.in_channels,
            module.out_channels,
            module.kernel_size[1],
            stride=module.stride[1],
            padding=module.padding[1],
            groups=module.groups,
            bias=module.bias is not None,
        )
        state = {
            name: t.squeeze(2) if t.dim() == 4 else t for name, t in module.state_dict().items()
        }
    elif isinstance(module, nn.BatchNorm2d):
        flat, state = nn.BatchNorm1d(module.num_features), module.state_dict()
    else:
        flat = copy.copy(module)
        flat._modules = {name: flattened(child) for name, child in module.named_children()}
        return flat
    flat.load_state_dict(state)
    return flat


def steps(network: Network, num_frames: int, precision: str) -> Callable[[], None]:
    """Return the job of some training steps on one batch."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, num_frames, FEATURES.num_mels, generator=random)
    lengths = torch.full((BATCH,), num_frames)
    optimiser = torch.optim.AdamW(network.parameters())

    def work() -> None:
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                scores, _ = network(features, lengths)
            scores.float().log_softmax(dim=-1)[..., 0].mean().neg().backward()
            optimiser.step()
            optimiser.zero_grad()

    return work


def step_rows(rounds: int, *, with_bf16: bool) -> list[dict[str, Any]]:
    """Return the rows about speed."""
    ours, twin = (kind(STUDENT, FEATURES.num_mels, NUM_TOKENS) for kind in KINDS)
    rows = []
    for precision, goal in MIN_SPEED_UP.items():
        for num_frames in FEATURE_FRAMES:
            name = f"student step, {precision}, {BATCH} utterances of {num_frames} feature frames"
            unit, wanted = "times as fast", f"at least {goal:g}"
            if precision == "bf16" and not with_bf16:
                why = "not measurable here: the processor has no instructions for bf16"
                rows.append(not_measured(name, unit, wanted, why))
                continue
            jobs = [steps(ours, num_frames, precision), steps(twin, num_frames, "fp32")]
            times = paired_rounds(jobs, rounds)
            value = statistics.median(theirs / own for own, theirs in times)
            fast, slow = (1000 * statistics.median(t) / STEPS for t in zip(*times, strict=True))
            against = f"the same network in Conv1d, fp32: {slow:.1f} ms; ours {fast:.1f} ms"
            rows.append(row(name, value, unit, wanted, value >= goal, against))
    return rows


def recurrent_rows(rounds: int) -> list[dict[str, Any]]:
    """Return the rows about the recurrent student's speed."""
    ours, plain = (kind(RECURRENT, FEATURES.num_mels, NUM_TOKENS) for kind in (CRNN, PlainCRNN))
    rows = []
    for num_frames in FEATURE_FRAMES:
        times = paired_rounds([steps(x, num_frames, "fp32") for x in (ours, plain)], rounds)
        value = statistics.median(theirs / own for own, theirs in times)
        fast, slow = (1000 * statistics.median(t) / STEPS for t in zip(*times, strict=True))
        rows.append(
            row(
                f"crnn step, fp32, {BATCH} utterances of {num_frames} feature frames",
                value,
                "times as fast",
                f"at least {MIN_RECURRENT_SPEED_UP:g}",
                value >= MIN_RECURRENT_SPEED_UP,
                f"the same network of PyTorch's layers: {slow:.1f} ms; ours {fast:.1f} ms",
            )
        )
    return rows


def word_errors(
    digits: Digits, kind: type[SeparableConv], seed: int, num_epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train on transcripts; return errors and words of every test utterance `(utterances,)`."""
    training = TRAINING.model_copy(
        update={"seed": seed, "num_epochs": num_epochs, "learning_rate": LEARNING_RATE}
    )
    network = digits.student(kind, seed)
    digits.train(network, digits.training_set(None, seed=seed), TranscriptObjective(), training)
    recogniser = Recogniser(network, STUDENT, FEATURES, digits.data.vocabulary, RATE_HZ)
    rows = labelled(digits.data, "test")
    heard = [recogniser.transcribe([digits.data.waveform(item)])[0] for item in rows.itertuples()]
    counts = [
        count_errors(text.split(), words.split())
        for text, words in zip(rows["text"], heard, strict=True)
    ]
    return (
        np.array([item.errors for item in counts]),
        np.array([item.reference_length for item in counts]),
    )


def quality_row(digits: Digits, num_seeds: int, num_epochs: int) -> dict[str, Any]:
    """Return the row about word errors."""
    errors: dict[type[SeparableConv], list[np.ndarray]] = {kind: [] for kind in KINDS}
    lengths = []
    for seed in range(num_seeds):
        for kind, found in errors.items():
            wrong, words = word_errors(digits, kind, seed, num_epochs)
            found.append(wrong)
            print(kind.__name__, seed, f"{100 * wrong.sum() / words.sum():.1f} %", flush=True)
        lengths.append(words)
    ours, theirs = (np.concatenate(found) for found in errors.values())
    result = paired_bootstrap(ours, theirs, np.concatenate(lengths), NUM_RESAMPLES, 0.95, 0)
    rates = [
        " / ".join(f"{100 * e.sum() / n.sum():.1f}" for e, n in zip(found, lengths, strict=True))
        for found in errors.values()
    ]
    return row(
        f"WER, our layout less Conv1d, {num_seeds} seeds, {num_epochs} epochs of FSDD",
        100 * result.difference,
        "points of WER",
        "not significantly above 0",
        result.low <= 0,
        f"95 % interval [{100 * result.low:.2f}, {100 * result.high:.2f}] over all test "
        f"utterances; ours {rates[0]} %, Conv1d {rates[1]} %, transcripts only, equal weights at "
        "the start",
    )


def measure(
    source: Path, folder: Path, rounds: int, num_seeds: int, num_epochs: int, **sizes: Any
) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    with num_threads(1):
        rows = step_rows(rounds, with_bf16=choose_precision("auto", "cpu") == "bf16")
        rows += recurrent_rows(rounds)
    digits = Digits.fsdd(source, folder, num_valid=None, **sizes)
    return [*rows, quality_row(digits, num_seeds, num_epochs)]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    source = recordings(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(source, Path(folder), arguments.rounds, arguments.seeds, arguments.epochs)
    report("student_step", rows)


if __name__ == "__main__":
    main()
