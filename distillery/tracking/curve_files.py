"""Learning curves as they grow on disk, and the points in them that go to MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Point(NamedTuple):
    """One value of a learning curve."""

    key: str
    """What it is, such as `valid/wer`."""
    value: float
    """Rates are fractions."""
    step: int
    """Training steps until then."""
    timestamp: int
    """Milliseconds since 1970."""


class CurveFile:
    """A growing JSONL file of curve points, read piece by piece.

    Only whole lines count. A stage that goes on after a kill writes its file anew, so what was read
    before is compared: when it no longer stands at the file's start, all is read again.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        """Begin to read a file, which need not be there yet.

        Args:
            path: the file.
            prefix: what the keys of its points are to begin with.
        """
        self.path = path
        self.prefix = prefix
        self._seen = b""

    def read(self) -> tuple[list[Point], bytes]:
        """Return the points not yet taken, and what to hand to `taken` once they are safe."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        content = content[: content.rfind(b"\n") + 1]
        start = len(self._seen) if content.startswith(self._seen) else 0
        return [self._point(line) for line in content[start:].splitlines()], content

    def taken(self, content: bytes) -> None:
        """Remember that everything up to here has arrived."""
        self._seen = content

    def _point(self, line: bytes) -> Point:
        row = json.loads(line)
        return Point(
            self.prefix + row["key"], float(row["value"]), int(row["step"]), int(row["timestamp"])
        )
