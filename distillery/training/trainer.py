"""The training loop of teachers, students and controls.

A run is a function of its inputs alone: order, dropout and masks of an epoch come from the seed
and the epoch's number, so a run that was killed goes on from its last checkpoint and ends with
the weights that an unbroken run has. There is a checkpoint after each epoch, and in a long one
whenever some time has passed since the last: epoch_state.py has what else that one needs.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distillery.data.scoring import count_text_errors
from distillery.device import choose_device, choose_precision
from distillery.errors import DistilleryError, ModelError
from distillery.files import remove_unfinished, write_bytes
from distillery.models.decoding import greedy_tokens
from distillery.models.layers import Network
from distillery.params.training import EveryTrainingParams, TrainingParams
from distillery.training.average import RunningAverage
from distillery.training.batches import Moment, TrainingSet
from distillery.training.convergence import has_stopped_improving
from distillery.training.curves import (
    CONVERGED,
    CPU_SECONDS,
    DIGEST_BYTES,
    VALID_WER,
    Curves,
    FitResult,
    Terms,
    Validation,
)
from distillery.training.eager import EagerAdamW
from distillery.training.epoch_state import NO_ERRORS, EpochState
from distillery.training.objective import NetworkOutputs, Objective
from distillery.training.points import Point
from distillery.training.schedule import Cooldown, cooldown_of, cosine_share, stable_share
from distillery.training.spec_augment import spec_augment

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One network on its way through one training run."""

    network: Network
    data: TrainingSet
    objective: Objective
    validation: Validation
    params: TrainingParams
    checkpoint: Path
    curves: Curves
    name: str
    plan_like: TrainingSet | None = None
    """Take as many steps per epoch as training on this set would."""
    stop_after: int | None = None
    """End after this epoch; the step size goes on as if there were more."""
    checkpoint_seconds: float = EveryTrainingParams().checkpoint_seconds
    """Time since the last checkpoint after which one is written inside an epoch."""

    def __post_init__(self) -> None:
        self.device = choose_device(self.params.device)
        self.precision = choose_precision(self.params.precision, self.device)
        torch.set_num_threads(self.params.num_threads)
        # As use_deterministic_algorithms, which imports PyTorch's compiler: a third of a start.
        torch.set_deterministic_debug_mode("error" if self.device == "cpu" else "default")
        # That would also fill every new tensor with NaN first: 5 % of a small student's step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.network.to(self.device)
        self.objective.to(self.device)
        self.parameters = [*self.network.parameters(), *self.objective.parameters()]
        *below, (share, top) = self.network.parameter_groups()
        groups = [*below, (share, [*top, *self.objective.parameters()])]
        self.optimiser = EagerAdamW(
            [{"params": parameters, "share": share} for share, parameters in groups],
            lr=self.params.learning_rate,
            weight_decay=self.params.weight_decay,
            fused=True,  # a fourth of the time of a loop over the parameters, 5 % of a step
        )
        self.epoch = 0
        self.step = 0
        self.best_epoch = -1
        self.best_wer = math.inf
        self.best_state: dict[str, Tensor] = {}
        self.average = RunningAverage.of(self.network, self.params.averaged_steps)
        self.rates: list[float] = []
        self.cpu_seconds = 0.0
        self.cpu_counted = time.process_time()
        self.within = EpochState()
        self.saved_at = time.monotonic()

    def fit(self) -> FitResult:
        """Train to the end, or until patience runs out; leave the best epoch's weights in place.

        Raises:
            DistilleryError: the loss is no finite number.
        """
        self._resume()
        self.saved_at = time.monotonic()
        plan, most = self._plan(self.epoch), self._last_epoch()
        total = self.step - self.within.num_steps + (most - self.epoch) * len(plan)
        bar = tqdm(
            total=total, initial=self.step, desc=self.name, unit="step", disable=total == self.step
        )
        with bar:
            while self._goes_on():
                self._one_epoch(bar)
                if self.cooldown is not None:
                    bar.total = self.step + (self._last_epoch() - self.epoch) * len(plan)
                    bar.refresh()
        converged = self.converged
        if not self.curves.values(CONVERGED):
            self.curves.log(self.step, {CONVERGED: float(converged)})
            self._save()  # or who asks once more would log it once more, at another time
        self.network.load_state_dict(self.best_state)
        self.network.eval()
        logger.info(
            "%s: %d epochs, best validation %s %.2f %% at epoch %d, %s",
            self.name,
            self.epoch,
            self.validation.unit.rate,
            100 * self.best_wer,
            self.best_epoch,
            "had stopped improving" if converged else "was still improving",
        )
        return FitResult(self.epoch, self.best_epoch, self.best_wer, converged)

    def _one_epoch(self, bar: tqdm[Any]) -> None:
        self.cpu_counted = time.process_time()
        terms = self._train_epoch(bar)
        with self.average.in_place_of(self.network):
            wer = self.validate()
            self.epoch += 1
            if wer <= self.best_wer:
                self.best_wer, self.best_epoch = wer, self.epoch
                self.best_state = _copy(self.network.state_dict())
        self.rates.append(wer)
        self.within = EpochState()
        self._count_cpu()
        self.curves.log(self.step, {**terms, VALID_WER: wer, CPU_SECONDS: self.cpu_seconds})
        shown = {self.validation.unit.rate.lower(): f"{100 * wer:.1f}%"}
        bar.set_postfix({"loss": f"{terms['train/loss']:.3f}", **shown})
        self._save()

    def _count_cpu(self) -> None:
        now = time.process_time()
        self.cpu_seconds += now - self.cpu_counted
        self.cpu_counted = now

    @property
    def cooldown(self) -> Cooldown | None:
        """Where the step size falls to 0, with `auto`; None: that is not known yet, or not so."""
        if self.params.known_epochs is not None:
            return None
        return cooldown_of(self.rates, self.params)

    @property
    def converged(self) -> bool:
        """Whether validation had stopped improving: with `auto` before the cooldown, else now.

        After a number of epochs `patience`, which may have stopped a student, judges neither it nor
        its control, so that both are judged alike.
        """
        if self.params.known_epochs is None:
            return self.cooldown is not None and self.cooldown.converged
        return has_stopped_improving(self.rates)

    def _last_epoch(self) -> int:
        """Return how many epochs there will be, at most."""
        cooldown = self.cooldown
        last = self.params.most_epochs if cooldown is None else cooldown.ends
        return min(last, self.stop_after or last)

    def _plan(self, epoch: int) -> list[list[int]]:
        is_auto = self.params.known_epochs is None
        least = self.params.min_epoch_steps if is_auto else 0
        plan = (self.plan_like or self.data).plan(epoch)
        if self.plan_like is None and len(plan) >= least:
            return plan
        return self.data.plan(epoch, max(len(plan), least))

    def _train_epoch(self, bar: tqdm[Any]) -> dict[str, float]:
        torch.manual_seed(self.params.seed * 1_000_003 + self.epoch)
        self.within.put_random(self.device)
        self.network.train()
        plan = self._plan(self.epoch)
        cooldown = self.cooldown
        for position in range(self.within.num_steps, len(plan)):
            self._save_if_due()
            epoch = self.epoch + position / len(plan)
            progress = epoch / self.params.most_epochs
            rate = self._learning_rate(epoch, cooldown)
            moment = Moment(self.epoch, position)
            self.within.add_step(self._train_step(plan[position], moment, rate, progress), rate)
            self.step += 1
            bar.update()
        self._check_loss()
        means = {f"train/{term}": mean for term, mean in self.within.means().items()}
        return {**means, "train/learning_rate": self.within.learning_rate}

    def _check_loss(self) -> None:
        loss = self.within.means()["loss"]
        if not math.isfinite(loss):
            raise DistilleryError(
                f"{self.name}: training loss is {loss} in epoch {self.epoch + 1}, "
                "expected a finite number; lower learning_rate or max_gradient_norm"
            )

    def _train_step(self, items: list[int], moment: Moment, rate: float, progress: float) -> Terms:
        batch = self.data.batch(items, moment)
        masked = spec_augment(batch.features, batch.feature_lengths, self.params.specaugment)
        batch = batch.to(self.device)
        with self.network.recording(self.objective.layers) as hidden:
            log_probs, lengths = self._forward(masked, batch.feature_lengths)
        states = {name: x.float() for name, x in hidden.items()}
        terms: Terms = self.objective(NetworkOutputs(log_probs, lengths, states, progress), batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["loss"])
        nn.utils.clip_grad_norm_(self.parameters, self.params.max_gradient_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)  # older checkpoints have none
        self.optimiser.step()
        self.average.update(self.network)
        return terms

    def _forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised log-probabilities `(batch, frames, vocab)` in fp32, and lengths."""
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            scores, lengths = self.network(features.to(self.device), lengths.to(self.device))
        return scores.float().log_softmax(dim=-1), lengths

    def _learning_rate(self, epoch: float, cooldown: Cooldown | None) -> float:
        """Return the step size of the step that follows so many epochs."""
        params = self.params
        if params.known_epochs is None:
            share = stable_share(self.step, params.warmup_steps, epoch, cooldown)
        else:
            share = cosine_share(epoch / params.known_epochs, params.warmup_fraction)
        return params.learning_rate * share

    @torch.inference_mode()
    def validate(self) -> float:
        """Return the rate of errors on the validation utterances, as a fraction.

        Batches that a checkpoint says have been decoded are not decoded again.
        """
        self.network.eval()
        unit, within = self.validation.unit, self.within
        for rows, features, lengths in self.validation.data.inference_batches(within.num_validated):
            self._save_if_due()
            errors = NO_ERRORS
            log_probs, out_lengths = self._forward(features, lengths)
            for row, item, length in zip(
                rows, log_probs.cpu().numpy(), out_lengths.tolist(), strict=True
            ):
                hypothesis = self.validation.vocabulary.decode(greedy_tokens(item[:length]))
                reference = self.validation.references[row]
                errors = errors + count_text_errors(reference, hypothesis, unit)
            within.add_validated(errors)
        rate = within.errors.rate
        within.errors, within.num_validated = NO_ERRORS, 0
        return rate

    def _goes_on(self) -> bool:
        return self.epoch < self._last_epoch() and not self._out_of_patience()

    def _out_of_patience(self) -> bool:
        patience = self.params.patience if self.params.known_epochs is not None else None
        return patience is not None and self.epoch - max(self.best_epoch, 0) >= patience

    def _save_if_due(self) -> None:
        """Write a checkpoint inside an epoch if the last one is too long ago.

        Raises:
            DistilleryError: the loss is no finite number; the last checkpoint was before that.
        """
        if self.within.num_steps and time.monotonic() - self.saved_at > self.checkpoint_seconds:
            self._check_loss()
            self._count_cpu()
            self.within.take_random(self.device)
            self._save()
            self.cpu_counted = time.process_time()

    def _save(self) -> None:
        buffer = io.BytesIO()
        torch.save(
            {
                "network": self.average.own_weights(self.network),
                "objective": self.objective.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "best_state": self.best_state,
                "best_epoch": self.best_epoch,
                "best_wer": self.best_wer,
                "epoch": self.epoch,
                "step": self.step,
                "cpu_seconds": self.cpu_seconds,
                "average": self.average.state,
                "average_count": self.average.count,
                "curves": [asdict(point) for point in self.curves.points],
                "within": asdict(self.within),
            },
            buffer,
        )
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        # PyTorch reads damaged files without a word. No copy of the content: it may be gigabytes.
        buffer.seek(0, io.SEEK_END)
        buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
        write_bytes(self.checkpoint, buffer.getbuffer())
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        remove_unfinished(self.checkpoint)
        if not self.checkpoint.exists():
            return
        whole = self.checkpoint.read_bytes()
        content, digest = whole[:-DIGEST_BYTES], whole[-DIGEST_BYTES:]
        try:
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("it does not match its SHA-256")
            state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
            self._lay_out_moments()
            # Older checkpoints have no average, nor the time.
            self.average.restore(state.get("average", {}), state.get("average_count", 0))
        except Exception as error:  # damaged, or of another version: it may fail in many ways
            raise ModelError(
                f"{self.checkpoint}: cannot be resumed from ({str(error)[:200]}); "
                "delete this file and run again, training then starts from the beginning"
            ) from None
        self.best_state, self.best_wer = state["best_state"], state["best_wer"]
        self.best_epoch, self.epoch, self.step = (
            state["best_epoch"],
            state["epoch"],
            state["step"],
        )
        self.curves.restore([Point(**point) for point in state["curves"]])
        self.rates = self.curves.values(VALID_WER)
        if self._goes_on():  # it was to stop earlier, then
            ends = self.curves.prefix + CONVERGED
            self.curves.restore([point for point in self.curves.points if point.key != ends])
        self.cpu_seconds = state.get("cpu_seconds", 0.0)
        where = f"epoch {self.epoch}"
        if "within" in state:  # older checkpoints are of ends of epochs
            self.within = EpochState.restored(state["within"])
            where += f" and {self.within.num_steps} steps" if self.within.num_steps else ""
        logger.info("%s: goes on after %s", self.name, where)

    def _lay_out_moments(self) -> None:
        """Give AdamW's moments the memory layout of their weights, as its fused loop needs it.

        An older checkpoint may hold them in another, and that loop would take one weight's moments
        for another's.
        """
        for weight, moments in self.optimiser.state.items():
            for name, value in moments.items():
                if value.shape == weight.shape and value.stride() != weight.stride():
                    moments[name] = torch.empty_like(weight).copy_(value).detach()


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
