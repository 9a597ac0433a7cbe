"""Disks that are full, each a small one of its own under a folder that a stage writes to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import copy_of, run_module
from tests.pipeline.test_flow import outputs, versions
from tests.pipeline.test_retraining import settings
from tests.tiny import tiny_params, write_params

pytestmark = pytest.mark.slow

Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Put a disk of so many bytes in place of a folder, with what the folder holds."""
    mounted: list[Path] = []

    def put(folder: Path, size: str) -> None:
        aside = folder.with_name(f"{folder.name}.aside")
        if folder.exists():
            folder.rename(aside)
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        mounted.append(folder)
        if aside.exists():
            shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)

    yield put
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that a disk has left."""
    ballast = folder / "ballast.tmp"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    return ballast


@pytest.mark.parametrize(
    ("stage", "folder", "named"),
    [
        ("cache", "data/teacher_cache", "No space left on device"),
        ("distill", "scratch", "No space left on device"),
        ("distill", ".dvc/cache", "No space left on device"),
    ],
)
def test_a_full_disk_fails_the_stage_by_name_and_costs_nothing(
    untouched: Path, tmp_path: Path, mount: Mount, stage: str, folder: str, named: str
) -> None:
    full, roomy = (copy_of(untouched, tmp_path / name) for name in ("full", "roomy"))
    changed = tiny_params()
    if stage == "cache":
        changed["cache"]["payload"] = {"log_probs": "f16"}
    else:
        changed["distill"]["training"]["learning_rate"] = 4e-3
    for root in (full, roomy):
        write_params(root, changed)
    mount(full / folder, "64m")
    ballast = fill(full / folder)
    before = (full / "dvc.lock").read_bytes()
    failed = run_module(full, "flows.run", "--only", stage, check=False)
    assert failed.returncode == 1, failed.stdout
    assert named in failed.stdout
    assert "Traceback" not in failed.stdout
    ballast.unlink()
    if folder != ".dvc/cache":
        assert (full / "dvc.lock").read_bytes() == before
    run_module(full, "flows.run", "--only", stage)
    run_module(roomy, "flows.run", "--only", stage)
    assert outputs(full) == outputs(roomy)
    assert run_module(full, "dvc", "status", stage).stdout.count("changed") == 0


def test_a_full_disk_under_the_registry_fails_registering_and_the_next_run_makes_up_for_it(
    copy: Path, mount: Mount
) -> None:
    settings(copy)
    mount(copy / "mlartifacts", "64m")
    ballast = fill(copy / "mlartifacts")
    failed = run_module(copy, "flows.run", "--only", "register", check=False)
    assert failed.returncode == 1, failed.stdout
    assert "No space left on device" in failed.stdout
    assert "make register" in failed.stdout
    assert "Traceback" not in failed.stdout
    ballast.unlink()
    run_module(copy, "flows.run", "--only", "register")
    assert versions(copy)[-1:] == [len(versions(copy))]
    run_module(copy, "distillery.commands.main", "transcribe", "corpus/s00-0.wav")
