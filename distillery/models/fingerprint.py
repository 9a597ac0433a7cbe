"""What a teacher is, in hashes: two teachers with one fingerprint give the same outputs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.errors import ModelError

if TYPE_CHECKING:  # reading a fingerprint needs no model code
    from distillery.models.base import Teacher

FINGERPRINT_FILE = "fingerprint.json"


def digest_of(content: Any) -> str:
    """Return the SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(teacher: Teacher) -> dict[str, Any]:
    """Return every field that decides a teacher's outputs, and `fingerprint`, the hash of them."""
    config = dict(teacher.config)
    fields = {
        "weights": teacher.weights_digest,
        "tokens": teacher.vocabulary.digest,
        "architecture": config.pop("architecture"),
        "preprocessing": config,
        "layers": dict(teacher.layer_widths),
        "frame_shift_seconds": teacher.frame_shift_seconds,
        "gives_frames": teacher.gives_frames,
    }
    return {**fields, "fingerprint": digest_of(fields)}


def read_fingerprint(folder: Path) -> dict[str, Any]:
    """Return the fingerprint saved with a teacher.

    Raises:
        ModelError: the file is missing, or its hash does not fit its fields.
    """
    path = folder / FINGERPRINT_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        claimed = content["fingerprint"]
    except (FileNotFoundError, ValueError, KeyError):
        raise ModelError(f"{path}: missing or unreadable; run make teacher") from None
    fields = {name: value for name, value in content.items() if name != "fingerprint"}
    if missing := {"layers", "frame_shift_seconds", "gives_frames"} - set(fields):
        raise ModelError(
            f"{path}: lacks {sorted(missing)}, an earlier Distillery wrote it; run make teacher"
        )
    if digest_of(fields) != claimed:
        raise ModelError(f"{path}: its fields do not give the hash it names; run make teacher")
    return content
