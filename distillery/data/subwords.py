"""Tokens that are pieces of words, by SentencePiece's unigram model.

Source: Kudo (2018), "Subword Regularization", arXiv 1804.10959, section 3.2: of all ways to cut a
text into pieces the likeliest one, each piece's probability estimated by expectation maximisation.
Pieces that another model writes in, and of which no more is known, are equally likely each, so a
text is cut into as few of them as can be.

A student's folder holds the model beside tokens.txt:

    subwords.model  SentencePiece's own file, which its tools read
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.errors import ModelError
from distillery.files import write_bytes

SUBWORDS_FILE = "subwords.model"
WORD_START = "▁"
"""How SentencePiece writes a space, and what sherpa-onnx writes as one."""
MOST_TEXTS = 1_000_000
"""Of so many, the first ones, pieces are learnt: more change them little and take memory."""


@dataclass(frozen=True)
class SubwordVocabulary(Vocabulary):
    """Pieces of words, and what cuts texts into them."""

    model: bytes
    """SentencePiece's, whose piece of number n is token n, but for number 0, the blank."""

    @classmethod
    def learn(cls, texts: Sequence[str], size: int, alphabet: Iterable[str]) -> Self:
        """Return the pieces that texts are cut into; equal texts give equal pieces.

        Args:
            texts: normalised.
            size: how many tokens there are to be, the blank among them. There are fewer where texts
                hold fewer pieces, and never fewer than characters.
            alphabet: characters that must have a token whether or not the texts hold them.

        Raises:
            ModelError: the texts hold no word.
        """
        texts = [text for text in texts if text][:MOST_TEXTS]
        if not texts:
            raise ModelError("subwords: no text holds a word, expected texts to learn pieces from")
        letters = sorted({*alphabet, *"".join(set("".join(texts)))} - {" ", SPACE})
        content = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=content,
            model_type="unigram",
            vocab_size=max(size, len(letters) + 2),
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars="".join(letters),
            normalization_rule_name="identity",  # texts are normalised
            max_sentence_length=1 << 20,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # sums, and so pieces, depend on it
            minloglevel=2,
        )
        return cls.of_model(content.getvalue())

    @classmethod
    def of_pieces(cls, pieces: Sequence[str]) -> Self:
        """Return pieces that are settled; the fewest that hold a text are its tokens.

        Args:
            pieces: without the blank, each once; those that begin a word have the `|` in front.
        """
        proto: Any = sentencepiece_model_pb2  # its classes are made when it is imported
        content = proto.ModelProto()
        content.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
        content.normalizer_spec.name = "identity"
        unknown = proto.ModelProto.SentencePiece.UNKNOWN
        content.pieces.add(piece="<unk>", score=0.0, type=unknown)
        for piece in pieces:
            content.pieces.add(piece=piece.replace(SPACE, WORD_START), score=-1.0)
        model: bytes = content.SerializeToString(deterministic=True)
        return cls.of_model(model)

    @classmethod
    def of_model(cls, model: bytes) -> Self:
        """Return the vocabulary of a SentencePiece model."""
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [processor.id_to_piece(number) for number in range(1, len(processor))]
        return cls((BLANK, *(piece.replace(WORD_START, SPACE) for piece in pieces)), model)

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def encode(self, text: str) -> list[int]:
        """Return the likeliest pieces of a normalised text.

        Raises:
            ModelError: no pieces make up the text.
        """
        self.check_known(text)
        found: list[int] = self._processor.encode(text)
        if 0 in found:  # SentencePiece's number of what it does not know, and our blank
            raise ModelError(
                f"text {text[:60]!r}: its characters stand in pieces, but no pieces make it up; "
                "expected pieces of single characters, too"
            )
        return found

    def can_write(self, text: str) -> bool:
        """Return whether pieces make up a normalised text."""
        return not self.unknown(text) and 0 not in self._processor.encode(text)

    @property
    def digest(self) -> str:
        """SHA-256 of tokens and model: equal for equal pieces that cut texts alike."""
        return hashlib.sha256(super().digest.encode() + self.model).hexdigest()

    @property
    def between(self) -> list[int]:
        """Nothing: a piece that begins a word says so."""
        return []

    def save(self, path: Path) -> None:
        """Write tokens.txt, and subwords.model beside it."""
        super().save(path)
        write_bytes(path.with_name(SUBWORDS_FILE), self.model)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read tokens.txt, and subwords.model where it lies beside it.

    Raises:
        ModelError: a file is missing or damaged, or they do not fit each other.
    """
    tokens, model = Vocabulary.load(path), path.with_name(SUBWORDS_FILE)
    if not model.exists():
        return tokens
    try:
        found = SubwordVocabulary.of_model(model.read_bytes())
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{model}: cannot be used ({error}); train the student again") from None
    if found.tokens != tokens.tokens:
        raise ModelError(
            f"{model}: its pieces are not those of {path.name}; train the student again"
        )
    return found
