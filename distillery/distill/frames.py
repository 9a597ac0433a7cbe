"""What a frame-wise term asks of the cache."""

from __future__ import annotations

from distillery.data.text import Vocabulary
from distillery.errors import CacheMismatch
from distillery.losses.known import SPARSE_FRAME_LOSSES
from distillery.teacher_cache.namespace import Namespace


def learns_sparse_frames(
    student: str, loss: str, namespace: Namespace, vocabulary: Vocabulary, rate_ratio: int
) -> bool:
    """Return whether a student's frames are compared with sparse targets, not with dense ones.

    Args:
        student: its name.
        loss: the name of its frame-wise loss.
        namespace: of the cache.
        vocabulary: the student's.
        rate_ratio: frames of the teacher that one of the student's faces.

    Raises:
        CacheMismatch: the cache has no frames over the student's tokens; or it has sparse ones, and
            the loss reads all tokens, or frames would have to be pooled.
    """
    kind = namespace.payload["kind"]
    if kind == "none" or vocabulary.tokens != namespace.tokens:
        raise CacheMismatch(
            f"student {student!r}: learns the teacher frame by frame, but this teacher says "
            "nothing about the student's tokens there (its own are others, or it gives texts); "
            "set frame.weight to 0: sequence learns from its texts, hidden from its layers; or, "
            "where it writes in subwords, the student's tokens to {type: teacher}"
        )
    if kind != "sparse":
        return False
    if loss not in SPARSE_FRAME_LOSSES:
        learns = ", ".join(SPARSE_FRAME_LOSSES)
        found = f"frame.type {loss!r} reads all tokens, the cached teacher keeps the likeliest"
        wanted = f"expected {learns}; change frame.type"
    elif rate_ratio > 1:
        found = (
            f"one frame faces {rate_ratio} of the cached teacher's, which keep other tokens each"
        )
        wanted = "expected equal rates; change time_reduction"
    else:
        return True
    raise CacheMismatch(
        f"student {student!r}: {found}, {wanted}, or set cache.payload.log_probs to f16 and "
        "run make cache"
    )
