"""How terms meet batches and one another: frames, hidden states, heads, schedules."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from distillery.architectures.known import STUDENTS
from distillery.distill.objective import DistillationObjective
from distillery.errors import ModelError
from distillery.losses.ctc import CTC
from distillery.losses.hidden import HiddenLoss
from distillery.losses.intermediate import IntermediateHeads
from distillery.losses.kl import FrameKL
from distillery.losses.sequence import Sequence
from distillery.params.models import SeparableConvParams
from distillery.params.objective import FrameLossParams, ObjectiveParams
from distillery.training.batches import Batch, pad_hypotheses, pad_tokens
from distillery.training.objective import NetworkOutputs, TranscriptObjective

VOCAB = 4
LENGTHS = torch.tensor([6, 4])


def log_probs(seed: int, frames: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, frames, VOCAB, generator=generator, dtype=torch.float64)
    return scores.log_softmax(dim=-1)


def batch_of(teacher: torch.Tensor, lengths: torch.Tensor = LENGTHS) -> Batch:
    """Return a batch without transcripts."""
    nothing = torch.zeros(2, 0, dtype=torch.long)
    absent = torch.full((2,), -1)
    return Batch(
        torch.zeros(2, 0, 3),
        LENGTHS,
        nothing,
        absent,
        teacher,
        lengths,
        *pad_hypotheses([(), ()]),
    )


def sparse_batch(teacher: torch.Tensor, temperature: float) -> Batch:
    """Return the same with all tokens kept, the likeliest first, and one empty place."""
    values, ids = teacher.sort(dim=-1, descending=True)
    softened = (teacher / temperature).log_softmax(dim=-1).gather(-1, ids)
    return replace(
        batch_of(pad(values, (0, 1), value=-1e4)),
        teacher_ids=pad(ids, (0, 1), value=-1),
        teacher_softened=pad(softened, (0, 1), value=-1e4),
    )


def frame_term(
    student: torch.Tensor, batch: Batch, *, ratio: int = 1, sparse: bool = False, **settings
) -> torch.Tensor:
    params = ObjectiveParams(teacher_share=1.0, frame=FrameLossParams(**settings))
    objective = DistillationObjective(params, ratio, sparse_targets=sparse)
    return objective(NetworkOutputs(student, LENGTHS), batch)["frame"]


SETTINGS = [
    {"type": "kl"},
    {"type": "logit_mse", "blank_mode": "all"},
    {"blank_mode": "nonblank", "temperature": 1.0},
    {"blank_mode": "trim", "weighting": "confidence"},
    {"blank_mode": "threshold", "blank_threshold": 0.5},
    {"blank_mode": "all", "delay_frames": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_zero_when_student_equals_teacher(settings) -> None:
    teacher = log_probs(1)
    assert frame_term(teacher, batch_of(teacher), **settings).item() == pytest.approx(0, abs=1e-12)
    assert frame_term(log_probs(2), batch_of(teacher), **settings).item() > 0.01


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_does_not_change_it(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    other = teacher.clone()
    other[1, 4:] = log_probs(9)[1, 4:]
    padded = batch_of(pad(other, (0, 0, 0, 3), value=-5.0))
    expected = frame_term(student, batch_of(teacher), **settings)
    found = frame_term(pad(student, (0, 0, 0, 2), value=-7.0), padded, **settings)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_is_right(settings) -> None:
    student, batch = log_probs(1).requires_grad_(), batch_of(log_probs(2))
    assert torch.autograd.gradcheck(lambda s: frame_term(s, batch, **settings), (student,))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_finite_for_a_certain_teacher(settings) -> None:
    teacher = torch.full((2, 6, VOCAB), -1e4, dtype=torch.float64)
    teacher[..., 2] = 0.0
    student = log_probs(1).requires_grad_()
    value = frame_term(student, batch_of(teacher), **settings)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("settings", [s for s in SETTINGS if s.get("type") != "logit_mse"], ids=str)
def test_sparse_targets_that_keep_everything_equal_dense_ones(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    batch = sparse_batch(teacher, settings.get("temperature", 2.0))
    torch.testing.assert_close(
        frame_term(student, batch, sparse=True, **settings),
        frame_term(student, batch_of(teacher), **settings),
    )


POOLED = [s for s in SETTINGS if "delay_frames" not in s]


@pytest.mark.parametrize("settings", POOLED, ids=str)
def test_padding_does_not_change_it_when_frames_are_pooled(settings) -> None:
    student, teacher, lengths = log_probs(1), log_probs(2, 12), torch.tensor([12, 7])
    other = teacher.clone()
    other[1, 7:] = log_probs(9, 12)[1, 7:]
    padded = batch_of(pad(other, (0, 0, 0, 3), value=-5.0), lengths)
    expected = frame_term(student, batch_of(teacher, lengths), ratio=2, **settings)
    found = frame_term(pad(student, (0, 0, 0, 2), value=-7.0), padded, ratio=2, **settings)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", POOLED, ids=str)
def test_the_gradient_is_right_when_frames_are_pooled(settings) -> None:
    student, batch = log_probs(1).requires_grad_(), batch_of(log_probs(2, 12), 2 * LENGTHS)
    assert torch.autograd.gradcheck(lambda s: frame_term(s, batch, ratio=2, **settings), (student,))


def test_the_gradient_is_right_for_sparse_targets() -> None:
    student, batch = log_probs(1).requires_grad_(), sparse_batch(log_probs(2), 2.0)
    assert torch.autograd.gradcheck(lambda s: frame_term(s, batch, sparse=True), (student,))


def test_each_real_frame_counts_once() -> None:
    student, teacher = log_probs(1), log_probs(2)
    values = FrameKL(2.0)(student, teacher)
    expected = (values[0].sum() + values[1, :4].sum()) / 10
    found = frame_term(student, batch_of(teacher), blank_mode="all")
    torch.testing.assert_close(found, expected)


def test_selection_and_weights_come_from_the_pooled_teacher() -> None:
    teacher = torch.full((2, 12, VOCAB), -9.0, dtype=torch.float64)
    teacher[:, :, 0] = 0.0
    teacher[0, 5] = torch.tensor([-9.0, 0.0, -9.0, -9.0])  # the odd one of its pair
    batch = batch_of(teacher.log_softmax(dim=-1), 2 * LENGTHS)
    pair = torch.tensor([0.0, 0.0, -9.0, -9.0], dtype=torch.float64).log_softmax(-1)
    # Pooled, frame 2 is half blank; no other is below 0.6.
    settings = {"blank_mode": "threshold", "blank_threshold": 0.6}
    student = log_probs(1)
    expected = FrameKL(2.0)(student[:1, 2:3], pair[None, None])[0, 0]
    torch.testing.assert_close(frame_term(student, batch, ratio=2, **settings), expected)


@pytest.mark.parametrize("lag", [1, 2])
def test_a_student_that_lags_within_the_window_loses_nothing(lag: int) -> None:
    teacher = log_probs(2)
    student = torch.cat([log_probs(1)[:, :lag], teacher[:, :-lag]], dim=1)
    batch = batch_of(teacher)
    settings = {"blank_mode": "all"}
    assert frame_term(student, batch, **settings).item() > 0.1
    assert frame_term(student, batch, delay_frames=lag - 1, **settings).item() > 0.1
    delayed = frame_term(student, batch, delay_frames=3, **settings)
    assert delayed.item() == pytest.approx(0, abs=1e-12)


def test_the_best_delay_equals_trying_all_of_them_for_each_utterance() -> None:
    student, teacher = log_probs(1), log_probs(2)
    total, count = 0.0, 0
    for row, length in enumerate(LENGTHS.tolist()):
        tried = []
        for delay in range(3):
            pairs = range(length - delay)
            losses = [
                FrameKL(2.0)(student[row, t + delay][None, None], teacher[row, t][None, None])
                for t in pairs
            ]
            tried.append((float(sum(losses)) / len(losses), len(losses)))
        mean, frames = min(tried)
        total, count = total + mean * frames, count + frames
    found = frame_term(student, batch_of(teacher), blank_mode="all", delay_frames=2)
    assert found.item() == pytest.approx(total / count)


def test_a_window_longer_than_the_utterances_is_cut() -> None:
    value = frame_term(log_probs(1), batch_of(log_probs(2)), blank_mode="all", delay_frames=99)
    assert value.isfinite()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_utterances_that_the_teacher_says_nothing_about_do_not_count(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    only_first = frame_term(student, batch_of(teacher, torch.tensor([6, 0])), **settings)
    other = student.clone()
    other[1] = log_probs(5)[1]
    found = frame_term(other, batch_of(teacher, torch.tensor([6, 0])), **settings)
    torch.testing.assert_close(found, only_first)
    assert only_first.item() > 0.01


def test_a_batch_that_the_teacher_says_nothing_about_can_be_learnt_from_all_the_same() -> None:
    student = log_probs(1).requires_grad_()
    for teacher in (log_probs(2), torch.zeros(2, 0, VOCAB), torch.zeros(2, 0, 0)):
        value = frame_term(student, batch_of(teacher, torch.tensor([0, 0])))
        assert value.item() == 0.0
        value.backward()
        assert student.grad is not None
        assert not student.grad.any()


# --- all terms together ---------------------------------------------------------------------------

WIDTHS = {"front": 3, "blocks.0": 3}
ALL_TERMS = {
    "teacher_share": 0.4,
    "frame": {"weight": 0.5, "blank_mode": "all"},
    "sequence": {"weight": 2.0},
    "hidden": {"layers": {"front": "recurrent.0"}, "weight": 3.0},
    "intermediate": {"layers": ["blocks.0", "front"], "weight": 0.7},
}


def full_objective(**changes) -> DistillationObjective:
    torch.manual_seed(0)
    params = ObjectiveParams.model_validate({**ALL_TERMS, **changes})
    hidden = HiddenLoss(params.hidden, 1, WIDTHS, {"recurrent.0": 5})
    heads = IntermediateHeads(params.intermediate.layers, WIDTHS, VOCAB)
    return DistillationObjective(params, 1, hidden=hidden, heads=heads).double()


def full_batch() -> Batch:
    labels, label_lengths = pad_tokens([[1, 2], None])
    teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(7))
    names = ("hypotheses", "hypothesis_lengths", "hypothesis_weights")
    hypotheses = pad_hypotheses([[([1, 2], 0.75), ([3], 0.25)], [([2], 1.0)]])
    return replace(
        batch_of(log_probs(2)),
        labels=labels,
        label_lengths=label_lengths,
        teacher_hidden={"recurrent.0": teacher.half()},
        **dict(zip(names, hypotheses, strict=True)),
    )


def full_outputs(progress: float = 0.0) -> NetworkOutputs:
    generator = torch.Generator().manual_seed(8)
    hidden = {
        name: torch.randn(2, 6, width, generator=generator, dtype=torch.float64)
        for name, width in WIDTHS.items()
    }
    return NetworkOutputs(log_probs(1), LENGTHS, hidden, progress)


def mixed(output: torch.Tensor, batch: Batch, share: float) -> torch.Tensor:
    """The mix of one output by the formula, its losses one by one."""
    ctc = CTC()(output, LENGTHS, batch.labels, batch.label_lengths)
    values = FrameKL(2.0)(output, batch.teacher_log_probs)
    frame = (values[0].sum() + values[1, :4].sum()) / 10
    sequence = Sequence()(
        output,
        LENGTHS,
        batch.hypotheses,
        batch.hypothesis_lengths,
        batch.hypothesis_weights.double(),
    )
    return (1 - share) * ctc + share * (0.5 * frame + 2.0 * sequence)


def test_the_loss_is_the_formulas_sum() -> None:
    objective, batch, outputs = full_objective(), full_batch(), full_outputs()
    terms = objective(outputs, batch)
    assert list(terms) == ["loss", "ctc", "frame", "sequence", "hidden", "intermediate"]
    hidden = objective.hidden(outputs.hidden, LENGTHS, batch.teacher_hidden, LENGTHS)
    torch.testing.assert_close(terms["hidden"], hidden)
    heads = [mixed(x, batch, 0.4) for x in objective.heads(outputs.hidden)]
    assert len(heads) == 2
    torch.testing.assert_close(terms["intermediate"], sum(heads) / 2)
    expected = mixed(outputs.log_probs, batch, 0.4) + 0.4 * 3.0 * hidden + 0.7 * sum(heads) / 2
    torch.testing.assert_close(terms["loss"], expected)


def test_the_gradient_of_all_terms_is_right() -> None:
    objective, batch, outputs = full_objective(), full_batch(), full_outputs()
    inputs = [outputs.log_probs, *outputs.hidden.values()]

    def loss(output: torch.Tensor, *states: torch.Tensor) -> torch.Tensor:
        hidden = dict(zip(WIDTHS, states, strict=True))
        return objective(NetworkOutputs(output.log_softmax(-1), LENGTHS, hidden), batch)["loss"]

    assert torch.autograd.gradcheck(loss, [x.detach().requires_grad_() for x in inputs])


def test_padding_does_not_change_any_term() -> None:
    objective, batch, outputs = full_objective(), full_batch(), full_outputs()
    hidden = {name: pad(x, (0, 0, 0, 2), value=5.0) for name, x in outputs.hidden.items()}
    padded = replace(
        batch,
        labels=pad(batch.labels, (0, 1)),
        teacher_log_probs=pad(batch.teacher_log_probs, (0, 0, 0, 3), value=-5.0),
        teacher_hidden={n: pad(x, (0, 0, 0, 3)) for n, x in batch.teacher_hidden.items()},
        hypotheses=pad(batch.hypotheses, (0, 1)),
    )
    longer = NetworkOutputs(pad(outputs.log_probs, (0, 0, 0, 2), value=-7.0), LENGTHS, hidden)
    expected = objective(outputs, batch)
    for name, value in objective(longer, padded).items():
        torch.testing.assert_close(value, expected[name])


def test_an_objective_names_the_layers_that_it_reads_once() -> None:
    assert full_objective().layers == ("front", "blocks.0")
    assert DistillationObjective(ObjectiveParams(), 1).layers == ()
    assert TranscriptObjective().layers == ()


RISING = {"start": 0.0, "end": 1.0}


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_scheduled_share_is_that_share_at_its_time_and_is_told(progress: float) -> None:
    batch = full_batch()
    scheduled = full_objective(teacher_share=RISING)(full_outputs(progress), batch)
    assert scheduled.pop("teacher_share").item() == progress
    assert {"ctc", "frame", "sequence", "hidden"} < set(scheduled)  # also where they weigh 0
    constant = full_objective(teacher_share=progress)(full_outputs(), batch)
    assert "teacher_share" not in constant
    torch.testing.assert_close(scheduled["loss"], constant["loss"])


@pytest.mark.parametrize("term", ["frame", "sequence", "hidden", "intermediate"])
def test_a_scheduled_weight_is_that_weight_at_its_time(term: str) -> None:
    batch, settings = full_batch(), dict(ALL_TERMS[term])  # type: ignore[call-overload]
    changing = {term: {**settings, "weight": {"start": 2.0, "end": 0.0, "from": 0.5}}}
    objective = full_objective(**changing)
    for progress, weight in ((0.0, 2.0), (0.75, 1.0), (1.0, 0.0)):
        constant = full_objective(**{term: {**settings, "weight": weight}})
        found = objective(full_outputs(progress), batch)["loss"]
        torch.testing.assert_close(found, constant(full_outputs(), batch)["loss"])


# --- an objective's own parameters ----------------------------------------------------------------


def student() -> torch.nn.Module:
    torch.manual_seed(3)
    architecture = SeparableConvParams(
        type="separable_conv", channels=4, num_blocks=1, kernel_size=3
    )
    return STUDENTS["separable_conv"](architecture, 8, VOCAB)


def objective_of(network: torch.nn.Module, seed: int = 0, **changes) -> DistillationObjective:
    return DistillationObjective.for_network(
        network,
        ObjectiveParams.model_validate({**ALL_TERMS, **changes}),
        1,
        sparse_targets=False,
        teacher_widths={"recurrent.0": 5},
        num_tokens=VOCAB,
        seed=seed,
    )


def test_its_own_parameters_fit_network_teacher_and_tokens() -> None:
    objective = objective_of(student())
    shapes = {name: tuple(x.shape) for name, x in objective.named_parameters()}
    assert shapes == {
        "hidden.projections.0.weight": (5, 4),
        "hidden.projections.0.bias": (5,),
        "heads.heads.0.weight": (VOCAB, 4),
        "heads.heads.0.bias": (VOCAB,),
        "heads.heads.1.weight": (VOCAB, 4),
        "heads.heads.1.bias": (VOCAB,),
    }


def test_drawing_its_own_parameters_leaves_what_others_draw_as_it_is() -> None:
    network = student()
    before = torch.get_rng_state()
    first = objective_of(network).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)  # whatever is drawn in between
    again, other = objective_of(network).state_dict(), objective_of(network, seed=1).state_dict()
    assert first
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_terms_that_never_count_own_nothing() -> None:
    off = {
        "hidden": {"layers": {"front": "recurrent.0"}, "weight": 0.0},
        "intermediate": {"layers": ["front"], "weight": 0.0},
    }
    assert not list(objective_of(student(), **off).parameters())
    assert objective_of(student(), **off).layers == ()


def test_a_layer_that_the_student_lacks_is_named() -> None:
    with pytest.raises(ModelError, match=r"layer 'blocks\.7': unknown to this network, expected"):
        objective_of(student(), intermediate={"layers": ["blocks.7"]})
