"""Where a workspace keeps what the cache is made from, and which namespace that makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.errors import CacheError
from distillery.fingerprint import read_fingerprint
from distillery.params import CacheParams
from distillery.teacher_cache.namespace import Namespace
from distillery.text import Vocabulary

AUTO_U8_TOKENS = 256
COMPUTE_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Places:
    """The three folders that a teacher pass needs."""

    data: Path
    teacher: Path
    cache: Path

    @classmethod
    def in_workspace(cls, root: Path) -> Places:
        """Return where a workspace has them."""
        return cls(root / "data/prepared", root / "models/teacher", root / "data/teacher_cache")


def expected_namespace(
    teacher: Path, params: CacheParams, tokens: tuple[str, ...] | None = None
) -> Namespace:
    """Return the namespace that a saved teacher's outputs belong to, its weights not loaded.

    Args:
        teacher: its folder, of which fingerprint.json is needed.
        params: settings of the stage `cache`.
        tokens: a token table to use in place of the one in the folder; the fingerprint holds the
            hash of the right one, so another one shows in `Namespace.check`.

    Raises:
        ModelError: the teacher's files are missing or damaged.
        CacheError: the teacher has no such hidden layer.
    """
    fingerprint = read_fingerprint(teacher)
    tokens = tokens or Vocabulary.load(teacher / "tokens.txt").tokens
    payload = params.payload
    layers = fingerprint["layers"]
    if unknown := [name for name in payload.hidden_layers if name not in layers]:
        raise CacheError(
            f"cache.payload.hidden_layers: the teacher has no layer {unknown[0]!r}, expected "
            f"some of {sorted(layers)}"
        )
    return Namespace(
        teacher=fingerprint,
        tokens=tokens,
        frame_shift_seconds=fingerprint["frame_shift_seconds"],
        payload=payload_settings(params, len(tokens), gives_frames=fingerprint["gives_frames"]),
        compute_dtype=COMPUTE_DTYPES[params.precision],
        hidden={name: layers[name] for name in payload.hidden_layers},
        num_hypotheses=payload.num_hypotheses,
        beam_size=payload.beam_size if payload.num_hypotheses > 1 else None,
    )


def payload_settings(
    params: CacheParams, num_tokens: int, *, gives_frames: bool = True
) -> dict[str, Any]:
    """Return the layout's kind and what that kind needs, no more: the rest changes nothing.

    Args:
        params: settings of the stage `cache`.
        num_tokens: size of the vocabulary.
        gives_frames: whether the teacher has distributions to keep.
    """
    kind = params.payload.log_probs if gives_frames else "none"
    if kind == "auto":
        kind = "u8" if num_tokens <= AUTO_U8_TOKENS else "sparse"
    if kind != "sparse":
        return {"kind": kind}
    sparse = params.payload.sparse
    others = sorted({t for t in sparse.temperatures if t != 1.0})
    return {"kind": kind, **sparse.model_dump(), "temperatures": others}
