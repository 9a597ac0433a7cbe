"""What a clone brings from DVC's remote, on a pipeline of two stages that copy files."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from distillery.errors import StageError
from flows.stages.pipeline import changed_targets
from flows.stages.process import quiet_dvc
from flows.stages.storage import lacking, pull_lacking, push, save_corpus
from tests.unit.flows.stages.conftest import NAMES, URL, git, run

ROOT = Path(__file__).resolve().parents[4]
DEAD = "http://127.0.0.1:9/speech"
"""Nothing listens there."""


def pull(root: Path) -> tuple[list[str], list[str]]:
    """Return what came, and what was said."""
    said: list[str] = []
    return pull_lacking(root, [*changed_targets(root, NAMES)], said.append), said


def configure(root: Path, old: str, new: str) -> None:
    config = root / ".dvc/config"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def test_a_clone_has_what_the_remote_has_and_then_what_another_clone_made_since(
    team: Path, mate: Path
) -> None:
    came, said = pull(mate)
    assert came == ["b", "folder"]
    assert said == [f"from DVC's cache or its remote shared ({team.parent / 'store'}): b, folder"]
    assert changed_targets(mate, NAMES) == {}
    assert pull(mate) == ([], [])
    assert git(mate, "status", "--porcelain") == ""
    run(team, "two")
    git(mate, "pull", "-q")
    assert pull(mate)[0] == ["b", "folder"]
    assert (mate / "b").read_text() == (mate / "folder/c").read_text() == "two"
    assert changed_targets(mate, NAMES) == {}


def test_without_a_remote_nothing_is_brought_and_nothing_said(mate: Path) -> None:
    configure(mate, "remote = shared", "")
    assert pull(mate) == ([], [])
    assert not (mate / "b").exists()


def test_unfinished_work_is_not_lacking_and_what_dvc_saved_before_is(team: Path) -> None:
    assert lacking(team, NAMES) == []
    first = (team / "dvc.lock").read_text()
    run(team, "two")
    (team / "dvc.lock").write_text(first)  # as a `git pull` would bring another one
    assert lacking(team, NAMES) == ["b", "folder"]
    (team / "folder/half").write_text("of a stage that was killed")
    (team / "b").write_text("of a stage that was killed")
    assert lacking(team, NAMES) == []


def test_what_the_remote_lacks_is_said_and_the_rest_comes(team: Path, mate: Path) -> None:
    (listed,) = (team.parent / "store").rglob("*.dir")
    listed.unlink()
    came, said = pull(mate)
    assert came == ["b"]
    assert said[1].endswith("so made anew: folder")
    assert len(said) == 2


def test_a_folder_that_is_gone_is_an_error_that_says_what_to_do(mate: Path) -> None:
    shutil.rmtree(mate.parent / "store")
    words = "shared .*there is no such folder; what is not here is made anew; make doctor"
    with pytest.raises(StageError, match=words):
        pull(mate)
    with pytest.raises(StageError, match="push to shared .*no such folder; run `dvc push` when"):
        push(mate, print)
    assert not (mate.parent / "store").exists()  # DVC would have made it


def test_a_library_that_is_missing_is_an_error_that_names_it(mate: Path) -> None:
    configure(mate, URL, "url = webhdfs://nobody/nothing")
    with pytest.raises(
        StageError, match=r"webhdfs://nobody/nothing\): .*install dvc-webhdfs brings"
    ):
        pull(mate)


def test_a_server_that_is_dead_brings_nothing_and_is_named(mate: Path) -> None:
    configure(mate, URL, f"url = {DEAD}")
    came, said = pull(mate)
    assert came == []
    assert said[1] == f"not at DVC's remote shared ({DEAD}), so made anew: b, folder"


def test_a_corpus_that_dvc_keeps_is_in_git_by_its_name_alone_and_kept_as_it_grows(
    team: Path,
) -> None:
    from dvc.repo import Repo

    shutil.copy(ROOT / ".gitignore", team)
    corpus, said = team / "data/raw/mine", list[str]()
    corpus.mkdir(parents=True)
    (corpus / "first.wav").write_text("one")
    save_corpus(team, "data/raw/mine", said.append)
    assert said == []  # nobody asked DVC to keep it
    with quiet_dvc(), contextlib.chdir(team), Repo(".") as repo:
        repo.add("data/raw/mine")
    seen = git(team, "status", "--porcelain", "--untracked-files=all", "data")
    assert seen == "?? data/raw/mine.dvc\n"
    before = (team / "data/raw/mine.dvc").read_text()
    (corpus / "second.wav").write_text("two")
    save_corpus(team, "data/raw/mine/", said.append)
    assert said == [
        "data/raw/mine/: kept by DVC as it is now; mine.dvc says so, and belongs into Git"
    ]
    assert "nfiles: 1" in before
    assert "nfiles: 2" in (team / "data/raw/mine.dvc").read_text()
