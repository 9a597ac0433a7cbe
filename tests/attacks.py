"""What an attacker would put into a file that somebody else reads."""

from __future__ import annotations

import os
from pathlib import Path


class Payload:
    """A pickle that, when it is read, calls a function: it makes a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)
