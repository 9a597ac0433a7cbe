"""Whether a worker has what a pass was planned with, before it hears anything."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distillery.data.manifest import SUMMARY_FILE
from distillery.errors import CacheError
from distillery.models.fingerprint import FINGERPRINT_FILE
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.reach import check_here, look, planned_with
from distillery.teacher_cache.filling.turns import begin_pass
from tests.tiny_workspaces import put_teacher


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared audio and a teacher."""
    return put_teacher(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def places(root: Path, tmp_path: Path) -> Places:
    """A copy of it for a test to change, with an empty cache."""
    original = Places.in_workspace(root)
    for name in ("data", "teacher"):
        shutil.copytree(getattr(original, name), tmp_path / name)
    (tmp_path / "cache").mkdir()
    return Places(tmp_path / "data", tmp_path / "teacher", tmp_path / "cache")


def test_a_worker_in_the_same_folders_lacks_nothing_and_writes_there(places: Places) -> None:
    of_pass = begin_pass(places.cache, planned_with(places))
    seen = look(places, places.cache, of_pass)
    assert (seen.host, seen.fault) == (socket.gethostname(), None)
    assert (places.cache / seen.written).exists()
    check_here(places, places.cache, of_pass)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda p: (p.data / SUMMARY_FILE).unlink(), "summary.json cannot be read"),
        (lambda p: (p.data / SUMMARY_FILE).write_text("{}"), "summary.json is another than where"),
        (lambda p: (p.teacher / FINGERPRINT_FILE).write_text("{}"), "fingerprint.json is another"),
        (lambda p: shutil.rmtree(p.cache), "cache is not there, or not the one of this pass"),
    ],
)
def test_a_worker_says_which_host_lacks_what(
    places: Places, change: Callable[[Places], object], wanted: str
) -> None:
    of_pass = begin_pass(places.cache, planned_with(places))
    change(places)
    seen = look(places, places.cache, of_pass)
    assert wanted in str(seen.fault)
    assert not (places.cache / seen.written).exists()
    with pytest.raises(CacheError) as caught:
        check_here(places, places.cache, of_pass)
    said = str(caught.value)
    assert said.startswith(f"host {socket.gethostname()}: {seen.fault}")
    assert "need the same folders under the same paths" in said and "run make cache" in said


def test_a_disk_of_its_own_under_the_same_path_is_not_the_passes(
    places: Places, tmp_path: Path
) -> None:
    of_pass = begin_pass(places.cache, planned_with(places))
    there = tmp_path / "of another host"
    there.mkdir()
    assert "not the one of this pass" in str(look(replace(places, cache=there), there, of_pass))
