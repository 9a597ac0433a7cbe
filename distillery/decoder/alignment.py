"""In which frames the tokens of a text were heard: the best alignment of CTC, in NumPy.

States are a blank, the first token, a blank, …, the last token, a blank; each frame stays in its
state, goes on to the next one, or skips a blank between two different tokens.

Source: Graves et al. (2006), "Connectionist temporal classification", section 4.1, with the best
path in place of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.errors import ModelError
from distillery.models.decoding import BLANK_INDEX


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first frame of each token and the one behind its last.

    Args:
        log_probs: `(frames, vocab)` of the utterance, natural logarithms.
        tokens: of a text, as a `Hypothesis` has them.

    Raises:
        ModelError: there are fewer frames than the tokens need.
    """
    if not tokens:
        return []
    states = np.full(2 * len(tokens) + 1, BLANK_INDEX)
    states[1::2] = tokens
    heard = log_probs[:, states].astype(np.float64)  # (frames, states)
    skips = np.zeros(len(states), bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = 0.0
    steps = np.zeros(heard.shape, np.int8)
    for frame, row in enumerate(heard):
        ways = np.full((3, len(states)), -np.inf)
        ways[0] = scores
        if frame:
            ways[1, 1:] = scores[:-1]
            ways[2, 2:] = np.where(skips[2:], scores[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        scores = ways.max(axis=0) + row
    state = len(states) - 1 - int(scores[-2] > scores[-1])
    if not len(heard) or scores[state] == -np.inf:
        raise ModelError(
            f"alignment: {len(tokens)} tokens in {len(heard)} frames, expected more frames: one "
            "for each token and one between equal neighbours"
        )
    spans: list[list[int]] = [[-1, -1] for _ in tokens]
    for frame in range(len(heard) - 1, -1, -1):
        if state % 2:
            span = spans[state // 2]
            span[0], span[1] = frame, (frame + 1 if span[1] < 0 else span[1])
        state -= int(steps[frame][state])
    return [(first, behind) for first, behind in spans]
