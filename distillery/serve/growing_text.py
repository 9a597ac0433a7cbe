"""The text of an utterance that is still being spoken, in any format; PyTorch is not imported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.data.text import Vocabulary
from distillery.decoder.decoder import Decoder
from distillery.decoder.search import Search
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from distillery.models.decoding import BLANK_INDEX
from distillery.serve.texts import letters_alone


def waits_for_the_end(architecture: str, normalise: str) -> ModelError:
    """Return the error of a student that cannot stream, by its architecture and its features."""
    return ModelError(
        f"model: {architecture} with features normalised {normalise!r} waits for the end of an "
        "utterance; expected a student such as causal_conv with features normalised 'running'"
    )


class GrowingText:
    """A student on its way through one utterance: audio in, a text that grows out."""

    def __init__(
        self, vocabulary: Vocabulary, decoder: Decoder | None, hot_words: Sequence[HotWord]
    ) -> None:
        """Start an utterance.

        Args:
            vocabulary: the student's tokens.
            decoder: what its text is searched with; None: the best path, or where there are hot
                words a search with these alone.
            hot_words: more than the decoder's own.

        Raises:
            ModelError: a hot word cannot be written with the tokens.
        """
        self.vocabulary = vocabulary
        self.path = GreedyPath()
        self.has_ended = False
        if decoder is None and hot_words:
            decoder = letters_alone(vocabulary)
        self.search: Search | None = None if decoder is None else decoder.begin(hot_words)

    @property
    def text(self) -> str:
        """The text so far. Of a search it may still change, until the utterance has ended."""
        if self.search is None:
            return self.vocabulary.decode(self.path.tokens)
        return self.search.finish()[0].text if self.has_ended else self.search.text

    @property
    def settled_text(self) -> str:
        """The part of the text that what is to come cannot change; at the end all of it."""
        if self.search is None or self.has_ended:
            return self.text
        return self.search.settled_text

    def push(self, waveform: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return the log-probabilities `(new frames, vocab)` that this chunk settles.

        Args:
            waveform: the next samples `(samples,)`, float32 in [-1, 1); there may be none.
            last: whether the utterance ends here.

        Raises:
            ModelError: it had ended.
        """
        if self.has_ended:
            raise ModelError("stream: a chunk came after the last one; start a new stream")
        self.has_ended = last
        log_probs = self._settled(waveform, last=last)
        self.path.push(log_probs)
        if self.search is not None:
            self.search.push(log_probs)
        return log_probs

    def _settled(self, waveform: np.ndarray, *, last: bool) -> np.ndarray:
        """Return what the student says of the frames that this chunk settles; as `push`."""
        raise NotImplementedError


class GreedyPath:
    """The best path through log-probabilities that come in pieces, repeats and blanks collapsed."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.frames: list[int] = []
        """The frame in which each token begins."""
        self.num_frames = 0
        self._former = BLANK_INDEX

    def push(self, log_probs: np.ndarray) -> None:
        """Go on with the frames `(frames, vocab)`."""
        for frame, token in enumerate(log_probs.argmax(axis=-1).tolist(), self.num_frames):
            if token not in (self._former, BLANK_INDEX):
                self.tokens.append(token)
                self.frames.append(frame)
            self._former = token
        self.num_frames += len(log_probs)
