from dataclasses import replace

import numpy as np
import pytest
import torch

from distillery.data.features import PackedFeatures
from distillery.training.batches import TeacherFrames, TrainingSet, pad_hypotheses, pad_tokens


def packed(lengths: list[int], num_mels: int = 3) -> PackedFeatures:
    total = sum(lengths)
    values = np.arange(total * num_mels, dtype=np.float16).reshape(total, num_mels)
    return PackedFeatures(values, np.cumsum([0, *lengths]))


class Targets:
    """A teacher of two tokens who says a row's number in as many frames and one more."""

    def frames(self, rows: list[int]) -> TeacherFrames:
        values = torch.zeros(len(rows), max(rows) + 1, 2)
        for place, row in enumerate(rows):
            values[place, : row + 1] = row
        return TeacherFrames(values, torch.tensor(rows) + 1)

    def hypotheses(self, row: int) -> list[tuple[list[int], float]]:
        """Nothing in row 0, else the row's number as many times, and once more a single one."""
        return [([row] * row, 0.75), ([1], 0.25)] if row else []


def training_set(count: int = 40, **changes) -> TrainingSet:
    lengths = np.random.default_rng(0).integers(20, 200, count).tolist()
    labels = [[1] * (1 + row % 3) for row in range(count)]
    return TrainingSet([packed(lengths)], labels, 0.01, batch_seconds=8.0, seed=1, **changes)


def test_an_epoch_holds_every_item_once() -> None:
    data = training_set()
    items = [item for batch in data.plan(0) for item in batch]
    assert sorted(items) == list(range(40))


def test_no_batch_exceeds_its_padded_seconds() -> None:
    data = training_set()
    frames = data.copies[0].num_frames
    for batch in data.plan(0):
        assert len(batch) * frames[batch].max() * 0.01 <= 8.0


def test_an_item_longer_than_a_batch_gets_its_own() -> None:
    data = TrainingSet([packed([1000, 10, 10])], [[1]] * 3, 0.01, batch_seconds=1.0, seed=0)
    assert [0] in data.plan(0)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert training_set().plan(3) == training_set().plan(3)
    assert training_set().plan(3) != training_set().plan(4)


@pytest.mark.parametrize("num_batches", [1, 3, 30])
def test_an_epoch_can_be_cut_or_repeated_to_a_number_of_steps(num_batches: int) -> None:
    data = training_set()
    plan = data.plan(0, num_batches)
    assert len(plan) == num_batches
    assert plan[: len(data.plan(0))] == data.plan(0)[:num_batches]


def test_copies_share_the_labels_of_their_row() -> None:
    data = TrainingSet([packed([5, 6]), packed([3, 4])], [[1], [2, 2]], 0.01, 10.0, 0)
    batch = data.batch([0, 3])
    assert batch.feature_lengths.tolist() == [5, 4]
    assert batch.labels.tolist() == [[1, 0], [2, 2]]
    assert batch.teacher_log_probs.numel() == 0


def test_padding_is_zero_and_lengths_are_true() -> None:
    batch = training_set(targets=Targets()).batch([2, 5])
    assert batch.teacher_lengths.tolist() == [3, 6]
    assert torch.equal(batch.teacher_log_probs[0, 3:], torch.zeros(3, 2))
    assert batch.hypotheses.tolist() == [
        [[2, 2, 0, 0, 0], [1, 0, 0, 0, 0]],
        [[5, 5, 5, 5, 5], [1, 0, 0, 0, 0]],
    ]
    assert batch.hypothesis_lengths.tolist() == [[2, 1], [5, 1]]
    assert batch.hypothesis_weights.tolist() == [[0.75, 0.25]] * 2
    short = int(batch.feature_lengths.argmin())
    assert not batch.features[short, int(batch.feature_lengths[short]) :].any()


def test_sparse_targets_reach_the_batch_and_its_copies_on_other_devices() -> None:
    class SparseTargets(Targets):
        def frames(self, rows: list[int]) -> TeacherFrames:
            dense = super().frames(rows)
            return replace(dense, ids=dense.log_probs.long(), softened=dense.log_probs / 2)

    batch = training_set(targets=SparseTargets()).batch([2, 5]).to("cpu")
    assert batch.teacher_ids is not None
    assert batch.teacher_softened is not None
    assert batch.teacher_ids[1].tolist() == [[5, 5]] * 6
    torch.testing.assert_close(2 * batch.teacher_softened, batch.teacher_log_probs)
    assert training_set(targets=Targets()).batch([2]).to("cpu").teacher_ids is None


def test_hidden_states_reach_the_batch_and_its_copies_on_other_devices() -> None:
    class HiddenTargets(Targets):
        def frames(self, rows: list[int]) -> TeacherFrames:
            plain = super().frames(rows)
            return replace(plain, hidden={"blocks.0": plain.log_probs.half() + 1})

    batch = training_set(targets=HiddenTargets()).batch([2, 5]).to("cpu")
    assert batch.teacher_hidden["blocks.0"].dtype == torch.float16
    assert batch.teacher_hidden["blocks.0"][1, 0].tolist() == [6, 6]
    assert training_set(targets=Targets()).batch([2]).to("cpu").teacher_hidden == {}


def test_where_there_is_no_hypothesis_its_place_is_empty() -> None:
    batch = training_set(targets=Targets()).batch([0, 2])
    assert batch.hypothesis_lengths.tolist() == [[-1, -1], [2, 1]]
    assert batch.hypothesis_weights.tolist() == [[0.0, 0.0], [0.75, 0.25]]
    tokens, lengths, weights = pad_hypotheses([(), ()])
    assert tokens.shape == (2, 1, 0)
    assert (lengths.tolist(), weights.tolist()) == ([[-1], [-1]], [[0.0], [0.0]])
    assert training_set().batch([0, 2]).hypothesis_lengths.tolist() == [[-1], [-1]]


def test_unlabelled_utterances_have_length_minus_one() -> None:
    tokens, lengths = pad_tokens([[1, 2], None, []])
    assert lengths.tolist() == [2, -1, 0]
    assert tokens.tolist() == [[1, 2], [0, 0], [0, 0]]


def test_inference_batches_visit_every_row_once() -> None:
    data = training_set()
    rows = [row for batch, _, _ in data.inference_batches() for row in batch]
    assert sorted(rows) == list(range(40))


def test_inference_batches_begin_where_they_are_told_to() -> None:
    data = training_set()
    everything = [rows for rows, _, _ in data.inference_batches()]
    assert len(everything) > 2
    for first in range(len(everything) + 1):
        assert [rows for rows, _, _ in data.inference_batches(first)] == everything[first:]
