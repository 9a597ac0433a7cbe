"""What a teacher is, in hashes: two teachers with one fingerprint give the same outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.errors import ModelError
from distillery.files import Json, write_json

if TYPE_CHECKING:  # reading a fingerprint needs no model code
    from distillery.models.base import Teacher

FINGERPRINT_FILE = "fingerprint.json"


@dataclass(frozen=True)
class Fingerprint:
    """Every field that decides a teacher's outputs, and the hash of them."""

    weights: str
    """SHA-256 over all weights and buffers."""
    tokens: str
    """SHA-256 of the token table that its students share."""
    architecture: Json
    """Of config.json; what it holds is the business of the teacher's kind."""
    preprocessing: Json
    """All else of config.json: what happens to the audio."""
    layers: Mapping[str, int]
    """Hidden layers that it can give, by name: their widths."""
    frame_shift_seconds: float
    """Time from one output frame to the next."""
    gives_frames: bool
    """Whether it says something about its students' tokens frame by frame."""
    fingerprint: str
    """SHA-256 over all other fields."""

    @property
    def digest(self) -> str:
        """What `fingerprint` must be."""
        return digest_of({name: v for name, v in asdict(self).items() if name != "fingerprint"})

    def save(self, folder: Path) -> None:
        """Write fingerprint.json beside a saved teacher."""
        write_json(folder / FINGERPRINT_FILE, asdict(self))


def digest_of(content: Any) -> str:
    """Return the SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(teacher: Teacher) -> Fingerprint:
    """Return what decides a teacher's outputs, in hashes where it is large."""
    config = dict(teacher.config)
    architecture = config.pop("architecture")
    assert isinstance(architecture, dict)
    found = Fingerprint(
        weights=teacher.weights_digest,
        tokens=teacher.vocabulary.digest,
        architecture=architecture,
        preprocessing=config,
        layers=dict(teacher.layer_widths),
        frame_shift_seconds=teacher.frame_shift_seconds,
        gives_frames=teacher.gives_frames,
        fingerprint="",
    )
    return replace(found, fingerprint=found.digest)


def read_fingerprint(folder: Path) -> Fingerprint:
    """Return the fingerprint saved with a teacher.

    Raises:
        ModelError: the file is missing, another Distillery's, or its hash does not fit its fields.
    """
    path = folder / FINGERPRINT_FILE
    try:
        content = dict(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        raise ModelError(f"{path}: missing or unreadable; run make teacher") from None
    wanted = {field.name for field in fields(Fingerprint)}
    if missing := wanted - set(content):
        raise ModelError(
            f"{path}: lacks {sorted(missing)}, an earlier Distillery wrote it; run make teacher"
        )
    if unknown := set(content) - wanted:
        raise ModelError(
            f"{path}: holds {sorted(unknown)}, a later Distillery wrote it; run make teacher"
        )
    saved = Fingerprint(**content)
    if saved.digest != saved.fingerprint:
        raise ModelError(f"{path}: its fields do not give the hash it names; run make teacher")
    return saved
