"""Concatenation: audio, texts, hypotheses and frames of two utterances follow one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.augmentations.concatenation import Concatenation, join
from distillery.data.features import LogMel
from distillery.params.augmentation import ConcatenateParams
from distillery.params.models import FeatureParams
from distillery.training.batches import NO_LABELS
from tests.unit.augmentations.alignment import best_lag, divergence
from tests.unit.augmentations.conftest import Lab, targets_of

ALWAYS = {"concatenate": {"probability": 1.0}}
SEAM_FRAMES = 3
"""Frames on each side of the seam at which a live teacher may hear the other utterance."""


def pairs_of(joined: list[np.ndarray], alone: list[np.ndarray]) -> list[list[int]]:
    """Return which whole targets each joined one consists of."""
    found = []
    for item in joined:
        first = [i for i, x in enumerate(alone) if np.array_equal(item[: len(x)], x)]
        pairs = [[i] for i in first if len(alone[i]) == len(item)]
        pairs += [
            [i, j]
            for i in first
            for j, y in enumerate(alone)
            if len(alone[i]) + len(y) == len(item) and np.array_equal(item[len(alone[i]) :], y)
        ]
        (pair,) = pairs
        found.append(pair)
    return found


def test_a_live_teacher_says_of_joined_audio_what_the_joined_targets_say(
    lab: Lab, tmp_path: Path
) -> None:
    batch, plain = lab.batch(tmp_path, augmentation=ALWAYS), lab.batch(tmp_path)
    alone, joined, live = targets_of(plain), targets_of(batch), lab.said(batch)
    pairs = pairs_of(joined, alone)
    assert sorted(index for pair in pairs for index in pair) == list(range(32))
    assert sum(len(pair) == 2 for pair in pairs) >= 6
    for pair, cached, said in zip(pairs, joined, live, strict=True):
        assert cached.shape == said.shape
        assert best_lag(cached, said) == 0
        if len(pair) == 1:
            assert divergence(cached, said) < 1e-3
            continue
        seam = len(alone[pair[0]])
        before, behind = slice(0, seam - SEAM_FRAMES), slice(seam + SEAM_FRAMES, None)
        assert best_lag(cached[before], said[before]) == 0
        assert best_lag(cached[behind], said[behind]) == 0
        assert divergence(cached[before], said[before]) < 0.4
        assert divergence(cached[behind], said[behind]) < 0.4


def test_texts_and_hypotheses_are_joined_with_a_space(lab: Lab, tmp_path: Path) -> None:
    batch, plain = lab.batch(tmp_path, augmentation=ALWAYS), lab.batch(tmp_path)
    vocabulary = lab.distillation(tmp_path).vocabulary

    def texts(tokens: torch.Tensor, lengths: torch.Tensor) -> list[str | None]:
        return [
            None if length == NO_LABELS else vocabulary.decode(row[:length])
            for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
        ]

    transcripts = texts(plain.labels, plain.label_lengths)
    hypotheses = texts(plain.hypotheses[:, 0], plain.hypothesis_lengths[:, 0])
    assert len(set(transcripts)) > 5
    joined_transcripts = texts(batch.labels, batch.label_lengths)
    joined_hypotheses = texts(batch.hypotheses[:, 0], batch.hypothesis_lengths[:, 0])
    for row, pair in enumerate(pairs_of(targets_of(batch), targets_of(plain))):
        known = [transcripts[index] for index in pair]
        wanted = None if None in known else " ".join(map(str, known))
        assert len({item is None for item in known}) == 1  # unlike ones stay apart
        assert joined_transcripts[row] == wanted
        assert joined_hypotheses[row] == " ".join(str(hypotheses[index]) for index in pair)
    assert batch.hypothesis_weights.sum(dim=1).tolist() == pytest.approx([1.0] * len(batch.labels))


def test_a_slower_students_second_utterance_begins_at_its_own_frame(
    lab: Lab, tmp_path: Path
) -> None:
    """Two teacher frames face one of the student; a first half that lacks one repeats its last."""
    features = {"num_mels": 16, "hop_seconds": 0.02}
    batch = lab.batch(tmp_path, augmentation=ALWAYS, features=features)
    alone = targets_of(lab.batch(tmp_path, features=features))
    assert torch.equal(-(-batch.feature_lengths // 4), -(-batch.teacher_lengths // 2))
    num_repeats = 0
    for item in targets_of(batch):
        (first,) = [x for x in alone if np.array_equal(item[: len(x)], x)]
        if len(first) == len(item):
            continue
        begins = len(first) + len(first) % 2
        assert any(np.array_equal(item[begins:], x) for x in alone)
        if len(first) % 2:
            assert np.array_equal(item[begins - 1], first[-1])
            num_repeats += 1
    assert num_repeats > 0


def test_the_seam_is_filled_with_silence_up_to_a_whole_frame() -> None:
    first, second = torch.ones(641), torch.full((100,), 2.0)
    joined = join([first, second], [3, 1], 320)
    assert joined[:641].eq(1).all()
    assert joined[641:960].eq(0).all()
    assert joined[960:].eq(2).all()
    assert len(joined) == 1060
    assert join([first], [3], 320) is not None and len(join([first], [3], 320)) == 641


@pytest.mark.parametrize("num_samples", [319, 320, 321, 639, 640, 641, 1279, 1280])
@pytest.mark.parametrize("others", [100, 320, 640])
def test_joined_audio_has_the_frames_of_both(num_samples: int, others: int) -> None:
    extractor = LogMel(FeatureParams(num_mels=16), 8000)

    def frames(samples: int) -> int:
        return -(-extractor.num_frames(samples) // 4)

    counts = [frames(num_samples), frames(others)]
    joined = join([torch.ones(num_samples), torch.ones(others)], counts, 320)
    assert frames(len(joined)) == sum(counts)


def test_groups_hold_each_utterance_once_and_the_whole_batch_or_nothing_is_joined() -> None:
    sometimes = Concatenation(ConcatenateParams(probability=0.5))
    drawn = [sometimes.draw(5, np.random.default_rng(seed)) for seed in range(40)]
    assert all(sorted(i for group in groups for i in group) == list(range(5)) for groups in drawn)
    sizes = {tuple(map(len, groups)) for groups in drawn}
    assert sizes == {(1, 1, 1, 1, 1), (2, 2, 1)}
    assert len({tuple(map(tuple, groups)) for groups in drawn}) > 10
