import math

import pytest
import torch
from torch.nn.functional import pad

from distillery.errors import CacheMismatch
from distillery.losses.frames import (
    best_delay_mean,
    common_lengths,
    frame_weights,
    pool_frames,
    select_frames,
)
from distillery.params.objective import FrameLossParams

MODES = [
    FrameLossParams(blank_mode="all"),
    FrameLossParams(blank_mode="nonblank"),
    FrameLossParams(blank_mode="symmetric", dilation=0),
    FrameLossParams(blank_mode="symmetric", dilation=1),
    FrameLossParams(blank_mode="symmetric", dilation=9),
    FrameLossParams(blank_mode="trim"),
    FrameLossParams(blank_mode="threshold", blank_threshold=0.6),
]


def log_probs_of(best: list[int], vocab: int = 3) -> torch.Tensor:
    """One utterance `(1, frames, vocab)` whose likeliest tokens are given."""
    scores = torch.zeros(1, len(best), vocab)
    scores[0, torch.arange(len(best)), torch.tensor(best)] = 5.0
    return scores.log_softmax(dim=-1)


def random_teacher(seed: int, batch: int = 3, frames: int = 12) -> torch.Tensor:
    """Mostly blank log-probabilities `(batch, frames, 4)`."""
    scores = torch.randn(batch, frames, 4, generator=torch.Generator().manual_seed(seed))
    scores[..., 0] += 1.5
    return scores.log_softmax(dim=-1)


def sparse(teacher: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `top_k` likeliest tokens' log-probabilities and ids, one empty place behind."""
    values, ids = teacher.topk(top_k, dim=-1)
    return pad(values, (0, 1), value=-1e4), pad(ids, (0, 1), value=-1)


def selected_plainly(teacher: torch.Tensor, length: int, params: FrameLossParams) -> list[bool]:
    """Select the frames of one utterance `(frames, vocab)`, one at a time."""
    spikes = [t for t in range(length) if int(teacher[t].argmax()) != 0]
    chosen = []
    for t in range(len(teacher)):
        counts = {
            "all": True,
            "nonblank": t in spikes,
            "symmetric": any(abs(t - spike) <= params.dilation for spike in spikes),
            "trim": bool(spikes) and spikes[0] <= t <= spikes[-1],
            "threshold": math.exp(float(teacher[t, 0])) < params.blank_threshold,
        }
        chosen.append(t < length and counts[params.blank_mode])
    return chosen


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (FrameLossParams(blank_mode="all"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (FrameLossParams(blank_mode="nonblank"), [3, 8]),
        (FrameLossParams(blank_mode="symmetric", dilation=0), [3, 8]),
        (FrameLossParams(blank_mode="symmetric", dilation=1), [2, 3, 4, 7, 8, 9]),
        (FrameLossParams(blank_mode="trim"), [3, 4, 5, 6, 7, 8]),
        # A spike holds e^5 : 1 : 1, so a blank is 0.99 likely or 0.007.
        (FrameLossParams(blank_mode="threshold", blank_threshold=0.5), [3, 8]),
        (FrameLossParams(blank_mode="threshold", blank_threshold=0.001), []),
    ],
    ids=lambda value: getattr(value, "blank_mode", None),
)
def test_each_blank_mode_keeps_its_frames(params: FrameLossParams, expected: list[int]) -> None:
    teacher = log_probs_of([0, 0, 0, 1, 0, 0, 0, 0, 2, 0])
    selected = select_frames(teacher, torch.tensor([10]), params)
    assert selected.shape == (1, 10)
    assert selected[0].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("params", MODES, ids=lambda p: f"{p.blank_mode}-{p.dilation}")
@pytest.mark.parametrize("seed", range(5))
def test_selection_equals_a_plain_loop_and_ignores_padding(
    params: FrameLossParams, seed: int
) -> None:
    teacher, lengths = random_teacher(seed), torch.tensor([12, 7, 1])
    selected = select_frames(teacher, lengths, params)
    for row, length in enumerate(lengths.tolist()):
        assert selected[row].tolist() == selected_plainly(teacher[row], length, params)
    longer = pad(teacher, (0, 0, 0, 3), value=-2.0)
    assert torch.equal(select_frames(longer, lengths, params), pad(selected, (0, 3)))


@pytest.mark.parametrize("params", MODES, ids=lambda p: f"{p.blank_mode}-{p.dilation}")
def test_sparse_targets_select_the_frames_that_dense_ones_do(params: FrameLossParams) -> None:
    teacher, lengths = random_teacher(1), torch.tensor([12, 7, 1])
    values, ids = sparse(teacher, 4)
    assert torch.equal(
        select_frames(values, lengths, params, ids), select_frames(teacher, lengths, params)
    )


def test_a_blank_that_is_not_kept_counts_as_impossible() -> None:
    values, ids = sparse(log_probs_of([1, 0]), 1)
    params = FrameLossParams(blank_mode="threshold", blank_threshold=1e-6)
    assert select_frames(values, torch.tensor([2]), params, ids).tolist() == [[True, False]]


def test_confident_frames_weigh_more() -> None:
    teacher = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]]).log()
    selected = torch.tensor([[True, True, False]])
    uniform = frame_weights(teacher, selected, "uniform")
    assert uniform.tolist() == [[1.0, 1.0, 0.0]]
    confident = frame_weights(teacher, selected, "confidence")
    torch.testing.assert_close(confident, torch.tensor([[0.8, 0.5, 0.0]]))
    # Frames that lose 1 and 3: (0.8 x 1 + 0.5 x 3) / 1.3; what is not selected may hold anything.
    values = torch.tensor([[1.0, 3.0, float("nan")]])
    mean = best_delay_mean([values], [confident])
    assert mean.item() == pytest.approx((0.8 + 1.5) / 1.3)


def test_no_frame_at_all_loses_nothing() -> None:
    nothing = torch.zeros(2, 3)
    assert best_delay_mean([torch.ones(2, 3)], [nothing]).item() == 0.0


def test_each_utterance_takes_its_best_delay() -> None:
    # Undelayed the first loses (4 + 2) / 2 = 3 and by one frame 5; the second 6 and 1.
    undelayed = torch.tensor([[4.0, 2.0], [6.0, 6.0]], requires_grad=True)
    by_one = torch.tensor([[5.0], [1.0]], requires_grad=True)
    mean = best_delay_mean([undelayed, by_one], [torch.ones(2, 2), torch.ones(2, 1)])
    assert mean.item() == pytest.approx((4 + 2 + 1) / 3)
    mean.backward()
    torch.testing.assert_close(undelayed.grad, torch.tensor([[1 / 3, 1 / 3], [0.0, 0.0]]))
    torch.testing.assert_close(by_one.grad, torch.tensor([[0.0], [1 / 3]]))


def test_a_delay_that_leaves_no_frame_is_not_chosen() -> None:
    values = [torch.tensor([[9.0, 5.0]]), torch.tensor([[1.0]])]
    weights = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0]])]
    assert best_delay_mean(values, weights).item() == 5.0


def test_pooling_keeps_every_spike_and_renormalises() -> None:
    teacher = log_probs_of([0, 1, 0, 0, 2])
    pooled, lengths = pool_frames(teacher, torch.tensor([5]), 2)
    assert lengths.tolist() == [3]
    assert pooled.argmax(dim=-1)[0, 1:].tolist() == [0, 2]
    assert pooled[0, 0, 1] == pooled[0, 0, 0]  # the spike stands beside the blank it met
    torch.testing.assert_close(pooled.exp().sum(dim=-1), torch.ones(1, 3))


def test_pooling_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(3, 7, 4).log_softmax(dim=-1)
    pooled, lengths = pool_frames(teacher, torch.tensor([7, 4, 0]), 3)
    assert lengths.tolist() == [3, 2, 0]
    for row, length in enumerate([7, 4, 0]):
        for frame in range(int(lengths[row])):
            piece = teacher[row, 3 * frame : min(3 * frame + 3, length)]
            expected = piece.max(dim=0).values.log_softmax(dim=-1)
            torch.testing.assert_close(pooled[row, frame], expected)


@pytest.mark.parametrize("ratio", [2, 3])
def test_padding_does_not_change_pooled_frames(ratio: int) -> None:
    teacher, lengths = random_teacher(2), torch.tensor([12, 7, 1])
    pooled, pooled_lengths = pool_frames(teacher, lengths, ratio)
    longer, longer_lengths = pool_frames(pad(teacher, (0, 0, 0, 5), value=3.0), lengths, ratio)
    assert torch.equal(longer_lengths, pooled_lengths)
    for row, length in enumerate(pooled_lengths.tolist()):
        torch.testing.assert_close(longer[row, :length], pooled[row, :length])


def test_weights_equal_a_plain_loop_and_ignore_padding() -> None:
    teacher, lengths = random_teacher(3), torch.tensor([12, 7, 1])
    selected = select_frames(teacher, lengths, FrameLossParams(blank_mode="nonblank"))
    weights = frame_weights(teacher, selected, "confidence")
    for row in range(3):
        for frame in range(12):
            best = max(math.exp(x) for x in teacher[row, frame].tolist())
            expected = best if selected[row, frame] else 0.0
            assert weights[row, frame].item() == pytest.approx(expected)
    longer = frame_weights(
        pad(teacher, (0, 0, 0, 3), value=9.0), pad(selected, (0, 3)), "confidence"
    )
    assert torch.equal(longer, pad(weights, (0, 3)))


def random_delays(seed: int, frames: int = 6) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Values and weights of three delays, `(3, frames - delay)`; some frames do not count."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, frames - delay) for delay in range(3)]
    values = [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]
    weights = [torch.rand(s, generator=generator, dtype=torch.float64) for s in shapes]
    return values, [w * (w > 0.3) for w in weights]


def test_the_best_delay_equals_a_plain_loop() -> None:
    values, weights = random_delays(4)
    total, mass = 0.0, 0.0
    for row in range(3):
        tried = []
        for v, w in zip(values, weights, strict=True):
            pairs = list(zip(v[row].tolist(), w[row].tolist(), strict=True))
            weight = sum(b for _, b in pairs)
            tried.append((sum(a * b for a, b in pairs) / weight, weight))
        mean, weight = min(tried)
        total, mass = total + mean * weight, mass + weight
    assert best_delay_mean(values, weights).item() == pytest.approx(total / mass)


def test_padding_does_not_change_the_mean_at_the_best_delay() -> None:
    values, weights = random_delays(5)
    longer = [pad(v, (0, 2), value=float("nan")) for v in values]
    found = best_delay_mean(longer, [pad(w, (0, 2)) for w in weights])
    torch.testing.assert_close(found, best_delay_mean(values, weights))


def test_the_gradient_of_the_mean_at_the_best_delay_is_right() -> None:
    values, weights = random_delays(6)
    values = [v.requires_grad_() for v in values]
    assert torch.autograd.gradcheck(lambda *v: best_delay_mean(v, weights), values)


def test_pooling_by_one_changes_nothing() -> None:
    teacher = log_probs_of([0, 1, 2])
    pooled, lengths = pool_frames(teacher, torch.tensor([3]), 1)
    assert pooled is teacher
    assert lengths.tolist() == [3]


def test_one_frame_of_difference_is_tolerated_and_two_are_refused() -> None:
    assert common_lengths(torch.tensor([5, 7]), torch.tensor([6, 7])).tolist() == [5, 7]
    with pytest.raises(CacheMismatch, match="utterance 1 of the batch: 5 student frames for 7"):
        common_lengths(torch.tensor([5, 5]), torch.tensor([6, 7]))


def test_an_utterance_that_the_teacher_says_nothing_about_has_no_common_frames() -> None:
    assert common_lengths(torch.tensor([5, 7]), torch.tensor([0, 7])).tolist() == [0, 7]
