"""CTC prefix beam search over what a grammar allows, frame by frame as they come.

A prefix y of tokens has the probability of all alignments that end in a blank, and of those that
end in its last token; per frame (Graves, 2008, "Supervised sequence labelling", section 7.5; Hannun
et al., 2014, arXiv 1408.2873):

    blank(y) = p(blank) · (blank'(y) + other'(y))
    other(y) = p(last y) · (other'(y) + [blank'(y⁻) or, for other letters, blank'(y⁻) + other'(y⁻)])

Prefixes are ranked by ln of the sum and the grammar's score. It is Python for the sake of where it
runs: beside ONNX Runtime and NumPy, with nothing to compile, and a page in JavaScript can do the
same. It is quick because few frames of a CTC model hold more than a blank.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from distillery.decoder.grammar import Grammar, Prefix
from distillery.decoder.trie import NONE, ROOT
from distillery.models.decoding import BLANK_INDEX

SURE_BLANK = math.log(0.999)
"""ln P of a blank from which on nothing else is looked at in a frame."""
NEGLIGIBLE = 30.0
"""Nats between two numbers from which on their sum is the larger."""
FORGET_FRAMES = 256
"""Frames after which dead ends are given up, so that memory grows with the text alone."""
RANK = attrgetter("rank")


@dataclass(frozen=True)
class Hypothesis:
    """A text that may have been spoken."""

    text: str
    score: float
    """All together, in nats: what texts are ranked by."""
    acoustic_score: float
    """ln P(text given audio), over the alignments that the search kept."""
    tokens: tuple[int, ...]
    """Of the text, boundaries included; `distillery.decoder.alignment.align` tells their times."""


class Search:
    """One utterance on its way through the search."""

    def __init__(self, grammar: Grammar) -> None:
        """Begin an utterance."""
        self.grammar = grammar
        self.num_frames = 0
        self._settled = grammar.root
        self._beams = [self._settled]

    def push(self, log_probs: np.ndarray) -> None:
        """Go on with the frames `(frames, vocab)`, natural logarithms."""
        if not len(log_probs):
            return
        threshold = self.grammar.weights.beam_threshold
        tops = log_probs.max(axis=1, keepdims=True)
        wanted = log_probs > tops - threshold
        wanted[:, BLANK_INDEX] = False
        blanks = log_probs[:, BLANK_INDEX].tolist()
        rows = np.maximum(log_probs, -1e4)
        for blank, row, likely in zip(blanks, rows, wanted, strict=True):
            if blank > SURE_BLANK:
                for prefix in self._beams:
                    prefix.blank = _add(prefix.blank, prefix.other) + blank
                    prefix.other = -math.inf
            else:
                values = row.tolist()
                tokens = sorted(np.flatnonzero(likely).tolist(), key=values.__getitem__)
                self._step(values, tokens[::-1])
            self.num_frames += 1
            if self.num_frames % FORGET_FRAMES == 0:
                self._forget()

    def _step(self, row: list[float], tokens: list[int]) -> None:
        """Go on with one frame.

        Args:
            row: ln P of each token.
            tokens: those that are likely enough, the likeliest first, without the blank.
        """
        extend, boundary = self.grammar.extend, self.grammar.boundary
        begins_word = self.grammar.begins_word
        threshold = self.grammar.weights.beam_threshold
        stamp, blank_score = self.num_frames, row[BLANK_INDEX]
        beams, reached, best = self._beams, [], -math.inf
        for prefix in beams:
            total = _add(prefix.blank, prefix.other)
            token = prefix.token
            prefix.stamp, prefix.new_blank = stamp, total + blank_score
            prefix.new_other = -math.inf
            if prefix.node == ROOT and token in (NONE, boundary):
                if boundary != NONE:  # another boundary changes nothing
                    prefix.new_other = total + row[boundary]
            else:
                prefix.new_other = prefix.other + row[token]
            reached.append(prefix)
            rank = max(prefix.new_blank, prefix.new_other) + prefix.score + prefix.ahead
            best = max(best, rank)
        for prefix in beams:
            total, children = _add(prefix.blank, prefix.other), prefix.children
            promised = total + prefix.score + prefix.ahead + self.grammar.token_gain
            for token in tokens:
                heard = row[token]
                # Letters lead to no more than what was promised, ends of words may.
                if promised + heard < best - threshold and not begins_word[token]:
                    continue
                score = (prefix.blank if token == prefix.token else total) + heard
                if token in children:
                    child = children[token]
                else:
                    child = children[token] = extend(prefix, token)
                if child is None:
                    continue
                rank = score + child.score + child.ahead
                if rank < best - threshold:
                    continue
                if rank > best:
                    best = rank
                if child.stamp != stamp:
                    child.stamp, child.new_blank, child.new_other = stamp, -math.inf, score
                    reached.append(child)
                else:
                    child.new_other = _add(child.new_other, score)
        self._keep(reached, best - threshold)

    def _keep(self, reached: list[Prefix], floor: float) -> None:
        """Go on with the best prefixes alone."""
        for prefix in reached:
            prefix.blank, prefix.other = prefix.new_blank, prefix.new_other
            prefix.rank = _add(prefix.blank, prefix.other) + prefix.score + prefix.ahead
        kept = [prefix for prefix in reached if prefix.rank >= floor]
        self._beams = heapq.nlargest(self.grammar.weights.beam_size, kept, key=RANK)

    def _forget(self) -> None:
        """Let go of prefixes that no beam begins with; find the one that all begin with."""
        live: set[Prefix] = {self._settled}
        for prefix in self._beams:
            at: Prefix | None = prefix
            while at is not None and at not in live:
                live.add(at)
                at = at.parent
        for prefix in live:
            children = prefix.children.items()
            prefix.children = {token: child for token, child in children if child in live}
        beams = set(self._beams)
        while self._settled not in beams and len(self._settled.children) == 1:
            (self._settled,) = (child for child in self._settled.children.values() if child)

    @property
    def text(self) -> str:
        """The text that is the likeliest so far; what comes next may change it."""
        return self._text_of(self._beams[0])

    @property
    def settled_text(self) -> str:
        """The words that all texts which are still possible begin with; it only grows."""
        self._forget()
        tokens = _tokens_of(self._settled)
        if self.grammar.by_words:
            boundary, begins_word = self.grammar.boundary, self.grammar.begins_word
            while tokens and tokens[-1] != boundary:
                if begins_word[tokens.pop()]:
                    break
        return self.grammar.vocabulary.decode(tokens)

    def finish(self, num_hypotheses: int = 1) -> list[Hypothesis]:
        """Return up to so many different texts, best first; one at least.

        Args:
            num_hypotheses: texts wanted.
        """
        found: dict[str, Hypothesis] = {}
        for prefix in self._beams:
            score = self.grammar.final_score(prefix)
            if score == -math.inf:
                continue
            hypothesis = self._hypothesis(prefix, score)
            former = found.get(hypothesis.text)
            if former is None or former.score < hypothesis.score:
                found[hypothesis.text] = hypothesis
        if not found:  # every text stops within a word that the lexicon lacks: leave it out
            prefix, is_last = self._beams[0], True
            while prefix.node != ROOT and prefix.parent is not None and is_last:
                is_last = not self.grammar.begins_word[prefix.token]
                prefix = prefix.parent
            whole = self.grammar.whole(prefix) or prefix
            return [self._hypothesis(prefix, whole.score)]
        ranked = sorted(found.values(), key=lambda item: (-item.score, item.text))
        return ranked[:num_hypotheses]

    def _hypothesis(self, prefix: Prefix, score: float) -> Hypothesis:
        acoustic = _add(prefix.blank, prefix.other)
        return Hypothesis(
            text=self._text_of(prefix),
            score=acoustic + score,
            acoustic_score=acoustic,
            tokens=tuple(_tokens_of(prefix)),
        )

    def _text_of(self, prefix: Prefix) -> str:
        return self.grammar.vocabulary.decode(_tokens_of(prefix))


def _tokens_of(prefix: Prefix) -> list[int]:
    """Return the tokens of a prefix."""
    tokens: list[int] = []
    at: Prefix | None = prefix
    while at is not None and at.parent is not None:
        tokens.append(at.token)
        at = at.parent
    return tokens[::-1]


def _add(a: float, b: float) -> float:
    """Return ln(e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if a - b > NEGLIGIBLE or b == -math.inf else a + math.log1p(math.exp(b - a))
