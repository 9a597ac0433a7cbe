import math

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, pad

from distillery.errors import CacheMismatch
from distillery.losses.hidden import HiddenLoss, HiddenMSE, L1Cosine, mean_frames
from distillery.params.objective import HiddenLossParams

TYPES = pytest.mark.parametrize("kind", ["l1_cosine", "mse"])
PAIRS = {"blocks.0": "recurrent.1", "front": "project"}
STUDENT_WIDTHS, TEACHER_WIDTHS = {"blocks.0": 3, "front": 2}, {"recurrent.1": 5, "project": 2}
LENGTHS, TEACHER_LENGTHS = torch.tensor([4, 2]), torch.tensor([8, 3])  # 3 frames face 2


def states(widths: dict[str, int], frames: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, frames, width, generator=generator, dtype=torch.float64)
        for name, width in widths.items()
    }


def hidden_loss(kind: str, ratio: int = 2, pairs: dict[str, str] = PAIRS) -> HiddenLoss:
    torch.manual_seed(0)
    params = HiddenLossParams(type=kind, layers=pairs)
    return HiddenLoss(params, ratio, STUDENT_WIDTHS, TEACHER_WIDTHS).double()


def plain_frame(kind: str, student: list[float], teacher: list[float]) -> float:
    pairs = list(zip(student, teacher, strict=True))
    if kind == "mse":
        return sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    distance = sum(abs(a - b) for a, b in pairs) / len(pairs)
    cosine = sum(a * b for a, b in pairs) / math.hypot(*student) / math.hypot(*teacher)
    return distance + 1 - cosine


@TYPES
def test_it_equals_a_plain_loop_over_pairs_utterances_and_frames(kind: str) -> None:
    loss = hidden_loss(kind)
    student, teacher = states(STUDENT_WIDTHS, 4, 1), states(TEACHER_WIDTHS, 8, 2)
    means = []
    for (mine, theirs), projection in zip(PAIRS.items(), loss.projections, strict=True):
        losses = []
        for row in range(2):
            for frame in range(int(LENGTHS[row])):
                facing = range(2 * frame, min(2 * frame + 2, int(TEACHER_LENGTHS[row])))
                wanted = sum(teacher[theirs][row, t] for t in facing) / len(facing)
                projected = projection.weight @ student[mine][row, frame] + projection.bias
                losses.append(plain_frame(kind, projected.tolist(), wanted.tolist()))
        assert len(losses) == 6
        means.append(sum(losses) / 6)
    found = loss(student, LENGTHS, teacher, TEACHER_LENGTHS)
    assert found.item() == pytest.approx(sum(means) / 2)


def test_one_frame_by_hand() -> None:
    student, teacher = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])
    assert HiddenMSE()(student, teacher).tolist() == [[(0 + 16) / 2]]
    # Errors 0 and 4; the cosine is 9 / (3 x 5).
    assert L1Cosine()(student, teacher).item() == pytest.approx(2 + 1 - 0.6)


def test_the_gradient_of_distance_and_cosine_is_right() -> None:
    teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: L1Cosine()(x, teacher), (student,))
    plain = (student - teacher).abs().mean(-1) + 1 - cosine_similarity(student, teacher, dim=-1)
    torch.testing.assert_close(L1Cosine()(student, teacher), plain)


def test_states_of_nothing_but_zeros_have_a_loss_and_a_gradient() -> None:
    student = torch.zeros(1, 2, 4, requires_grad=True)
    teacher = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]])
    loss = L1Cosine()(student, teacher)
    assert loss.tolist() == [[2.5 + 1, 1.0]]
    loss.sum().backward()
    assert torch.isfinite(student.grad).all()


@TYPES
def test_it_is_zero_when_the_projected_student_equals_the_teacher(kind: str) -> None:
    loss = hidden_loss(kind, ratio=1)
    student = states(STUDENT_WIDTHS, 4, 1)
    teacher = {
        theirs: projection(student[mine])
        for (mine, theirs), projection in zip(PAIRS.items(), loss.projections, strict=True)
    }
    assert loss(student, LENGTHS, teacher, LENGTHS).item() == pytest.approx(0, abs=1e-12)


@TYPES
@pytest.mark.parametrize("ratio", [1, 2])
def test_padding_does_not_change_it(kind: str, ratio: int) -> None:
    loss, lengths = hidden_loss(kind, ratio), LENGTHS
    teacher_lengths = TEACHER_LENGTHS if ratio == 2 else torch.tensor([4, 3])
    student, teacher = states(STUDENT_WIDTHS, 4, 1), states(TEACHER_WIDTHS, 8, 2)
    expected = loss(student, lengths, teacher, teacher_lengths)
    for name, item in states(STUDENT_WIDTHS, 7, 5).items():
        item[0, :4], item[1, :2] = student[name][0], student[name][1, :2]
        student[name] = item
    for name, item in states(TEACHER_WIDTHS, 9, 6).items():
        first, second = teacher_lengths.tolist()
        item[0, :first], item[1, :second] = teacher[name][0, :first], teacher[name][1, :second]
        teacher[name] = item
    torch.testing.assert_close(loss(student, lengths, teacher, teacher_lengths), expected)


@TYPES
def test_the_gradient_is_right_in_states_and_projections_and_none_reaches_the_teacher(
    kind: str,
) -> None:
    loss = hidden_loss(kind, pairs={"blocks.0": "recurrent.1"})
    teacher = {"recurrent.1": states(TEACHER_WIDTHS, 8, 2)["recurrent.1"].requires_grad_()}
    student = states(STUDENT_WIDTHS, 4, 1)["blocks.0"].requires_grad_()
    names = [name for name, _ in loss.named_parameters()]
    assert len(names) == 2

    def of(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        arguments = ({"blocks.0": x}, LENGTHS, teacher, TEACHER_LENGTHS)
        return functional_call(loss, dict(zip(names, weights, strict=True)), arguments)

    assert torch.autograd.gradcheck(of, (student, *loss.parameters()))
    of(student, *loss.parameters()).backward()
    assert teacher["recurrent.1"].grad is None


@TYPES
def test_utterances_that_the_teacher_says_nothing_about_do_not_count(kind: str) -> None:
    loss = hidden_loss(kind)
    student, teacher = states(STUDENT_WIDTHS, 4, 1), states(TEACHER_WIDTHS, 8, 2)
    alone = loss(
        {name: x[:1] for name, x in student.items()},
        LENGTHS[:1],
        {name: x[:1] for name, x in teacher.items()},
        TEACHER_LENGTHS[:1],
    )
    found = loss(student, LENGTHS, teacher, torch.tensor([8, 0]))
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("frames", [0, 8])
def test_a_batch_that_the_teacher_says_nothing_about_loses_nothing(frames: int) -> None:
    loss = hidden_loss("l1_cosine")
    student = {name: x.requires_grad_() for name, x in states(STUDENT_WIDTHS, 4, 1).items()}
    value = loss(student, LENGTHS, states(TEACHER_WIDTHS, frames, 2), torch.tensor([0, 0]))
    assert value.item() == 0.0
    value.backward()
    assert not student["front"].grad.any()


def test_halves_from_the_cache_are_taken_as_they_are() -> None:
    loss = hidden_loss("mse").float()
    student = {name: x.float() for name, x in states(STUDENT_WIDTHS, 4, 1).items()}
    teacher = {name: x.half() for name, x in states(TEACHER_WIDTHS, 8, 2).items()}
    single = {name: x.float() for name, x in teacher.items()}
    found = loss(student, LENGTHS, teacher, TEACHER_LENGTHS)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(student, LENGTHS, single, TEACHER_LENGTHS))


def test_lengths_that_differ_by_more_than_a_frame_are_refused() -> None:
    student, teacher = states(STUDENT_WIDTHS, 4, 1), states(TEACHER_WIDTHS, 8, 2)
    with pytest.raises(CacheMismatch, match="utterance 1 of the batch: 2 student frames for 4"):
        hidden_loss("mse")(student, LENGTHS, teacher, torch.tensor([8, 8]))


def test_the_mean_is_over_the_frames_that_exist() -> None:
    teacher = torch.tensor([[[1.0], [3.0], [5.0], [99.0]]])
    pooled, lengths = mean_frames(teacher, torch.tensor([3]), 2)
    assert lengths.tolist() == [2]
    assert pooled.tolist() == [[[2.0], [5.0]]]
    same, lengths = mean_frames(teacher, torch.tensor([3]), 1)
    assert same is teacher
    assert lengths.tolist() == [3]
    pooled, _ = mean_frames(pad(teacher, (0, 0, 0, 1)), torch.tensor([3]), 3)
    assert pooled.tolist() == [[[3.0], [0.0]]]


@TYPES
def test_a_teacher_that_says_nothing_of_the_whole_batch_costs_nothing(kind: str) -> None:
    loss = hidden_loss(kind).float()
    student = {name: x.float().requires_grad_() for name, x in states(STUDENT_WIDTHS, 4, 1).items()}
    teacher = {name: x.float() for name, x in states(TEACHER_WIDTHS, 8, 2).items()}
    value = loss(student, LENGTHS, teacher, torch.tensor([0, 0]))
    assert value.item() == 0
    value.backward()
    assert all((p.grad == 0).all() for p in [*student.values(), *loss.parameters()])
