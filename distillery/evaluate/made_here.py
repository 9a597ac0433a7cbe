"""Which evaluation a workspace made itself, and so has to register.

One that came with `dvc pull` was made in another clone, and is that one's to register.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.data.workspace import EVALUATION
from distillery.files import digest_of_tree, read_json, write_json

MADE_HERE_FILE = "reports/made_here.json"


@dataclass(frozen=True)
class MadeHere:
    """What reports/made_here.json holds."""

    evaluation_sha256: str
    """Of the last evaluation that this workspace made."""


def note_made_here(root: Path) -> None:
    """Write down that a workspace has made the evaluation that it holds."""
    write_json(root / MADE_HERE_FILE, asdict(MadeHere(digest_of_tree(root / EVALUATION))))


def is_made_here(root: Path) -> bool:
    """Return whether a workspace has made the evaluation that it holds."""
    try:
        noted = read_json(root / MADE_HERE_FILE, MadeHere)
    except (OSError, ValueError):
        return False
    return noted.evaluation_sha256 == digest_of_tree(root / EVALUATION)
