"""What costs seconds and is the same for every test: made once in a run of pytest.

`make test` runs several workers, each a process with session fixtures of its own. What the first
one makes lies in a folder of the whole run, where the others find it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[[Path], object]
_folder: Path | None = None


def use(factory: pytest.TempPathFactory) -> None:
    """Share what is made among the workers of this run, and with no other run."""
    global _folder
    own = factory.getbasetemp()
    _folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(name: str, make: Make) -> Path:
    """Return the folder `name` of this run, filled by the first worker that asks for it.

    Args:
        name: of the folder.
        make: fills it; it exists already, and is empty. If it fails, the next one tries again.
    """
    assert _folder is not None, "the fixture `shared_folder` of tests/conftest.py was not set up"
    folder, done = _folder / name, _folder / f"{name}.done"
    with open(_folder / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
