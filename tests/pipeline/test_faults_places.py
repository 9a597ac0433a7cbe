"""Workspaces in odd places: blanks in the path, no home, no Git, no remote, from another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment, make_workspace
from tests.pipeline.test_flow import outputs, versions

pytestmark = pytest.mark.slow
NO_HOME = "/proc/nobody"
"""There is none, and none can be made, not even by root."""


@pytest.fixture
def odd_place(tmp_path: Path) -> Path:
    """A workspace in which nothing has run, unpacked from an archive rather than cloned."""
    root = make_workspace(tmp_path / "my speech, it's new" / "work space")
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "prefect.yaml"):
        shutil.copy(ROOT / name, root)
    shutil.rmtree(root / ".git")
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    return root


def make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make from elsewhere as somebody without a home; nothing is installed."""
    homeless = {"HOME": NO_HOME, "XDG_CACHE_HOME": f"{NO_HOME}/cache"}
    command = ["make", "-C", str(root), "-o", ".venv/.installed", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        [*command, *arguments],
        cwd="/",
        env={**environment(root), **homeless},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done


def test_a_path_with_blanks_without_home_git_or_remote_is_as_good_as_any(
    odd_place: Path, finished: Path
) -> None:
    before = set(Path("/").iterdir())
    ran = make(odd_place, "run")
    assert ran.returncode == 0, ran.stdout
    assert "run `dvc push` when the remote is reachable" in ran.stdout
    assert outputs(odd_place) == outputs(finished)
    assert versions(odd_place) == [1]
    registered = json.loads((odd_place / "reports/registered.json").read_text())
    assert registered["alias"] == "champion"
    for target, words in {
        "retrain": "nothing new",
        "doctor": "ok       MLflow",
        "champion": "champion",
        "compare": "conv",
        "cache-stats": "32",
        "cache-verify": "",
        "dvc-verify": " 0 damaged",
        "report": "report",
        "help": "make",
    }.items():
        done = make(odd_place, target)
        assert done.returncode == 0, done.stdout
        assert words in done.stdout, done.stdout
    heard = make(odd_place, "transcribe", "DIR=corpus", "OUT=my texts.jsonl")
    assert heard.returncode == 0, heard.stdout
    assert len((odd_place / "my texts.jsonl").read_text().splitlines()) == 48
    assert set(Path("/").iterdir()) == before
    assert not Path(NO_HOME).exists()
