import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.losses.kl import FrameKL, SparseKL
from distillery.teacher_cache.payload import Sparse


def log_probs(vocab: int = 5, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Log-probabilities `(2, 3, vocab)`, float64."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, vocab, generator=generator, dtype=torch.float64)
    return (spread * scores).log_softmax(dim=-1)


def keep(
    teacher: torch.Tensor, counts: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the likeliest `counts` tokens of each frame, softened over the whole vocabulary."""
    values, ids = (teacher / temperature).log_softmax(dim=-1).sort(dim=-1, descending=True)
    empty = torch.arange(teacher.shape[-1]) >= counts[..., None]
    return values.masked_fill(empty, -1e4), ids.masked_fill(empty, -1)


def plain_divergence(
    student: torch.Tensor, teacher: torch.Tensor, count: int, temperature: float
) -> float:
    """One frame `(vocab,)`: kept tokens one by one, then all others as one."""
    p = torch.softmax(teacher / temperature, -1).tolist()
    q = torch.softmax(student / temperature, -1).tolist()
    order = sorted(range(len(p)), key=lambda v: -p[v])
    pairs = [(p[v], q[v]) for v in order[:count]]
    if count < len(p):
        pairs.append((sum(p[v] for v in order[count:]), sum(q[v] for v in order[count:])))
    return temperature**2 * sum(a * math.log(a / b) for a, b in pairs)


def test_one_frame_by_hand() -> None:
    # p = (1/2, 1/4, 1/4) keeps its first token; q = (1/4, 1/2, 1/4): the ghosts are 1/2 and 3/4.
    student = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64).log()
    teacher = torch.tensor([[[0.5]]], dtype=torch.float64).log()
    value = SparseKL(1.0)(student, teacher, torch.tensor([[[0]]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert value.item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_equals_a_plain_loop(temperature: float) -> None:
    student, teacher = log_probs(seed=1), log_probs(seed=2)
    counts = torch.tensor([[1, 2, 3], [4, 5, 1]])
    values = SparseKL(temperature)(student, *keep(teacher, counts, temperature))
    assert values.shape == (2, 3)
    for row in range(2):
        for frame in range(3):
            expected = plain_divergence(
                student[row, frame], teacher[row, frame], int(counts[row, frame]), temperature
            )
            assert values[row, frame].item() == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_it_is_zero_when_student_equals_teacher(count: int) -> None:
    teacher = log_probs()
    value = SparseKL(2.0)(teacher, *keep(teacher, torch.full((2, 3), count), 2.0))
    torch.testing.assert_close(value, torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_equals_the_dense_one_when_everything_is_kept(temperature: float) -> None:
    student, teacher = log_probs(seed=1), log_probs(seed=2)
    kept = keep(teacher, torch.full((2, 3), 5), temperature)
    dense = FrameKL(temperature)(student, teacher)
    torch.testing.assert_close(SparseKL(temperature)(student, *kept), dense)
    assert dense.min() > 0.01


@given(
    st.integers(0, 10**6),
    st.integers(2, 12),
    st.floats(0.1, 8.0),
    st.sampled_from([1.0, 2.0, 4.0]),
)
@settings(max_examples=200, deadline=None)
def test_merging_tokens_never_raises_the_divergence(
    seed: int, vocab: int, spread: float, temperature: float
) -> None:
    student, teacher = log_probs(vocab, seed, spread), log_probs(vocab, seed + 1, spread)
    counts = torch.randint(1, vocab + 1, (2, 3), generator=torch.Generator().manual_seed(seed))
    value = SparseKL(temperature)(student, *keep(teacher, counts, temperature))
    assert (value >= -1e-9).all()
    assert (value <= FrameKL(temperature)(student, teacher) + 1e-9).all()


@pytest.mark.parametrize("top_k", [3, 5])
def test_what_the_cache_keeps_teaches_almost_as_the_teacher_does(top_k: int) -> None:
    """Halves of float32 may add up to more than one; the loss must not mind."""
    payload = Sparse(5, 0, top_k, 1.0, 1, (2.0,))
    teacher = log_probs(seed=4)
    blocks = [payload.encode(item.float().numpy()) for item in teacher]
    records = [np.concatenate([b.reshape(-1).view(np.uint8) for b in x]) for x in blocks]
    cached = payload.targets(records, np.array([3, 3]), 2.0)
    assert cached.ids is not None
    value = SparseKL(2.0)(
        teacher.float(), torch.from_numpy(cached.log_probs), torch.from_numpy(cached.ids)
    )
    torch.testing.assert_close(value, torch.zeros(2, 3), rtol=0, atol=1e-4)


def test_padding_and_empty_places_do_not_change_the_values_of_real_frames() -> None:
    student, teacher = log_probs(seed=1), log_probs(seed=2)
    values, ids = keep(teacher, torch.full((2, 3), 2), 2.0)
    more = torch.nn.functional.pad
    padded = SparseKL(2.0)(
        more(student, (0, 0, 0, 2), value=7.0),
        more(values, (0, 4, 0, 2)),  # whatever an empty place holds
        more(ids, (0, 4, 0, 2), value=-1),
    )
    torch.testing.assert_close(padded[:, :3], SparseKL(2.0)(student, values, ids))


def test_the_gradient_is_right() -> None:
    student, teacher = log_probs(seed=1).requires_grad_(), log_probs(seed=2)
    kept = keep(teacher, torch.tensor([[1, 2, 3], [4, 5, 1]]), 2.0)
    assert torch.autograd.gradcheck(lambda s: SparseKL(2.0)(s, *kept), (student,))


@pytest.mark.parametrize("count", [1, 5])
def test_value_and_gradient_are_finite_for_a_certain_teacher(count: int) -> None:
    teacher = torch.full((2, 3, 5), -6e4)
    teacher[..., 2] = 0.0
    student = log_probs(seed=1).float().requires_grad_()
    value = SparseKL(1.0)(student, *keep(teacher, torch.full((2, 3), count), 1.0))
    torch.testing.assert_close(value, -student[..., 2])
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_ghost_too_small_for_one_minus_the_rest_still_counts() -> None:
    """In float32, 1 - q(kept) would be 0 here, and its logarithm infinite."""
    student = torch.tensor([[[0.0, -30.0, -30.0]]])
    teacher = torch.tensor([[[0.5]]]).log()
    value = SparseKL(1.0)(student, teacher, torch.tensor([[[0]]]))
    expected = 0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 30 - math.log(2))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = log_probs(seed=1).requires_grad_(), log_probs(seed=2).requires_grad_()
    SparseKL(2.0)(student, *keep(teacher, torch.full((2, 3), 2), 2.0)).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
