"""Several teachers as one.

Where all members give frames over equal tokens at one rate, their posteriors are averaged,

    log p(v | t) = logsumexp_m (ln w_m + log p_m(v | t)),  Σ_m w_m = 1

which teaches frames, texts and beams like any CTC teacher (Hinton et al., 2015, "Distilling the
knowledge in a neural network", arXiv 1503.02531). CTC models that were trained apart place a token
in frames of their own, where the others say blank; so does the mean then. Combining texts serves
better there: see `choose_way` in joined.py. Where posteriors are not averaged, the members' texts
are combined, by ROVER or by taking the surest member's, and there are no frames to learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.data.features import pad
from distillery.data.subwords import load_vocabulary
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.errors import ModelError
from distillery.files import Json, read_json, write_json
from distillery.models.base import LoadTeacher, Teacher, check_layers, hears_originals, lacking
from distillery.models.decoding import confidence, greedy_text, score_texts
from distillery.models.recogniser import CONFIG_FILE, TOKENS_FILE, Outputs
from distillery.params.base import MEMBERS
from distillery.teachers.rover import best_of, rover
from distillery.teachers.token_map import corpus_text

KIND = "ensemble"
Texts = Sequence[tuple[str, float]]  # best first, with ln P
MAX_TEXTS = 10  # that ROVER gives
RATE_TOLERANCE = 1e-6  # of the frame shift


@dataclass(frozen=True)
class Heard:
    """What one member says about one utterance."""

    hypotheses: Texts
    confidence: float
    """In the first of them."""


class Ensemble:
    """Several teachers that answer as one."""

    def __init__(
        self,
        members: Sequence[Teacher],
        *,
        combine: str,
        weights: Sequence[float],
        count_share: float,
        vocabulary: Vocabulary,
        unit: Unit = Unit.WORD,
    ) -> None:
        """Join teachers of one corpus.

        Args:
            members: ready for use.
            combine: posteriors, rover, best, or auto for posteriors where they can be averaged and
                rover where not.
            weights: of the members, above 0; only their ratios matter.
            count_share: of ROVER, see distillery/teachers/rover.py.
            vocabulary: of the corpus, for texts.
            unit: what ROVER puts to the vote: words, or characters where there are no spaces.

        Raises:
            ModelError: posteriors are to be averaged and cannot be, or a member expects audio of
                another rate than the others.
        """
        self.members = tuple(members)
        self.weights, self.count_share, self.unit = tuple(weights), count_share, unit
        reason = why_no_mean(self.members)
        if combine == "posteriors" and reason:
            raise ModelError(
                f"teacher.combine: posteriors cannot be averaged, for {reason}; set it to auto, "
                "rover or best"
            )
        self.way = combine if combine != "auto" else ("rover" if reason else "posteriors")
        self.vocabulary = self.members[0].vocabulary if self.gives_frames else vocabulary
        self.sample_rate_hz = self.members[0].sample_rate_hz
        for member in self.members:
            member.check_sample_rate(self.sample_rate_hz)

    @property
    def gives_frames(self) -> bool:
        """Whether posteriors are averaged."""
        return self.way == "posteriors"

    @cached_property
    def _listened(self) -> list[int]:
        """Return the members whose hidden layers are offered: those at the first one's rate."""
        able = [n for n, member in enumerate(self.members) if member.layer_widths]
        rates = [self.members[n].frame_shift_seconds for n in able]
        return [n for n, rate in zip(able, rates, strict=True) if _equal_rates(rate, rates[0])]

    @property
    def frame_shift_seconds(self) -> float:
        """Time between frames of posteriors and hidden states, in seconds."""
        return self.members[self._listened[0] if self._listened else 0].frame_shift_seconds

    @property
    def num_parameters(self) -> int:
        """Of all members together."""
        return sum(member.num_parameters for member in self.members)

    @property
    def layer_widths(self) -> dict[str, int]:
        """The members' layers, such as `members.0.last`."""
        return {
            f"{MEMBERS}.{number}.{name}": width
            for number in self._listened
            for name, width in self.members[number].layer_widths.items()
        }

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the members' digests, in their order."""
        digests = [member.weights_digest for member in self.members]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def same_at_every_speed(self) -> bool:
        """Whether all members give copies of a recording its own text."""
        return all(hears_originals(member) for member in self.members)

    def lacks(self, waveforms: Sequence[np.ndarray]) -> list[bool]:
        """Return which recordings `(samples,)` no member knows anything of."""
        each = [lacking(member, waveforms) for member in self.members]
        return [all(answers) for answers in zip(*each, strict=True)]

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return {
            "kind": KIND,
            "architecture": {"type": KIND, MEMBERS: [member.config for member in self.members]},
            "sample_rate_hz": self.sample_rate_hz,
            "combine": self.way,
            "weights": list(self.weights),
            "count_share": self.count_share,
            **({} if self.unit is Unit.WORD else {"unit": self.unit.value}),
        }

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio of this rate is what every member was made for.

        Raises:
            ModelError: it is not.
        """
        for member in self.members:
            member.check_sample_rate(sample_rate_hz)

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return waveforms `(batch, samples)`, zeros behind, and their lengths `(batch,)`.

        What a member hears of them is its own: `forward` asks it.
        """
        return pad([torch.from_numpy(waveform) for waveform in waveforms])

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return what the members say together about a batch of waveforms; see `Teacher`.

        Raises:
            ModelError: there is no such layer, or two members cut an utterance into frames whose
                numbers differ by more than one.
        """
        check_layers(self, layers)
        waveforms = [row[:n].numpy() for row, n in zip(inputs, lengths.tolist(), strict=True)]
        outputs = []
        for number, member in enumerate(self.members):
            prefix = f"{MEMBERS}.{number}."
            own = [name.removeprefix(prefix) for name in layers if name.startswith(prefix)]
            outputs.append(member.forward(*member.extract(waveforms), own, precision))
        hidden = {
            f"{MEMBERS}.{number}.{name}": values
            for number, output in enumerate(outputs)
            for name, values in output.hidden.items()
        }
        timed = outputs if self.gives_frames else [output for output in outputs if output.hidden]
        num_frames = common_frames([item.num_frames for item in timed], len(waveforms))
        longest = max(num_frames, default=0)
        hidden = {name: values[:, :longest] for name, values in hidden.items()}
        if self.gives_frames:
            return Outputs(self._mean(outputs, longest), num_frames, hidden)
        heard = [self._heard(*pair) for pair in zip(self.members, outputs, strict=True)]
        said = [self._combined(items) for items in zip(*heard, strict=True)]
        return Outputs(
            None,
            num_frames,
            hidden,
            [hypotheses for hypotheses, _ in said],
            [sure for _, sure in said],
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`."""
        outputs = self.forward(*self.extract(waveforms))
        if outputs.hypotheses is None:
            return [greedy_text(item, self.vocabulary) for item in outputs.items]
        return [items[0][0] for items in outputs.hypotheses]

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder, every member into one of its own."""
        for number, member in enumerate(self.members):
            own = folder / MEMBERS / str(number)
            own.mkdir(parents=True)
            member.save(own)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    def _mean(self, outputs: Sequence[Outputs], frames: int) -> np.ndarray:
        """Return the mean distribution's log-probabilities `(batch, frames, vocab)`."""
        shares = np.log(np.array(self.weights) / sum(self.weights))
        parts = []
        for output, share in zip(outputs, shares, strict=True):
            assert output.log_probs is not None
            parts.append(torch.from_numpy(output.log_probs[:, :frames]) + float(share))
        mean: np.ndarray = torch.stack(parts).logsumexp(dim=0).numpy()
        return mean

    def _heard(self, member: Teacher, outputs: Outputs) -> list[Heard]:
        """Return a member's texts of each utterance and its confidence in the best."""
        if outputs.hypotheses is None:
            assert outputs.log_probs is not None
            texts = [[greedy_text(item, member.vocabulary)] for item in outputs.items]
            scores = score_texts(outputs.log_probs, outputs.num_frames, texts, member.vocabulary)
            pairs = zip(texts, scores, strict=True)
            hypotheses: Sequence[Texts] = [list(zip(*pair, strict=True)) for pair in pairs]
            sure: Sequence[float] = [confidence(item) for item in outputs.items]
        else:
            assert outputs.confidences is not None
            hypotheses, sure = outputs.hypotheses, outputs.confidences
        return [
            Heard([(corpus_text(text, self.vocabulary), score) for text, score in items], value)
            for items, value in zip(hypotheses, sure, strict=True)
        ]

    def _combined(self, heard: Sequence[Heard]) -> tuple[Texts, float]:
        """Return an utterance's texts, best first, and the confidence in the best."""
        sure = [item.confidence for item in heard]
        if self.way == "best":
            chosen = heard[best_of(sure, self.weights)]
            return chosen.hypotheses, chosen.confidence
        texts = [item.hypotheses[0][0] for item in heard]
        found = rover(texts, sure, self.weights, self.count_share, MAX_TEXTS, self.unit)
        # Agreement alone is sure of what all of them guess, their confidences of what they dispute.
        agreement = np.exp(found[0].score / max(1, len(self.unit.parts(found[0].text))))
        mean = np.average(sure, weights=self.weights)
        return [(item.text, item.score) for item in found], float(agreement * mean)


def why_no_mean(members: Sequence[Teacher]) -> str:
    """Return why the members' posteriors cannot be averaged, empty where they can."""
    first = members[0]
    for number, member in enumerate(members):
        if not member.gives_frames:
            return f"member {number} gives texts"
        if member.vocabulary.tokens != first.vocabulary.tokens:
            return f"members 0 and {number} have other tokens"
        if not _equal_rates(member.frame_shift_seconds, first.frame_shift_seconds):
            return (
                f"member 0 has a frame every {1000 * first.frame_shift_seconds:g} ms, member "
                f"{number} every {1000 * member.frame_shift_seconds:g} ms"
            )
    return ""


def common_frames(counts: Sequence[Sequence[int]], batch: int) -> list[int]:
    """Return the frames `(batch,)` that all members have; those with one more lose their last.

    Args:
        counts: of each member, of each utterance.
        batch: utterances; without members each of them has no frame.

    Raises:
        ModelError: the numbers differ by more than one.
    """
    if not counts:
        return [0] * batch
    for row, numbers in enumerate(zip(*counts, strict=True)):
        if max(numbers) - min(numbers) > 1:
            raise ModelError(
                f"teacher: the members cut utterance {row} of a batch into {list(numbers)} frames, "
                "expected numbers that differ by one at most; set teacher.combine to rover, and "
                "keep hidden layers of one member alone"
            )
    return [min(numbers) for numbers in zip(*counts, strict=True)]


def load(folder: Path, device: str, load_member: LoadTeacher) -> Ensemble:
    """Load a saved ensemble.

    Args:
        folder: as `Ensemble.save` left it.
        device: where its members are to run.
        load_member: loads one of any kind.

    Raises:
        ModelError: a file is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        saved = read_json(path, _Saved)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    numbers = range(len(saved.architecture.members))
    return Ensemble(
        [load_member(folder / MEMBERS / str(number), device) for number in numbers],
        combine=saved.combine,
        weights=saved.weights,
        count_share=saved.count_share,
        vocabulary=load_vocabulary(folder / TOKENS_FILE),
        unit=saved.unit,
    )


@dataclass(frozen=True)
class _Members:
    """What config.json says of the members; each has all of it in a folder of its own."""

    members: Sequence[Json]


@dataclass(frozen=True)
class _Saved:
    """What config.json says of how members are combined."""

    architecture: _Members
    combine: str
    weights: Sequence[float]
    count_share: float
    unit: Unit = Unit.WORD


def _equal_rates(shift: float, other: float) -> bool:
    return abs(shift - other) <= RATE_TOLERANCE * other
