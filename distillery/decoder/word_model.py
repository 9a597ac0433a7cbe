"""An n-gram model as it is shipped: one small file, looked up where it lies.

    DLM1 | length of the header, uint32 | header, JSON | arrays, deflated

All numbers are little-endian. The header names order, unit, counts and types; then stand, in order:

    words      UTF-8, one a line, in code point order; a word's number is its line
    spelling   uint8 (letters + 1, letters + 1): -ln P(next letter | letter) in steps of 1/16 nat
    for n = 1 … order:
      words    of each n-gram the last word's number, sorted within the history
      chances  uint8: entries of a table of ln p, float32 (256)
      backoffs uint8: entries of a table of ln α, float32 (256); below the highest order
      children how many n-grams of n + 1 words begin with it; below the highest order

Behind the words' numbers stand three more: `<unk>`, `<s>` and `</s>`. A table holds the means of
256 equally large groups of the values (Federico and Bertoldi, 2006, "How many bits are needed to
store probabilities for phrase-based translation?"); up to 256 values are kept as they are.

The spelling model tells how likely the letters of a word are that the file does not list: bigrams
of letters, of the words listed, one added to every count. Imports neither PyTorch nor SciPy.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distillery.data.units import Unit
from distillery.errors import ModelError
from distillery.files import write_bytes
from distillery.language_model.ngrams import END, START, UNKNOWN, NGram, NGramModel

WORD_MODEL_FILE = "decoder.lm"
MAGIC = b"DLM1"
SPECIAL = (UNKNOWN, START, END)
TABLE_SIZE = 256
SPELLING_STEPS = 16
"""Per nat."""
MAX_REMEMBERED = 200_000
"""Answers that are kept; more would be a leak in a server."""

State = tuple[int, ...]
"""The words before, as far as the model tells them apart."""


@dataclass(frozen=True)
class _Header:
    """What a file says of its arrays."""

    order: int
    unit: Unit
    letters: str
    """Of the spelling model, in its order; empty where characters are the words."""
    words_bytes: int
    word_type: str
    counts: tuple[int, ...]
    """N-grams of each length."""
    child_types: tuple[str, ...]


@dataclass(frozen=True)
class _Level:
    """The n-grams of one length, as Python reads them fastest: one by one."""

    words: Sequence[int]
    chances: bytes
    chance_table: Sequence[float]
    backoffs: bytes
    backoff_table: Sequence[float]
    starts: Sequence[int]
    """Where the n-grams that begin with each stand among the longer ones; one more than n-grams."""


class WordModel:
    """Words, how likely they follow one another, and how likely their letters do."""

    def __init__(self, header: _Header, words: Sequence[str], arrays: _Arrays) -> None:
        """Take over what `load` or `pack` read."""
        self.order, self.unit = header.order, header.unit
        self.words = list(words)
        self.number = {word: number for number, word in enumerate(self.words)}
        self.unknown, self.start, self.end = range(len(words), len(words) + len(SPECIAL))
        self._levels = arrays.levels
        self._letters = {letter: place for place, letter in enumerate(header.letters)}
        self._spelling = arrays.spelling
        self._answers: dict[tuple[State, int], tuple[float, State]] = {}

    @classmethod
    def load(cls, path: Path) -> WordModel:
        """Read a file.

        Raises:
            ModelError: it is missing, damaged or none of this format.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; register the model again") from None
        except (ValueError, TypeError, KeyError, IndexError, struct.error, zlib.error) as error:
            raise ModelError(
                f"{path}: no language model of this format ({error}); register the model again"
            ) from None

    @classmethod
    def from_bytes(cls, content: bytes) -> WordModel:
        """Read a file's content.

        Raises:
            ValueError, TypeError, KeyError, IndexError, struct.error, zlib.error: it is damaged.
        """
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError(f"begins with {content[: len(MAGIC)]!r}, expected {MAGIC!r}")
        (size,) = struct.unpack_from("<I", content, len(MAGIC))
        begin = len(MAGIC) + 4
        fields = json.loads(content[begin : begin + size])
        fields["unit"] = Unit(fields["unit"])
        header = _Header(**fields)
        body = zlib.decompress(content[begin + size :])
        words = body[: header.words_bytes].decode().split("\n")[:-1]
        return cls(header, words, _Arrays.read(header, body[header.words_bytes :]))

    @property
    def begin(self) -> State:
        """The state before the first word."""
        return (self.start,) if self.order > 1 else ()

    def score(self, state: State, word: int) -> tuple[float, State]:
        """Return ln P(word | state), and the state behind the word.

        Args:
            state: `begin`, or what a former call returned.
            word: a word's number, `unknown` or `end`.
        """
        key = (state, word)
        found = self._answers.get(key)
        if found is None:
            if len(self._answers) > MAX_REMEMBERED:
                self._answers.clear()
            found = self._answers[key] = self._look_up(state, word)
        return found

    def spelling_score(self, letter: str, former: str) -> float:
        """Return ln P(letter | former) inside a word; "" stands for a word's end and start."""
        last = len(self._letters)
        row, column = self._letters.get(former, last), self._letters.get(letter, last)
        return -self._spelling[row][column] / SPELLING_STEPS

    @cached_property
    def best_chance(self) -> list[float]:
        """ln of the highest probability of each word without a history."""
        level = self._levels[0]
        return [level.chance_table[code] for code in level.chances]

    def _look_up(self, state: State, word: int) -> tuple[float, State]:
        total, context = 0.0, state
        while True:
            place = self._find((*context, word))
            if place is not None or not context:
                break
            at = self._find(context)
            if at is not None:
                level = self._levels[len(context) - 1]
                total += level.backoff_table[level.backoffs[at]]
            context = context[1:]
        assert place is not None  # every word is a unigram
        level = self._levels[len(context)]
        total += level.chance_table[level.chances[place]]
        return total, self._behind((*context, word))

    def _behind(self, words: State) -> State:
        """Return the longest end of some words that tells what follows."""
        words = words[len(words) - self.order + 1 :] if len(words) >= self.order else words
        while words:
            at = self._find(words)
            if at is not None:
                starts = self._levels[len(words) - 1].starts
                if starts[at] < starts[at + 1]:
                    return words
            words = words[1:]
        return ()

    def _find(self, words: State) -> int | None:
        """Return where an n-gram stands among those of its length; None: nowhere."""
        place = words[0]
        for level, longer, word in zip(self._levels, self._levels[1:], words[1:], strict=False):
            low, high = level.starts[place], level.starts[place + 1]
            place = bisect_left(longer.words, word, low, high)
            if place == high or longer.words[place] != word:
                return None
        return place


@dataclass(frozen=True)
class _Arrays:
    """What stands behind the words."""

    spelling: Sequence[bytes]
    levels: Sequence[_Level]

    @classmethod
    def read(cls, header: _Header, body: bytes) -> _Arrays:
        """Read them; raises ValueError where something is missing or left."""
        place = 0

        def take(kind: str, count: int) -> np.ndarray:
            nonlocal place
            found = np.frombuffer(body, np.dtype(kind).newbyteorder("<"), count, place)
            place += found.nbytes
            return found

        size = len(header.letters) + 1
        spelling = [take("u1", size).tobytes() for _ in range(size)]
        levels = []
        for n, count in enumerate(header.counts, 1):
            is_last = n == header.order
            words = _as_array(take(header.word_type, count))
            chances, chance_table = take("u1", count).tobytes(), take("f4", TABLE_SIZE).tolist()
            backoffs, backoff_table = b"", list[float]()
            starts: Sequence[int] = ()
            if not is_last:
                backoffs, backoff_table = take("u1", count).tobytes(), take("f4", 256).tolist()
                children = take(header.child_types[n - 1], count)
                starts = _as_array(np.cumsum([0, *children], dtype=np.uint32))
                if starts[-1] != header.counts[n]:
                    raise ValueError(f"{starts[-1]} n-grams of {n + 1} words, not as announced")
            levels.append(_Level(words, chances, chance_table, backoffs, backoff_table, starts))
        if place != len(body):
            raise ValueError(f"{len(body) - place} bytes too many")
        return cls(spelling, levels)


def pack(model: NGramModel, words: Iterable[str], unit: Unit) -> bytes:
    """Return a model as the file's content; equal models give equal bytes.

    Args:
        model: the n-grams.
        words: more words that may be written, as likely as an unknown one.
        unit: what its words are.
    """
    listed = sorted({*model.words, *words})
    unknown = model.probabilities[UNKNOWN,]
    numbers = {word: number for number, word in enumerate([*listed, *SPECIAL])}
    levels: list[list[tuple[State, NGram]]] = [[] for _ in range(model.order)]
    for ngram in model.probabilities:
        levels[len(ngram) - 1].append((tuple(numbers[word] for word in ngram), ngram))
    known = {key for key, _ in levels[0]}
    levels[0] += [((numbers[word],), (word,)) for word in numbers if (numbers[word],) not in known]
    for level in levels:
        level.sort()
    letters = "" if unit.spells_characters else "".join(sorted(set("".join(listed))))
    text = "".join(f"{word}\n" for word in listed).encode()
    word_type = "u2" if len(numbers) <= np.iinfo(np.uint16).max else "u4"
    parts, child_types = [text, *_spelling(listed, letters)], []
    for n, level in enumerate(levels, 1):
        parts.append(np.array([key[-1] for key, _ in level], f"<{word_type}").tobytes())
        # What no text holds, and what follows no word, is as likely as what is unknown.
        chances = [model.probabilities.get(ngram) or unknown for _, ngram in level]
        parts += _coded([math.log(chance) for chance in chances])
        if n < model.order:
            parts += _coded([math.log(model.backoffs.get(ngram, 1.0)) for _, ngram in level])
            follow = _children([key for key, _ in level], [key for key, _ in levels[n]])
            child_types.append("u2" if max(follow, default=0) < 65536 else "u4")
            parts.append(np.array(follow, f"<{child_types[-1]}").tobytes())
    header = _Header(
        model.order,
        unit,
        letters,
        len(text),
        word_type,
        tuple(map(len, levels)),
        tuple(child_types),
    )
    start = json.dumps(asdict(header), ensure_ascii=False).encode()
    return MAGIC + struct.pack("<I", len(start)) + start + zlib.compress(b"".join(parts), 9)


def save(content: bytes, folder: Path) -> str:
    """Write the file into a folder and return its SHA-256."""
    write_bytes(folder / WORD_MODEL_FILE, content)
    return hashlib.sha256(content).hexdigest()


def _as_array(values: np.ndarray) -> array[int]:
    """Return unsigned numbers so that Python reads one as fast as of a list, in less memory."""
    found = array("H" if values.itemsize == 2 else "I")
    found.frombytes(values.astype(values.dtype.newbyteorder("=")).tobytes())
    return found


def _children(shorter: Sequence[State], longer: Sequence[State]) -> list[int]:
    """Return how many of the longer n-grams begin with each of the shorter ones."""
    counts = dict.fromkeys(shorter, 0)
    for key in longer:
        counts[key[:-1]] += 1
    return list(counts.values())


def _coded(values: Sequence[float]) -> tuple[bytes, bytes]:
    """Return values as entries of a table, and the table."""
    exact = np.unique(np.array(values, np.float32))
    table = np.zeros(TABLE_SIZE, np.float32)
    if len(exact) <= TABLE_SIZE:
        table[: len(exact)] = exact
        codes = np.searchsorted(exact, np.array(values, np.float32))
    else:
        order = np.argsort(values, kind="stable")
        codes = np.empty(len(values), np.int64)
        for code, group in enumerate(np.array_split(order, TABLE_SIZE)):
            table[code] = np.mean(np.array(values)[group])
            codes[group] = code
    return codes.astype(np.uint8).tobytes(), table.astype("<f4").tobytes()


def _spelling(words: Sequence[str], letters: str) -> list[bytes]:
    """Return the rows of the spelling model; the last row and column are a word's start and end."""
    size = len(letters) + 1
    place = {letter: index for index, letter in enumerate(letters)}
    counts = np.ones((size, size))
    for word in words if letters else ():
        path = [size - 1, *(place[letter] for letter in word), size - 1]
        for former, letter in itertools.pairwise(path):
            counts[former, letter] += 1
    costs = -np.log(counts / counts.sum(axis=1, keepdims=True)) * SPELLING_STEPS
    return [row.tobytes() for row in np.clip(np.rint(costs), 0, 255).astype(np.uint8)]
