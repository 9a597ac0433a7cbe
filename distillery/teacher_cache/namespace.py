"""Which teacher and which payload a set of shards belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distillery.errors import CacheError, CacheMismatch
from distillery.files import Json
from distillery.teacher_cache.payload import PayloadSettings

NAMESPACE_FILE = "namespace.json"
SCHEMA_VERSION = 2
DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class Namespace:
    """Everything that decides what the cache holds for a given recording."""

    teacher: Json
    """Of the Distillery that made it: the teacher's fingerprint, and what decodes its texts."""
    tokens: tuple[str, ...]
    """The teacher's token table."""
    frame_shift_seconds: float
    """Time from one output frame to the next."""
    payload: PayloadSettings
    """How log-probabilities are stored."""
    blank: int = 0
    """Index of the CTC blank."""
    compute_dtype: str = "float32"
    """Arithmetic of the teacher's forward pass."""
    hidden: Mapping[str, int] = field(default_factory=dict)
    """Hidden layers stored, by name: their widths."""
    num_hypotheses: int = 1
    """Hypotheses asked of each decoding."""
    beam_size: int | None = None
    """Beams of the decoding; null for the best path alone."""
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
        return self.digest[:DIGEST_CHARACTERS]

    def to_json(self) -> Json:
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
            if (version := content["schema_version"]) != SCHEMA_VERSION:
                raise CacheError(
                    f"{path}: schema {version}, this Distillery reads {SCHEMA_VERSION}; "
                    "run make cache to fill a new namespace"
                )
            namespace = cls(**{**content, "tokens": tuple(content["tokens"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise CacheError(f"{path}: missing or unreadable; run make cache") from None
        if namespace.digest != claimed:
            raise CacheError(f"{path}: its fields do not give the hash it names; run make cache")
        return namespace

    def check(self, expected: Namespace) -> None:
        """Make sure that the cache is what the present teacher and settings ask for.

        Raises:
            CacheMismatch: a field differs; the message names it.
        """
        mine, theirs = (dict(flatten(asdict(item))) for item in (self, expected))
        differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if not differing:
            return
        # A fingerprint's own hash differs whenever any field of it does, and explains nothing.
        telling = [name for name in differing if name != "teacher.fingerprint"] or differing
        name, more = telling[0], len(telling) - 1
        others = f" (and {more} more: {', '.join(telling[1:4])})" if more else ""
        raise CacheMismatch(
            f"teacher cache {self.folder_name}: was made with {name} = {_short(mine.get(name))}, "
            f"the present teacher and settings have {_short(theirs.get(name))}{others}; "
            "run make cache"
        )


def flatten(values: Json, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield nested settings under dotted names, lists as tuples."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list) else value


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:37]}…"
