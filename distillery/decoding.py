"""Log-probabilities to token sequences."""

from __future__ import annotations

import numpy as np

from distillery.text import Vocabulary

BLANK_INDEX = 0


def greedy_tokens(log_probs: np.ndarray) -> list[int]:
    """Return the best path `(frames, vocab)` collapsed: repeats merged, blanks left out."""
    best = log_probs.argmax(axis=-1)  # (frames,)
    is_new = np.concatenate([[True], best[1:] != best[:-1]]) if len(best) else np.zeros(0, bool)
    return [int(token) for token in best[is_new & (best != BLANK_INDEX)]]


def greedy_text(log_probs: np.ndarray, vocabulary: Vocabulary) -> str:
    """Return the text of the best path through log-probabilities `(frames, vocab)`."""
    return vocabulary.decode(greedy_tokens(log_probs))


def confidence(log_probs: np.ndarray) -> float:
    """Return the geometric mean of the best path's frame probabilities, in (0, 1].

    Source: the usual length-normalised path score, exp(1/T Σ_t max_v log p_t(v)).
    """
    return float(np.exp(log_probs.max(axis=-1).mean())) if len(log_probs) else 0.0
