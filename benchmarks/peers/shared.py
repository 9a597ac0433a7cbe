"""What the workers of both peers share: the task as it is handed over, features, losses, commands.

Runs in the peers' environment. Of Distillery it imports networks alone, inside functions.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import soundfile
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.networks import PlainStudent, real_frames

SPEC_FILE = "spec.json"
STUDENT_FILE, TEACHER_FILE, PROJECTION_FILE = "student.pt", "teacher.pt", "projection.pt"
SAYS = "@peer "
"""A worker's line that is an answer begins so; the peers print lines of their own."""


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that ended, in seconds."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def say(**answer: Any) -> None:
    """Answer whoever drives this worker."""
    print(SAYS + json.dumps(answer), flush=True)


def epochs() -> Iterator[int]:
    """Yield the number of an epoch for each line on standard input; say what the last one cost."""
    for number, _ in enumerate(sys.stdin):
        before = cpu_seconds()
        yield number
        say(cpu_seconds=cpu_seconds() - before)


class Task:
    """What is to be trained: the same for all."""

    def __init__(self, folder: Path) -> None:
        """Read what `material.write` left."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.folder = folder
        self.spec: dict[str, Any] = json.loads((folder / SPEC_FILE).read_text("utf-8"))
        self.utterances: list[dict[str, Any]] = self.spec["utterances"]
        self.plan: list[list[int]] = self.spec["plan"]
        self.weights: dict[str, float] = self.spec["weights"]

    @cached_property
    def mel(self) -> nn.Module:
        """Mel energies, set as Distillery sets them."""
        return torchaudio.transforms.MelSpectrogram(**self.spec["mel"], pad_mode="constant")

    def features(self, index: int) -> Tensor:
        """Return features `(feature_frames, mels)` of an utterance, computed from its recording."""
        samples, _ = soundfile.read(self.utterances[index]["path"], dtype="float32")
        logs = torch.log(self.mel(torch.from_numpy(samples)) + self.spec["log_floor"]).T
        centred = logs - logs.mean()
        return centred / torch.sqrt(centred.square().mean() + self.spec["variance_floor"])

    def tokens(self, index: int) -> Tensor:
        """Return the tokens `(tokens,)` of an utterance's transcript."""
        return torch.tensor(self.utterances[index]["tokens"])

    def student(self, layout: str) -> Student:
        """Return a student with the first weights that all have."""
        weights = self._loaded(STUDENT_FILE)
        sizes = {"num_mels": self.spec["mel"]["n_mels"], "num_tokens": self.spec["num_tokens"]}
        network: nn.Module
        if layout == "plain":
            names = ("channels", "num_blocks", "kernel_size", "dropout")
            network = PlainStudent(**sizes, **{name: self.spec["student"][name] for name in names})
            network.take_over(weights)
        else:
            network = our_student(self.spec["student"], sizes)
            network.network.load_state_dict(weights)
        projection = None
        if "hidden" in self.weights:
            projected = self._loaded(PROJECTION_FILE)
            projection = nn.Linear(*reversed(projected["weight"].shape))
            projection.load_state_dict(projected)
        return Student(network, projection)

    def teacher(self) -> nn.Module:
        """Return the teacher, Distillery's own module, frozen and in eval mode."""
        from distillery.architectures.conv_bilstm import ConvBiLSTM
        from distillery.params.models import ConvBiLSTMParams

        params = ConvBiLSTMParams.model_validate(self.spec["teacher"])
        network = ConvBiLSTM(params, self.spec["mel"]["n_mels"], self.spec["num_tokens"])
        network.load_state_dict(self._loaded(TEACHER_FILE))
        return network.eval().requires_grad_(False)

    def optimiser(self, parameters: Any) -> torch.optim.Optimizer:
        """Return AdamW in its fastest form, as Distillery has it."""
        return torch.optim.AdamW(parameters, **self.optimiser_settings)

    @property
    def optimiser_settings(self) -> dict[str, Any]:
        """What AdamW is made with."""
        return {**self.spec["optimiser"], "fused": True}

    def _loaded(self, name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(self.folder / name, weights_only=True)
        return found


class Student(nn.Module):
    """A network, and the projection of its states to the teacher's width where that is learnt."""

    def __init__(self, network: nn.Module, projection: nn.Linear | None) -> None:
        super().__init__()
        self.network, self.projection = network, projection

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return scores `(batch, frames, vocab)`, lengths `(batch,)` and, if learnt, states."""
        scores, lengths, states = self.network(features, lengths)
        if self.projection is None:
            return scores, lengths
        return scores, lengths, self.projection(states)


def our_student(params: dict[str, Any], sizes: dict[str, int]) -> nn.Module:
    """Return Distillery's own module, which gives its last states, too."""
    from distillery.architectures.separable_conv import SeparableConv
    from distillery.params.models import SeparableConvParams

    class WithStates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SeparableConv(SeparableConvParams.model_validate(params), **sizes)
            self.states: Tensor | None = None
            self.network.layers["last"][0].register_forward_hook(self._keep)

        def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.states = output

        def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            scores, lengths = self.network(features, lengths)
            states, self.states = self.states, None
            assert states is not None
            return scores, lengths, states

    return WithStates()


def frame_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean `()` of `(batch, frames)` over the frames that exist."""
    mask = real_frames(lengths, values.shape[1])
    return values.masked_fill(~mask, 0.0).sum() / lengths.sum()


def ctc_loss(log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Return CTC per label token, the mean of the batch `()`; PyTorch's own."""
    return F.ctc_loss(log_probs.transpose(0, 1), tokens, lengths, token_lengths, zero_infinity=True)


def kl_loss(scores: Tensor, lengths: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(teacher ‖ student), the mean over frames `()`.

    Args:
        scores: the student's, `(batch, frames, vocab)`.
        lengths: `(batch,)`.
        teacher: its scores or log-probabilities `(batch, frames, vocab)`.
        temperature: T.
    """
    wanted = F.log_softmax(teacher / temperature, dim=-1)
    found = F.log_softmax(scores / temperature, dim=-1)
    values = F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * frame_mean(values, lengths)


def hidden_loss(states: Tensor, lengths: Tensor, teacher: Tensor) -> Tensor:
    """Return the absolute error plus the cosine distance, the mean over frames `()`."""
    distance = (states - teacher).abs().mean(dim=-1)
    return frame_mean(distance + 1 - F.cosine_similarity(states, teacher, dim=-1), lengths)


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return items of a first dimension of their own as one batch, and their lengths."""
    lengths = torch.tensor([len(item) for item in items])
    return nn.utils.rnn.pad_sequence(list(items), batch_first=True), lengths


def first_loss(student: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Return a loss before any step and without dropout: the same for all who do the same."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        found = float(loss())
    student.train()
    return found
