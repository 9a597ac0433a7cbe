import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillery.architectures.known import STUDENTS
from distillery.data.features import PackedFeatures
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.errors import DistilleryError, ModelError
from distillery.params.models import CRNNParams, SeparableConvParams
from distillery.params.training import SpecAugmentParams, TrainingParams
from distillery.training.batches import Batch, Moment, TrainingSet
from distillery.training.curves import DIGEST_BYTES, Curves, Validation
from distillery.training.objective import NetworkOutputs, Objective, TranscriptObjective
from distillery.training.trainer import Trainer
from tests.attacks import Payload

VOCABULARY = Vocabulary.from_alphabet("ab")
NUM_MELS = 8
TEXTS = ["a", "b", "ab", "ba", "a b", "b a"]


def packed(texts: list[str], seed: int = 0) -> PackedFeatures:
    """Features that spell the text: ten frames a character, one mel band each."""
    random = np.random.default_rng(seed)
    parts = []
    for text in texts:
        frames = random.normal(0, 0.1, (10 * len(text) + 10, NUM_MELS))
        for position, character in enumerate(text):
            frames[10 * position + 4 : 10 * position + 12, 2 * "ab ".index(character)] += 2
        parts.append(frames.astype(np.float16))
    offsets = np.cumsum([0, *map(len, parts)])
    return PackedFeatures(np.concatenate(parts), offsets)


def training_set(copies: int = 4, seed: int = 0) -> TrainingSet:
    features = [packed(TEXTS, seed=copy) for copy in range(copies)]
    labels = [VOCABULARY.encode(text) for text in TEXTS]
    return TrainingSet(features, labels, 0.01, batch_seconds=3.0, seed=seed)


def validation() -> Validation:
    data = TrainingSet([packed(TEXTS, seed=99)], [None] * len(TEXTS), 0.01, 3.0, 0)
    return Validation(data, TEXTS, VOCABULARY)


CONV = SeparableConvParams(
    type="separable_conv", channels=16, num_blocks=1, kernel_size=5, time_reduction=2
)
CRNN = CRNNParams(type="crnn", conv_channels=4, hidden_size=8, num_layers=2, time_reduction=2)


def trainer(folder: Path, params: TrainingParams, **changes) -> Trainer:
    torch.manual_seed(params.seed)
    architecture = changes.pop("architecture", CONV)
    network = STUDENTS[architecture.type](architecture, NUM_MELS, len(VOCABULARY))
    return Trainer(
        network,
        training_set(),
        changes.pop("objective", TranscriptObjective()),
        validation(),
        params,
        folder / "run.pt",
        Curves(folder / "curves.jsonl"),
        "test",
        **changes,
    )


def strip(folder: Path) -> list[tuple[str, float, int]]:
    """Return a run's curve without what the clock said."""
    rows = map(json.loads, (folder / "curves.jsonl").read_text().splitlines())
    return [
        (row["key"], row["value"], row["step"]) for row in rows if row["key"] != "train/cpu_seconds"
    ]


def weights_of(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.network.state_dict().items()}


PARAMS = TrainingParams(num_epochs=6, learning_rate=1e-2, num_threads=1)


def test_it_learns_and_keeps_the_best_epochs_weights(tmp_path: Path) -> None:
    no_masks = SpecAugmentParams(num_time_masks=0, num_frequency_masks=0)
    run = trainer(tmp_path, PARAMS.model_copy(update={"num_epochs": 80, "specaugment": no_masks}))
    result = run.fit()
    assert result.best_wer < 0.3
    assert run.validate() == pytest.approx(result.best_wer)
    wers = [
        row["value"]
        for row in map(json.loads, (tmp_path / "curves.jsonl").read_text().splitlines())
        if row["key"] == "valid/wer"
    ]
    assert len(wers) == 80
    assert min(wers) == result.best_wer


def test_equal_inputs_give_equal_weights(tmp_path: Path) -> None:
    weights = []
    for name in ("one", "two"):
        run = trainer(tmp_path / name, PARAMS)
        run.fit()
        weights.append(weights_of(run))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, two = (
        trainer(tmp_path / str(seed), PARAMS.model_copy(update={"seed": seed})) for seed in (0, 1)
    )
    one.fit(), two.fit()
    assert not torch.equal(one.network.output.weight, two.network.output.weight)


@pytest.mark.parametrize("architecture", [CONV, CRNN], ids=["conv", "crnn"])
def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(
    tmp_path: Path, architecture: SeparableConvParams | CRNNParams
) -> None:
    unbroken = trainer(tmp_path / "unbroken", PARAMS, architecture=architecture)
    unbroken.fit()

    class KilledError(Exception):
        pass

    killed = trainer(tmp_path / "killed", PARAMS, architecture=architecture)
    save = killed._save

    def save_and_die() -> None:
        save()
        if killed.epoch == 3:
            raise KilledError

    killed._save = save_and_die  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        killed.fit()
    resumed = trainer(tmp_path / "killed", PARAMS, architecture=architecture)
    result = resumed.fit()
    assert result.num_epochs == 6
    expected, found = weights_of(unbroken), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert strip(tmp_path / "killed") == strip(tmp_path / "unbroken")


def test_moments_of_another_layout_are_those_of_the_same_weights(tmp_path: Path) -> None:
    trainer(tmp_path, PARAMS, architecture=CRNN, stop_after=3).fit()
    weights = []
    for name in ("as it is", "older"):
        content = (tmp_path / "run.pt").read_bytes()[:-DIGEST_BYTES]
        state = torch.load(io.BytesIO(content), weights_only=True)
        if name == "older":
            listed = state["optimiser"]["state"].values()
            assert not all(moments["exp_avg"].is_contiguous() for moments in listed)
            for moments in listed:
                moments |= {key: value.contiguous() for key, value in moments.items()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        (tmp_path / name).mkdir()
        digest = hashlib.sha256(buffer.getvalue()).digest()
        (tmp_path / name / "run.pt").write_bytes(buffer.getvalue() + digest)
        resumed = trainer(tmp_path / name, PARAMS, architecture=CRNN)
        resumed.fit()
        weights.append(weights_of(resumed))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "run.pt"
    torch.save({"network": Payload(witness)}, path)
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(ModelError, match=r"run\.pt: cannot be resumed from .*delete this file"):
        trainer(tmp_path, PARAMS).fit()
    assert not witness.exists()
    torch.load(io.BytesIO(content), weights_only=False)  # the attack is a real one
    assert witness.exists()


def test_a_damaged_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """PyTorch by itself goes on with flipped weights."""
    trainer(tmp_path, PARAMS).fit()
    path = tmp_path / "run.pt"
    whole = path.read_bytes()
    weights = next(iter(torch.load(io.BytesIO(whole[:-32]), weights_only=True)["network"].values()))
    flipped = bytearray(whole)
    flipped[whole.index(bytes(weights.untyped_storage()))] ^= 1
    torch.load(io.BytesIO(flipped[:-32]), weights_only=True)
    for damaged in (b"no checkpoint", whole[: len(whole) // 2], bytes(flipped), b""):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"run\.pt: cannot be resumed .* delete this file"):
            trainer(tmp_path, PARAMS).fit()


def test_patience_ends_training_early(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"num_epochs": 50, "patience": 2, "learning_rate": 1e-9})
    run = trainer(tmp_path, params)
    run.validate = lambda: 1.0 + run.epoch  # type: ignore[method-assign]  # ever worse
    assert run.fit().num_epochs == 3


def test_stop_after_ends_at_that_epoch(tmp_path: Path) -> None:
    assert trainer(tmp_path, PARAMS, stop_after=2).fit().num_epochs == 2


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    class Nonsense(Objective):
        def forward(self, outputs, batch):
            return {"loss": outputs.log_probs.sum() * float("nan")}

    with pytest.raises(DistilleryError, match="training loss is nan in epoch 1, expected"):
        trainer(tmp_path, PARAMS, objective=Nonsense()).fit()


class WithHead(TranscriptObjective):
    """CTC, and a head of its own that tells from a hidden layer how far training has come."""

    layers = ("blocks.0",)

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(16, 1)
        self.progress: list[float] = []

    def forward(self, outputs: NetworkOutputs, batch) -> dict[str, torch.Tensor]:
        self.progress.append(outputs.progress)
        assert list(outputs.hidden) == ["blocks.0"]
        states = outputs.hidden["blocks.0"]
        assert states.shape[:2] == outputs.log_probs.shape[:2]
        terms = super().forward(outputs, batch)
        head = (self.head(states).mean() - outputs.progress).square()
        return {**terms, "loss": terms["loss"] + head, "head": head}


def with_head() -> WithHead:
    torch.manual_seed(5)
    return WithHead()


def test_an_objectives_own_parameters_are_trained_and_no_model_holds_them(tmp_path: Path) -> None:
    objective = with_head()
    run = trainer(tmp_path, PARAMS, objective=objective)
    run.fit()
    assert not torch.equal(objective.head.weight, with_head().head.weight)
    assert not [name for name in run.network.state_dict() if "head" in name]
    steps = len(objective.progress)
    assert objective.progress == pytest.approx([step / steps for step in range(steps)])


def test_gradients_of_an_objectives_own_parameters_are_clipped_with_the_networks(
    tmp_path: Path,
) -> None:
    params = PARAMS.model_copy(update={"num_epochs": 1, "max_gradient_norm": 1e-3})
    run = trainer(tmp_path, params, objective=with_head())
    run.fit()
    squares = [float(x.grad.square().sum()) for x in run.parameters if x.grad is not None]
    assert len(squares) == len(list(run.network.parameters())) + 2
    assert sum(squares) ** 0.5 == pytest.approx(1e-3, rel=1e-3)


def test_a_killed_run_goes_on_with_its_objectives_own_parameters(tmp_path: Path) -> None:
    unbroken = trainer(tmp_path / "unbroken", PARAMS, objective=with_head())
    unbroken.fit()
    trainer(tmp_path / "killed", PARAMS, objective=with_head(), stop_after=3).fit()
    torch.manual_seed(6)
    resumed = trainer(tmp_path / "killed", PARAMS, objective=WithHead())  # other random weights
    resumed.fit()
    expected, found = weights_of(unbroken), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(unbroken.objective.head.weight, resumed.objective.head.weight)
    assert strip(tmp_path / "killed") == strip(tmp_path / "unbroken")


def test_augmentation_is_told_every_step_of_every_epoch(tmp_path: Path) -> None:
    told: list[tuple[int, int, list[int]]] = []

    def listen(batch: Batch, rows: Sequence[int], moment: Moment) -> Batch:
        told.append((moment.epoch, moment.step, list(rows)))
        return batch

    run = trainer(tmp_path, PARAMS.model_copy(update={"num_epochs": 3}))
    run.data = replace(run.data, augment=listen)
    run.fit()
    plans = [run.data.plan(epoch) for epoch in range(3)]
    assert told == [
        (epoch, step, [item % len(TEXTS) for item in items])
        for epoch, plan in enumerate(plans)
        for step, items in enumerate(plan)
    ]


class Says(Vocabulary):
    """A vocabulary in which every path says the same."""

    def decode(self, tokens: Sequence[int]) -> str:
        return "ab"


def test_the_best_epoch_is_chosen_by_what_the_data_are_counted_in(tmp_path: Path) -> None:
    run = trainer(tmp_path, PARAMS.model_copy(update={"num_epochs": 1}))
    run.validation = replace(
        run.validation,
        references=["abb"] * len(TEXTS),
        vocabulary=Says(VOCABULARY.tokens),
        unit=Unit.CHARACTER,
    )
    assert run.validate() == pytest.approx(1 / 3)
    run.validation = replace(run.validation, unit=Unit.WORD)
    assert run.validate() == 1.0


def test_the_log_names_the_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, PARAMS.model_copy(update={"num_epochs": 1}))
    run.validation = replace(run.validation, unit=Unit.CHARACTER)
    with caplog.at_level("INFO"):
        run.fit()
    assert "best validation CER" in caplog.text


def told(run: Trainer, rates: Sequence[float]) -> Trainer:
    """Let a run's validation say this after each epoch, the last one ever after."""
    run.validate = lambda: rates[min(run.epoch, len(rates) - 1)]  # type: ignore[method-assign]
    return run


FALLING = [0.8, 0.6, 0.4]
UNTIL_CONVERGED = TrainingParams(
    num_epochs="auto",
    max_epochs=30,
    patience=4,
    cooldown_fraction=0.5,
    min_epoch_steps=1,
    warmup_steps=5,
    learning_rate=1e-2,
    average_steps=4,
    num_threads=1,
)
# The mean of five is lowest at epoch 7, four epochs follow, and half of the eleven cool down.
BEGINS, ENDS = 11, 17


def learning_rates(folder: Path) -> list[float]:
    return [value for key, value, _ in strip(folder) if key == "train/learning_rate"]


def test_auto_ends_when_validation_has_stopped_improving_and_a_cooldown_is_over(
    tmp_path: Path,
) -> None:
    run = told(trainer(tmp_path, UNTIL_CONVERGED), FALLING)
    result = run.fit()
    assert (result.num_epochs, result.converged, result.best_epoch) == (ENDS, True, ENDS)
    rates = learning_rates(tmp_path)
    assert rates[0] == pytest.approx(0.6e-2)  # the third of five steps of warm-up
    assert rates[1:BEGINS] == [1e-2] * (BEGINS - 1)
    # The last step of an epoch of three stands in the curve.
    expected = [1e-2 * (1 - ((n + 2 / 3) / (ENDS - BEGINS)) ** 0.5) for n in range(ENDS - BEGINS)]
    assert rates[BEGINS:] == pytest.approx(expected)
    assert strip(tmp_path)[-1] == ("valid/converged", 1.0, 3 * ENDS)


@pytest.mark.parametrize(
    ("least", "like", "expected"), [(8, 0, 8), (2, 0, 3), (8, 5, 8), (2, 5, 5)]
)
def test_an_epoch_of_small_data_has_several_passes_with_auto(
    tmp_path: Path, least: int, like: int, expected: int
) -> None:
    params = UNTIL_CONVERGED.model_copy(update={"min_epoch_steps": least})
    run = trainer(tmp_path, params, stop_after=1)
    plans = run.data.plan
    run.plan_like = None if not like else SimpleNamespace(plan=lambda epoch: plans(epoch, like))
    run.fit()
    assert (run.epoch, run.step) == (1, expected)
    seen = Counter(item for items in run._plan(1) for item in items)
    assert min(seen.values()) >= expected // 3, "every utterance is met in every pass"


def test_bf16_is_the_arithmetic_of_the_forward_pass_alone(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        params = PARAMS.model_copy(update={"num_epochs": 1, "precision": precision})
        run = trainer(tmp_path / precision, params)
        given: set[torch.dtype] = set()
        run.network.register_forward_hook(lambda *item, given=given: given.add(item[2][0].dtype))
        run.fit()
        log_probs, _ = run._forward(torch.zeros(1, 20, NUM_MELS), torch.tensor([20]))
        assert given == {torch.bfloat16 if precision == "bf16" else torch.float32}
        moments = [value for state in run.optimiser.state.values() for value in state.values()]
        kept = [*run.network.parameters(), *moments, log_probs]
        assert {tensor.dtype for tensor in kept} == {torch.float32}
        losses[precision] = {key: value for key, value, _ in strip(tmp_path / precision)}
    fp32, bf16 = (item["train/loss"] for item in losses.values())
    assert fp32 != bf16 and bf16 == pytest.approx(fp32, rel=0.02)


def test_a_number_of_epochs_counts_passes(tmp_path: Path) -> None:
    run = trainer(tmp_path, PARAMS, stop_after=2)
    run.fit()
    assert run.step == 2 * 3


def test_auto_ends_at_the_maximum_and_says_so(tmp_path: Path) -> None:
    run = told(trainer(tmp_path, UNTIL_CONVERGED), [0.9**n for n in range(40)])
    result = run.fit()
    assert (result.num_epochs, result.converged) == (30, False)
    assert learning_rates(tmp_path)[19:21] == pytest.approx([1e-2, 1e-2 * (1 - 0.0667**0.5)], 1e-2)
    assert strip(tmp_path)[-1] == ("valid/converged", 0.0, 90)


def test_a_number_of_epochs_is_told_to_have_converged_by_the_same_rule(tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"num_epochs": 30})
    flat = told(trainer(tmp_path / "flat", params), FALLING).fit()
    falling = told(trainer(tmp_path / "falling", params), [0.9**n for n in range(30)]).fit()
    assert (flat.num_epochs, flat.converged) == (30, True)
    assert (falling.num_epochs, falling.converged) == (30, False)


@pytest.mark.parametrize("killed_after", [1, 6, BEGINS, BEGINS + 2, ENDS])
def test_auto_goes_on_after_a_kill_in_every_phase(tmp_path: Path, killed_after: int) -> None:
    unbroken = told(trainer(tmp_path / "unbroken", UNTIL_CONVERGED), FALLING)
    unbroken.fit()
    killed = trainer(tmp_path / "killed", UNTIL_CONVERGED, stop_after=killed_after)
    told(killed, FALLING).fit()
    resumed = told(trainer(tmp_path / "killed", UNTIL_CONVERGED), FALLING)
    assert resumed.fit().num_epochs == ENDS
    expected, found = weights_of(unbroken), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert strip(tmp_path / "killed") == strip(tmp_path / "unbroken")


def test_computing_time_is_counted_on_over_a_kill(tmp_path: Path) -> None:
    trainer(tmp_path, PARAMS, stop_after=3).fit()
    trainer(tmp_path, PARAMS).fit()
    rows = map(json.loads, (tmp_path / "curves.jsonl").read_text().splitlines())
    seconds = [row["value"] for row in rows if row["key"] == "train/cpu_seconds"]
    assert len(seconds) == 6
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_a_checkpoint_of_before_there_was_auto_is_gone_on_from(tmp_path: Path) -> None:
    unbroken = trainer(tmp_path / "unbroken", PARAMS)
    unbroken.fit()
    trainer(tmp_path / "old", PARAMS, stop_after=3).fit()
    path = tmp_path / "old/run.pt"
    state = torch.load(io.BytesIO(path.read_bytes()[:-32]), weights_only=True)
    for name in ("average", "average_count", "cpu_seconds"):
        del state[name]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.write_bytes(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
    resumed = trainer(tmp_path / "old", PARAMS)
    resumed.fit()
    expected, found = weights_of(unbroken), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_finished_training_that_is_asked_once_more_logs_nothing_anew(tmp_path: Path) -> None:
    trainer(tmp_path, PARAMS).fit()
    before = (tmp_path / "curves.jsonl").read_text()
    again = trainer(tmp_path, PARAMS)
    assert again.fit().num_epochs == 6
    assert (tmp_path / "curves.jsonl").read_text() == before  # to the millisecond
