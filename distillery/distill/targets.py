"""What the cache says of a training set's utterances, as batches want it.

Frames, hidden states and weighted texts, by the rows of the training set instead of the cache's;
nothing of hypotheses that the filter dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from distillery.data.text import Vocabulary
from distillery.params.objective import SequenceLossParams
from distillery.teacher_cache.shards import Hypothesis
from distillery.teacher_cache.store import ROWS_AT_ONCE, Keys, TeacherCache
from distillery.training.batches import TeacherFrames
from distillery.training.token_lists import WeightedTexts


class Weighted(Protocol):
    """Hypotheses of many utterances, such as `WeightedTexts`."""

    def __getitem__(self, row: int, /) -> Sequence[tuple[Sequence[int], float]]:
        """Return tokens and weight of those of one utterance."""


class CachedTargets:
    """A training set's view of the cache: its own rows instead of the cache's."""

    def __init__(
        self,
        cache: TeacherCache,
        keys: Keys,
        vocabulary: Vocabulary,
        *,
        fit: np.ndarray | None = None,
        stretch: np.ndarray | None = None,
        with_frames: bool = True,
        temperature: float = 1.0,
        sequence: SequenceLossParams | None = None,
        transcripts: Iterable[str | None] | None = None,
        hidden_layers: Sequence[str] = (),
    ) -> None:
        """Look the utterances of a training set up, once.

        Args:
            cache: what the teacher said.
            keys: audio keys of what the teacher heard of each.
            vocabulary: the student's tokens.
            fit: utterances whose hypothesis passed the filter, bool `(utterances,)`; for the
                others the teacher says nothing, neither frames nor text. None: all passed.
            stretch: how many times as long that was as the training set's own audio
                `(utterances,)`; frames are left out or repeated evenly. None: as long.
            with_frames: whether log-probabilities are wanted; an objective without a frame term
                reads none, and learns from any payload.
            temperature: what sparse targets are softened by, as they cannot be later.
            sequence: which hypotheses are wanted, and how they weigh; None: the best path.
            transcripts: what takes the place of an utterance's hypotheses, where it has any.
            hidden_layers: the teacher's layers that are wanted.

        Raises:
            CacheMismatch: one is not cached.
        """
        # What tables took that are gone: arrays do not find it.
        pa.default_memory_pool().release_unused()
        self.cache = cache
        self.with_frames = with_frames
        self.temperature = temperature
        self.rows = cache.rows(keys)
        self.fit = np.ones(len(keys), bool) if fit is None else fit
        self.stretch = np.ones(len(keys)) if stretch is None else stretch
        self.hidden_layers = tuple(dict.fromkeys(hidden_layers))
        said = weighted_texts(cache, self.rows, sequence or SequenceLossParams())
        self.weighted: Weighted = WeightedTexts(
            ((vocabulary.encode(text), weight) for text, weight in item)
            for item in known_texts(said, self.fit, transcripts)
        )

    def frames(self, rows: Sequence[int]) -> TeacherFrames:
        """Return what the teacher says frame by frame; nothing about those that are not fit.

        Raises:
            CacheError: a record is damaged, or a sparse payload lacks the temperature.
        """
        cached, fit = self.rows[list(rows)], self.fit[list(rows)]
        hidden = {
            layer: torch.from_numpy(self.cache.hidden(cached, layer).values)
            for layer in self.hidden_layers
        }
        stretch = self.stretch[list(rows)]
        if not self.with_frames:
            lengths = torch.from_numpy(np.where(fit, self.cache.num_frames(cached), 0))
            found = TeacherFrames(torch.zeros(len(rows), 0, 0), lengths, hidden=hidden)
            return _stretched(found, stretch)
        plain = self.cache.targets(cached)
        plain.log_probs[~fit] = 0.0
        values = torch.from_numpy(plain.log_probs)
        lengths = torch.from_numpy(np.where(fit, plain.num_frames, 0))
        if plain.ids is None or plain.num_kept is None:
            return _stretched(TeacherFrames(values, lengths, hidden=hidden), stretch)
        real = np.arange(plain.ids.shape[-1]) < plain.num_kept[..., None]
        ids = torch.from_numpy(np.where(real, plain.ids, -1))
        softened = torch.from_numpy(self.cache.targets(cached, self.temperature).log_probs)
        return _stretched(TeacherFrames(values, lengths, ids, softened, hidden), stretch)

    def hypotheses(self, row: int) -> Sequence[tuple[Sequence[int], float]]:
        """Return tokens and weight of an utterance's texts; nothing where none is known."""
        return self.weighted[row]


def known_texts(
    said: Iterable[list[tuple[str, float]]],
    fit: np.ndarray,
    transcripts: Iterable[str | None] | None,
) -> Iterator[list[tuple[str, float]]]:
    """Yield the texts that stand for what was said in each utterance, and their weights.

    Args:
        said: the teacher's, as `weighted_texts` returns them.
        fit: where they passed the filter, bool `(utterances,)`; elsewhere they are none.
        transcripts: take their place, dropped or not; None: none does.
    """
    known = (items if is_fit else [] for items, is_fit in zip(said, fit, strict=True))
    if transcripts is None:
        yield from known
        return
    for items, text in zip(known, transcripts, strict=True):
        yield items if text is None else [(text, 1.0)]


def weighted_texts(
    cache: TeacherCache, rows: np.ndarray, params: SequenceLossParams
) -> Iterator[list[tuple[str, float]]]:
    """Yield the hypotheses that each row is learnt from, and their weights.

    Formula: w_h = exp(s_h / T) / Σ_k exp(s_k / T) over those that are kept, s_h = ln P(text_h |
    audio) as it is cached, with the language model's share where one decoded.

    Args:
        cache: what the teacher said.
        rows: its rows.
        params: how many are kept, and T; of one alone it is the best path.
    """
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        if params.num_hypotheses == 1:
            yield from ([(text, 1.0)] for text in cache.greedy_texts(part))
        else:
            yield from (_weighted(items, params) for items in cache.hypotheses(part))


def _weighted(items: Sequence[Hypothesis], params: SequenceLossParams) -> list[tuple[str, float]]:
    kept = items[: params.num_hypotheses]
    scores = np.array([item.score for item in kept]) / params.temperature
    likelihoods = np.exp(scores - scores.max())
    weights = (likelihoods / likelihoods.sum()).tolist()
    return [(item.text, weight) for item, weight in zip(kept, weights, strict=True)]


def _stretched(frames: TeacherFrames, stretch: np.ndarray) -> TeacherFrames:
    """Return frames left out or repeated evenly, so that audio of another length has its own.

    Frame t of T' is the one of T in whose place its middle falls, ⌊(t + 1/2) · T / T'⌋.

    Args:
        frames: what the teacher said of audio so many times as long.
        stretch: that factor of each utterance `(batch,)`.
    """
    if (stretch == 1.0).all():
        return frames
    old = frames.lengths
    new = (old / torch.from_numpy(stretch)).round().clamp(min=1).to(old.dtype)
    new = torch.where(old > 0, new, old)
    middle = (torch.arange(int(new.max())) + 0.5) * (old / new.clamp(min=1)).unsqueeze(1)
    place = torch.minimum(middle.long(), (old - 1).clamp(min=0).unsqueeze(1))

    def taken(values: torch.Tensor) -> torch.Tensor:
        if not values.shape[1]:
            return values
        return values.gather(1, place.unsqueeze(2).expand(-1, -1, values.shape[2]))

    return TeacherFrames(
        taken(frames.log_probs),
        new,
        None if frames.ids is None else taken(frames.ids),
        None if frames.softened is None else taken(frames.softened),
        {name: taken(values) for name, values in frames.hidden.items()},
    )
