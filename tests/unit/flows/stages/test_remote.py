"""The remotes of DVC's configuration, and whether they can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.stages.remote import Remote, default_remote, fault_of, read_remotes

CONFIG = """
[core]
    remote = near
['remote "near"']
    url = ../store
    verify = true
['remote "far"']
    url = https://me:secret@example.org/speech
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(CONFIG)
    return tmp_path


def test_remotes_say_which_is_the_default_which_is_hashed_and_no_password(root: Path) -> None:
    near = Remote("near", str(root / "store"), is_default=True, is_verified=True)
    far = Remote("far", "https://example.org/speech", is_default=False, is_verified=False)
    assert read_remotes(root) == [near, far]
    assert default_remote(root) == near
    assert near.is_inside(root)
    assert not far.is_inside(root)


def test_there_may_be_no_remote(root: Path) -> None:
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert read_remotes(root) == []
    assert default_remote(root) is None


def test_a_folder_that_is_missing_is_a_fault(root: Path) -> None:
    near = read_remotes(root)[0]
    assert fault_of(root, near) == "there is no such folder"
    (root / "store").mkdir()
    assert fault_of(root, near) is None
