"""Times of tokens against torchaudio's forced alignment."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
import torch
import torchaudio

from distillery.decoder.alignment import align
from distillery.errors import ModelError


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_forced_alignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 4, rng.integers(1, 6)).tolist()
    items = rng.normal(0, 2, (rng.integers(12, 20), 4)).astype(np.float32)
    log_probs = torch.from_numpy(items).log_softmax(dim=-1)
    path, _ = torchaudio.functional.forced_align(log_probs[None], torch.tensor([tokens]), blank=0)
    spans, frame = [], 0
    for token, group in groupby(path[0].tolist()):
        length = len(list(group))
        if token:
            spans.append((frame, frame + length))
        frame += length
    assert align(log_probs.numpy(), tokens) == spans


def test_too_few_frames_are_told() -> None:
    with pytest.raises(ModelError, match="2 tokens in 2 frames"):
        align(np.zeros((2, 3), np.float32), [1, 1])
    assert align(np.zeros((2, 3), np.float32), []) == []
    assert align(np.zeros((2, 3), np.float32), [1, 2]) == [(0, 1), (1, 2)]
