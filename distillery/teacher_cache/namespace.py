"""Which teacher and which payload a set of shards belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillery.errors import CacheError, CacheMismatch
from distillery.teacher_cache.payload import LogProbType

NAMESPACE_FILE = "namespace.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Namespace:
    """Everything that decides what the cache holds for a given recording."""

    teacher: Mapping[str, Any]
    """The teacher's fingerprint: weights, tokens, preprocessing, compute dtype."""
    tokens: tuple[str, ...]
    """The teacher's token table."""
    frame_shift_seconds: float
    """Time from one output frame to the next."""
    log_probs: LogProbType
    """How log-probabilities are stored."""
    schema_version: int = SCHEMA_VERSION
    """Layout of shards and index."""

    @property
    def digest(self) -> str:
        """SHA-256 over all fields; its head names the folder."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the namespace's folder."""
        return self.digest[:16]

    def to_json(self) -> dict[str, Any]:
        """Return what namespace.json holds."""
        return {**asdict(self), "tokens": list(self.tokens), "digest": self.digest}

    @classmethod
    def read(cls, folder: Path) -> Namespace:
        """Read a namespace's description.

        Raises:
            CacheError: it is missing, of another schema, or does not hash to what it says.
        """
        path = folder / NAMESPACE_FILE
        try:
            content = json.loads(path.read_text("utf-8"))
            claimed = content.pop("digest")
            namespace = cls(**{**content, "tokens": tuple(content["tokens"])})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise CacheError(f"{path}: missing or unreadable; run make cache") from None
        if namespace.digest != claimed:
            raise CacheError(f"{path}: its fields do not give the hash it names; run make cache")
        return namespace

    def check_teacher(self, fingerprint: Mapping[str, Any]) -> None:
        """Make sure that the cache was made by this teacher.

        Raises:
            CacheMismatch: a field differs; the message names it.
        """
        for name in sorted({*fingerprint, *self.teacher} - {"fingerprint"}):
            cached, present = self.teacher.get(name), fingerprint.get(name)
            if cached != present:
                raise CacheMismatch(
                    f"teacher cache {self.folder_name}: made by a teacher whose {name} is "
                    f"{_short(cached)}, the present one's is {_short(present)}; run make cache"
                )


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:37]}…"
