"""Log-probabilities to token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from distillery.data.text import SPACE, Vocabulary

BLANK_INDEX = 0


def greedy_tokens(log_probs: np.ndarray) -> list[int]:
    """Return the best path `(frames, vocab)` collapsed: repeats merged, blanks left out."""
    return collapsed(log_probs.argmax(axis=-1))


def collapsed(best: np.ndarray) -> list[int]:
    """Return a path, one token a frame `(frames,)`, with repeats merged and blanks left out."""
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


def score_texts(
    log_probs: np.ndarray,
    num_frames: Sequence[int],
    texts: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
) -> list[list[float]]:
    """Return ln P(text | audio), summed over all alignments, for some texts of each utterance.

    Source: Graves et al. (2006), "Connectionist temporal classification", eq. 3.

    Args:
        log_probs: `(batch, frames, vocab)`.
        num_frames: real frames of each utterance.
        texts: texts of each utterance.
        vocabulary: the tokens; texts hold no others.
    """
    owners = [row for row, items in enumerate(texts) for _ in items]
    import torch  # waits here: what is served by ONNX Runtime does without
    from torch.nn import functional as F

    labels = [vocabulary.encode(text) for items in texts for text in items]
    if not owners:
        return [[] for _ in texts]
    scores = -F.ctc_loss(
        torch.from_numpy(log_probs)[owners].transpose(0, 1),  # (frames, texts, vocab)
        torch.tensor([token for label in labels for token in label], dtype=torch.long),
        torch.tensor([num_frames[row] for row in owners]),
        torch.tensor([len(label) for label in labels]),
        blank=BLANK_INDEX,
        reduction="none",
    )
    each = iter(scores.tolist())
    return [[next(each) for _ in items] for items in texts]


def n_best(
    items: Sequence[np.ndarray], vocabulary: Vocabulary, num_hypotheses: int, beam_size: int
) -> list[list[str]]:
    """Return up to so many different texts of each utterance, found by beam search, best first.

    Args:
        items: log-probabilities `(frames, vocab)` of each utterance.
        vocabulary: the tokens.
        num_hypotheses: texts wanted.
        beam_size: prefixes kept at each frame.
    """
    import torch

    # Paths that differ only in white space give one text: ask for more than are wanted.
    search = _beam_search(vocabulary.tokens, min(2 * num_hypotheses, beam_size), beam_size)
    found = []
    for item in items:
        if not len(item):
            found.append([""])
            continue
        (results,) = search(torch.from_numpy(np.ascontiguousarray(item))[None])
        texts = [vocabulary.decode(result.tokens.tolist()) for result in results]
        found.append(list(dict.fromkeys(texts))[:num_hypotheses])
    return found


@lru_cache(maxsize=1)
def _beam_search(tokens: tuple[str, ...], num_best: int, beam_size: int) -> Any:
    from torchaudio.models.decoder import ctc_decoder

    return ctc_decoder(
        lexicon=None,
        tokens=list(tokens),
        nbest=num_best,
        beam_size=beam_size,
        blank_token=tokens[BLANK_INDEX],
        sil_token=SPACE,
        log_add=True,
    )
