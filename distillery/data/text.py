"""Transcripts: one normaliser, and the token table of CTC models."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distillery.data.letters import SIGNS, in_one_form
from distillery.errors import ModelError

BLANK = "<blank>"
SPACE = "|"
NEUTRAL = "一"
"""A letter without case that joins with no mark: what stands beside it tells of itself alone."""


class _Kept(dict[int, str]):
    """What stays of each character: itself, or the space that it becomes."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = character == "'" or character in SIGNS or unicodedata.category(character)[0] in "LMN"
        self[code] = form = character if kept else " "
        return form


_KEPT = _Kept()


def normalise(text: str, case: str, alphabet: Collection[str] | None = None) -> str:
    """Return the text as models see it.

    The rule: Unicode NFC; typographic apostrophes become `'`; what is written in several forms gets
    one, and what is not seen is dropped (`distillery.data.letters`); letter case as asked, and NFC
    again; every other character that is no letter, combining mark, digit or apostrophe becomes a
    space; white space runs become one space; none at the ends, no apostrophe outside a word.

    Turkish `İ` becomes `i` in lower case; its `I` and `ı` need a language, which there is no
    setting for: such texts come with the case that they are to have, and `keep`.

    Args:
        text: a transcript as published, or what a model says.
        case: `lower`, `upper` or `keep`.
        alphabet: the characters that texts may hold, where that is settled: signs inside words that
            it lacks are dropped, and points that it has are kept. None: as the texts have it.
    """
    if text.isascii():
        text = text.replace("`", "'")
    else:
        text = in_one_form(unicodedata.normalize("NFC", text), alphabet)
    if case == "lower":
        text = text.replace("İ", "i").lower()
    elif case == "upper":
        text = text.upper()
    # The dot of an i stands in the letter already; `İ` in lower case has it twice.
    text = unicodedata.normalize("NFC", text.replace("i\u0307", "i"))
    words = (_bare(word) for word in text.translate(_KEPT).split())
    return " ".join(word for word in words if word)


def _bare(word: str) -> str:
    """Return a word without apostrophes at its ends, and marks that no letter bears."""
    word = word.strip("'")
    while word and (word[0] in SIGNS or unicodedata.category(word[0])[0] == "M"):
        word = word[1:].lstrip("'")
    return word


def case_of(vocabulary: Vocabulary) -> str:
    """Return the letter case that a corpus's tokens show: `lower`, `upper` or, for both, `keep`."""
    letters = "".join(vocabulary.tokens[1:])
    if letters == letters.lower():
        return "lower"
    return "upper" if letters == letters.upper() else "keep"


def meaning(character: str, case: str) -> str:
    """Return what the rule makes of a character inside a word: itself, others, a space, or nothing.

    Args:
        character: one, or one with its combining marks.
        case: as for `normalise`.
    """
    if character in SIGNS:
        return character
    inside = normalise(f"{NEUTRAL}{character}{NEUTRAL}", case, alphabet=character)
    return inside.removeprefix(NEUTRAL).removesuffix(NEUTRAL)


def describe_rule(case: str) -> str:
    """Return the normaliser's rule in one sentence, for summary.json."""
    return (
        f"Unicode NFC, apostrophes unified, case: {case}, "
        "everything but letters, marks, digits and apostrophes becomes a space"
    )


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a CTC model; index 0 is the blank, `|` stands for the space.

    Tokens are characters, or pieces of words: a piece that begins a word has the `|` in front.
    """

    tokens: tuple[str, ...]

    @classmethod
    def from_alphabet(cls, alphabet: Iterable[str]) -> Vocabulary:
        """Return blank, word boundary and the alphabet's characters in code point order."""
        return cls((BLANK, SPACE, *sorted(set(alphabet) - {" "})))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read tokens.txt: one token a line, line number = index.

        Raises:
            ModelError: the file is missing, lacks the blank in front, or repeats a token.
        """
        try:
            tokens = tuple(path.read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; run the stage that makes the model") from None
        if not tokens or tokens[0] != BLANK:
            raise ModelError(f"{path}: first line is {tokens[:1]}, expected {BLANK!r}")
        if len(set(tokens)) != len(tokens):
            raise ModelError(f"{path}: a token occurs twice; each must occur once")
        return cls(tokens)

    def save(self, path: Path) -> None:
        """Write tokens.txt."""
        path.write_text("".join(f"{token}\n" for token in self.tokens), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """SHA-256 of the table: equal for equal tokens in equal order."""
        return hashlib.sha256("\n".join(self.tokens).encode()).hexdigest()

    @cached_property
    def characters(self) -> frozenset[str]:
        """All that texts can be written with, the space as `|`."""
        return frozenset("".join(self.tokens[1:]))

    @cached_property
    def is_of_characters(self) -> bool:
        """Whether every token is one character."""
        return all(len(token) == 1 for token in self.tokens[1:])

    def unknown(self, text: str) -> set[str]:
        """Return the characters of a normalised text that no token holds."""
        return set(text.replace(" ", SPACE)) - self.characters

    def encode(self, text: str) -> list[int]:
        """Return the token indices of a normalised text.

        Raises:
            ModelError: a character has no token.
        """
        self.check_known(text)
        if not self.is_of_characters:
            raise ModelError("tokens are pieces of words, expected subwords.model beside them")
        numbers = self._numbers
        return [numbers[SPACE if character == " " else character] for character in text]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def check_known(self, text: str) -> None:
        """Make sure that a normalised text can be written.

        Raises:
            ModelError: a character has no token.
        """
        if missing := self.unknown(text):
            raise ModelError(
                f"text {text[:60]!r}: characters {sorted(missing)} have no token; "
                "extend prepare.alphabet and run make prepare again"
            )

    @property
    def between(self) -> list[int]:
        """The tokens that stand between two texts which are one."""
        return self.encode(" ")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token indices, blanks left out, spaces tidied."""
        characters = "".join(self.tokens[token] for token in tokens if token != 0)
        return " ".join(characters.replace(SPACE, " ").split())

    def tidy(self, tokens: Sequence[int]) -> list[int]:
        """Return token indices without blanks and without boundaries that part no words."""
        found: list[int] = []
        is_open = False  # whether a word has begun that a boundary would end
        for token in tokens:
            piece = self.tokens[token] if token != 0 else ""
            if piece == SPACE and not is_open:
                continue
            if piece.startswith(SPACE) and found and self.tokens[found[-1]] == SPACE:
                found.pop()  # the piece is a boundary, too
            if piece:
                found.append(token)
                is_open = piece != SPACE
        return found[:-1] if found and self.tokens[found[-1]] == SPACE else found


def min_ctc_frames(tokens: Sequence[int] | str) -> int:
    """Return the fewest frames CTC can use: labels, plus one blank between equal neighbours."""
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    return len(tokens) + repeats
