"""What DVC is asked in this process, on a pipeline of one stage that copies a file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from flows.doctor import DVC_LOCK
from flows.stages.pipeline import run_stage, without_results

STAGE = "stages: {copy: {cmd: cp a b, deps: [a], params: [width], outs: [b]}}\n"


def write(root: Path, text: str, width: int) -> None:
    (root / "a").write_text(text)
    (root / "params.yaml").write_text(f"width: {width}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace in which the stage has run once."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    write(tmp_path, "one", 1)
    assert run_stage(tmp_path, "copy", lambda _: None).outcome == "ran"
    return tmp_path


def test_a_stage_has_results_where_dvc_made_them_from_the_same(
    root: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its last outputs are no results where it reads something else now."""
    caplog.set_level(logging.INFO)
    assert without_results(root, ["copy"]) == []
    write(root, "one", 2)
    assert without_results(root, ["copy"]) == ["copy"]
    write(root, "two", 1)
    assert without_results(root, ["copy"]) == ["copy"]
    write(root, "one", 1)
    (root / "b").unlink()
    assert without_results(root, ["copy"]) == []
    said = [*capfd.readouterr(), *caplog.messages]
    assert not [text for text in said if "cached" in text]  # DVC would say it twice


def test_after_a_kill_dvc_says_nothing_of_its_lock(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dead = {"pid": 2**22 + 1, "cmd": "dvc repro copy"}
    lock = {"write": {str(root / "b"): dead}, "read": {str(root / "a"): [dead]}}
    (root / DVC_LOCK).write_text(json.dumps(lock))
    write(root, "two", 1)
    said: list[str] = []
    assert run_stage(root, "copy", said.append).outcome == "ran"
    assert "killed" not in "".join([*said, *capfd.readouterr()])
    assert str(dead["pid"]) not in (root / DVC_LOCK).read_text()
