"""What a frame-wise term asks of the cache."""

from __future__ import annotations

import pytest

from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.distill.frames import learns_sparse_frames
from distillery.errors import CacheMismatch
from distillery.teacher_cache.namespace import Namespace

LETTERS = Vocabulary.from_alphabet("ab")
PIECES = Vocabulary((BLANK, SPACE, "a", "b", "|ab"))


def namespace(kind: str) -> Namespace:
    return Namespace({"weights": "w"}, LETTERS.tokens, 0.04, {"kind": kind})


@pytest.mark.parametrize(("kind", "is_sparse"), [("u8", False), ("f16", False), ("sparse", True)])
def test_frames_are_sparse_where_the_cache_keeps_the_likeliest(kind: str, is_sparse: bool) -> None:
    assert learns_sparse_frames("conv", "kl", namespace(kind), LETTERS, 1) is is_sparse


@pytest.mark.parametrize(("kind", "tokens"), [("none", LETTERS), ("u8", PIECES)])
def test_frames_over_other_tokens_are_refused(kind: str, tokens: Vocabulary) -> None:
    with pytest.raises(CacheMismatch, match="nothing about the student's tokens"):
        learns_sparse_frames("conv", "kl", namespace(kind), tokens, 1)


@pytest.mark.parametrize(
    ("loss", "ratio", "message"),
    [("logit_mse", 1, "reads all tokens"), ("kl", 2, "one frame faces 2")],
)
def test_sparse_frames_that_cannot_be_learnt_are_refused(
    loss: str, ratio: int, message: str
) -> None:
    with pytest.raises(CacheMismatch, match=message):
        learns_sparse_frames("conv", loss, namespace("sparse"), LETTERS, ratio)
