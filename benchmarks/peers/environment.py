"""An environment of the peers' own, made with uv from the pins beside this file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def make(folder: Path) -> Path:
    """Make the environment under `folder`, if it is not there yet; return its interpreter.

    Its name is the digest of the pins, so other pins are another environment. Packages are
    installed without their dependencies, for the pins are all of them: torchdistill 1.1.5 asks for
    PyTorch 2.12, and runs on the version that Distillery has.
    """
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    environment = folder / f"peers-{digest}"
    python, done = environment / "bin/python", environment / "complete"
    if not done.exists():
        uv = [sys.executable, "-m", "uv"]
        options = ["--python", str(python), "--no-deps", "-r", str(REQUIREMENTS)]
        subprocess.run([*uv, "venv", "--clear", "-p", sys.executable, str(environment)], check=True)
        subprocess.run([*uv, "pip", "install", *options], check=True)
        done.touch()
    return python
