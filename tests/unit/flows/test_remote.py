"""make remote: what stands in .dvc/config afterwards."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from distillery.errors import StageError
from flows import remote


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return root


def section(root: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read_string((root / ".dvc/config").read_text().replace("\n    ", "\n"))
    assert parser["core"]["remote"] == remote.NAME
    return dict(parser[f"'remote \"{remote.NAME}\"'"])


def test_a_folder_is_set_for_all_clones_and_what_comes_from_it_is_hashed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root.parent / "store").mkdir()
    assert remote.main(["../store"]) == 0
    assert section(root) == {
        "url": str(root.parent / "store"),
        "verify": "true",
        "shared": "group",
    }
    assert "can be reached" in capsys.readouterr().out


def test_an_address_takes_the_place_of_the_one_before_and_a_fault_is_said(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.set_remote(root, str(root.parent))
    assert remote.main(["webhdfs://host/speech"]) == 1  # of a kind that no extra brings
    assert section(root) == {"url": "webhdfs://host/speech", "verify": "true"}
    said = capsys.readouterr().out
    assert "the Python module dvc_webhdfs is not installed; " in said
    assert "uv pip install dvc-webhdfs brings it" in said


def test_an_address_with_a_password_is_refused_and_not_repeated(root: Path) -> None:
    before = (root / ".dvc/config").read_text()
    with pytest.raises(StageError, match=r"holds credentials.*--local") as error:
        remote.set_remote(root, "ssh://me:secret@host/speech")
    assert "secret" not in str(error.value)
    assert (root / ".dvc/config").read_text() == before
