"""Token tables compared by what tokens stand for, and texts of tables that cannot be compared.

A CTC model may have its tokens in any order, its blank at any index and under any name, letters in
either case, words parted by `|`, `▁` or a space, and entries such as `<unk>` that it never says.
Where its tokens are single characters, its distributions become ones over the corpus's tokens.
Where they are subwords, they become ones over pieces in the corpus's spelling, which students with
`tokens: {type: teacher}` write in. Where they lack what transcripts hold, only its texts can be
used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.subwords import SubwordVocabulary
from distillery.data.text import BLANK, SPACE, Vocabulary, case_of, meaning, normalise

BOUNDARIES = (SPACE, "▁", " ", "<space>")
"""What tables call the space between words; `▁` also begins the words of SentencePiece."""
SPECIAL = re.compile(r"<[^<>]+>|\[[A-Za-z0-9_]+\]")
"""Entries that stand for no text: `<unk>`, `<s>`, `</s>`, `<pad>`, `[UNK]`, `[PAD]`, `<0x0A>`."""
SHOWN = 8


@dataclass(frozen=True)
class TokenTable:
    """The tokens that a model was trained with, in its own order and spelling."""

    tokens: tuple[str, ...]
    blank: int
    """Index of the CTC blank, whatever it is called."""

    def spelling(self, index: int) -> str:
        """Return what a token adds to a text; nothing for the blank and special entries."""
        token = self.tokens[index]
        if index == self.blank:
            return ""
        if token in BOUNDARIES:
            return " "
        return "" if SPECIAL.fullmatch(token) else token.replace("▁", " ")

    def text(self, indices: Iterable[int]) -> str:
        """Return the text of token indices, as the model spells it."""
        return "".join(self.spelling(index) for index in indices)


@dataclass(frozen=True)
class TokenMap:
    """How distributions over a model's tokens become ones in the corpus's spelling."""

    vocabulary: Vocabulary
    """The corpus's tokens, less those that the model lacks and no transcript holds; or the model's
    pieces as the corpus spells them."""
    groups: tuple[tuple[int, ...], ...]
    """For each of them the model's tokens that mean it."""
    dropped: tuple[int, ...]
    """The model's tokens that mean none of them."""

    @property
    def is_exact(self) -> bool:
        """Whether both tables hold the same tokens, in whatever order."""
        return not self.dropped and all(len(group) == 1 for group in self.groups)

    def apply(self, log_probs: Tensor) -> Tensor:
        """Return log-probabilities `(…, vocab)` of a model's own `(…, tokens)`.

        Formula: log p(v) = logsumexp over v's group of log p(token), renormalised where tokens were
        dropped. An exact map moves values and changes none.
        """
        if self.is_exact:
            return log_probs[..., [group[0] for group in self.groups]]
        nowhere = log_probs.shape[-1]
        widest = max(map(len, self.groups))
        index = torch.tensor(
            [[*group, *[nowhere] * (widest - len(group))] for group in self.groups],
            device=log_probs.device,
        )  # (vocab, widest)
        padded = F.pad(log_probs, (0, 1), value=float("-inf"))
        summed = padded[..., index].logsumexp(dim=-1)  # (…, vocab)
        return summed.log_softmax(dim=-1) if self.dropped else summed

    def dropped_mass(self, log_probs: Tensor) -> Tensor:
        """Return the probability `(…,)` that the dropped tokens had of `(…, tokens)`."""
        return log_probs[..., list(self.dropped)].exp().sum(dim=-1)


@dataclass(frozen=True)
class NoMap:
    """Two tables that cannot be compared token by token."""

    reason: str
    """Why, in words that complete "the teacher has no frames for students: …"."""


def match_tokens(
    table: TokenTable, corpus: Vocabulary, transcripts: Iterable[str] = ()
) -> TokenMap | NoMap:
    """Return how a model's tokens become the corpus's, or why they cannot.

    Tokens are the same if the corpus's text rule makes the same of them; punctuation counts as the
    word boundary, which is what the rule makes of it, and what the rule drops is left out.

    Args:
        table: the model's tokens.
        corpus: the corpus's.
        transcripts: normalised texts; characters that they hold cannot be left out.
    """
    case = case_of(corpus)
    is_of_subwords = any(
        len(spelt := unicodedata.normalize("NFC", table.spelling(index))) > 1
        and len(meaning(spelt, case)) != 1
        for index in range(len(table.tokens))
    )
    if is_of_subwords:
        return _match_pieces(table, corpus, case, transcripts)
    groups: dict[str, list[int]] = {token: [] for token in corpus.tokens}
    dropped: list[int] = []
    for index in range(len(table.tokens)):
        token = corpus.tokens[0] if index == table.blank else _piece(table.spelling(index), case)
        groups.get(token, dropped).append(index)
    needed = {*corpus.tokens[:1], SPACE, *"".join(transcripts).replace(" ", SPACE)}
    if missing := sorted(token for token in needed if not groups.get(token)):
        names = ["the word boundary" if token == SPACE else repr(token) for token in missing]
        return NoMap(
            f"it has no token for {', '.join(names[:SHOWN])}"
            f"{', …' if len(names) > SHOWN else ''}, which transcripts of the corpus hold"
        )
    shared = {token: tuple(indices) for token, indices in groups.items() if indices}
    return TokenMap(Vocabulary(tuple(shared)), tuple(shared.values()), tuple(dropped))


def _match_pieces(
    table: TokenTable, corpus: Vocabulary, case: str, transcripts: Iterable[str]
) -> TokenMap | NoMap:
    groups: dict[str, list[int]] = {BLANK: [table.blank]}
    dropped: list[int] = []
    for index in range(len(table.tokens)):
        if index != table.blank:
            piece = _piece(table.spelling(index), case)
            known = piece and corpus.characters.issuperset(piece)
            (groups.setdefault(piece, []) if known else dropped).append(index)
    if not any(piece.startswith(SPACE) for piece in groups):
        return NoMap("its tokens are subwords, and none is, or begins with, the word boundary")
    vocabulary = SubwordVocabulary.of_pieces(list(groups)[1:])
    words = sorted({word for text in transcripts for word in text.split()})
    if missing := [word for word in words if not vocabulary.can_write(word)]:
        return NoMap(
            f"its tokens are subwords which do not make up {_some(missing)}, of {len(missing)} "
            "words in transcripts of the corpus that they cannot write"
        )
    shared = tuple(tuple(indices) for indices in groups.values())
    return TokenMap(vocabulary, shared, tuple(dropped))


def _piece(spelling: str, case: str) -> str:
    """Return a model's character or subword as the corpus spells it, "" where the text rule drops
    it, or where it holds the end of one word and the beginning of the next."""
    inner = unicodedata.normalize("NFC", spelling.lstrip(" "))
    start = SPACE if len(inner) < len(spelling) else ""
    text = meaning(inner, case) if inner else ""
    if text in ("", " "):
        return SPACE if text else start
    return "" if " " in text else start + text


def corpus_text(text: str, vocabulary: Vocabulary) -> str:
    """Return a text as the corpus would spell it; characters that it has no token for are left out.

    Args:
        text: as a model spells it.
        vocabulary: the corpus's tokens.
    """
    spelt = normalise(text, case_of(vocabulary), vocabulary.tokens)
    known = frozenset(vocabulary.tokens)  # thousands, where characters are syllables or words
    return " ".join("".join(c for c in spelt if c == " " or c in known).split())


def collapse(best: Sequence[int], blank: int) -> list[int]:
    """Return a CTC path's tokens: repeats merged, blanks left out."""
    return [int(token) for token, _ in groupby(best) if token != blank]


def texts_of(
    log_probs: np.ndarray,
    table: TokenTable,
    vocabulary: Vocabulary,
    num_hypotheses: int,
    beam_size: int,
) -> list[tuple[str, float]]:
    """Return the likeliest texts of a model's own `(frames, tokens)` and their ln P, best first.

    Formula: ln P(text) = ln Σ P(tokens), over the token sequences found that are spelt so; each
    P(tokens) sums all alignments (Graves et al., 2006, eq. 3). The best path is always among them.

    Args:
        log_probs: of one utterance.
        table: the model's tokens.
        vocabulary: the corpus's, for the spelling.
        num_hypotheses: texts wanted.
        beam_size: prefixes kept at each frame; 1 takes the best path alone.
    """
    if not len(log_probs):
        return [("", 0.0)]
    frames = torch.from_numpy(np.ascontiguousarray(log_probs))
    paths = {tuple(collapse(log_probs.argmax(axis=-1).tolist(), table.blank)): None}
    if beam_size > 1:
        # Several token sequences give one text: ask for more than are wanted.
        search = _beam_search(table, min(2 * num_hypotheses, beam_size), beam_size)
        (found,) = search(frames[None])
        for item in found:
            tokens = [t for t in item.tokens.tolist() if t != table.blank]
            paths.setdefault(tuple(tokens))
    labels = list(paths)
    scores = -F.ctc_loss(
        frames[:, None].expand(-1, len(labels), -1),  # (frames, sequences, tokens)
        torch.tensor([token for label in labels for token in label], dtype=torch.long),
        torch.full((len(labels),), len(frames)),
        torch.tensor([len(label) for label in labels]),
        blank=table.blank,
        reduction="none",
    )
    summed: dict[str, float] = {}
    for label, score in zip(labels, scores.tolist(), strict=True):
        text = corpus_text(table.text(label), vocabulary)
        summed[text] = float(np.logaddexp(summed.get(text, -np.inf), score))
    return sorted(summed.items(), key=lambda item: -item[1])[:num_hypotheses]


@lru_cache(maxsize=1)
def _beam_search(table: TokenTable, num_best: int, beam_size: int) -> Any:
    from torchaudio.models.decoder import ctc_decoder

    names = [str(index) for index in range(len(table.tokens))]  # tables may hold a token twice
    return ctc_decoder(
        lexicon=None,
        tokens=names,
        nbest=num_best,
        beam_size=beam_size,
        blank_token=names[table.blank],
        sil_token=names[table.blank],
        log_add=True,
    )


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:3]))
