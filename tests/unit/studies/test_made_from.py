"""Notes of what parts of a study were made from: when one is made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.studies.made_from import Note, inputs_of, kept, read_note


class Counted(Note):
    """A note that says how often its part was made."""

    number: int


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose stage lists code as file and folder, data as file and folder."""
    for name in ("code.py", "library/a.py", "library/notes.txt", "data/b.bin", "models/code.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    stage = {"params": ["section"], "deps": ["code.py", "library", "data", "models/code.json"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage": stage}}))
    (tmp_path / "params.yaml").write_text("section: {a: 1}\nother: 2\n")
    return tmp_path


def test_a_part_is_made_again_only_where_its_digest_changed(tmp_path: Path) -> None:
    made: list[str] = []

    def note(digest: str) -> Counted:
        def make() -> Counted:
            made.append(digest)
            return Counted(digest=digest, number=len(made))

        return kept(tmp_path / "folder/note.json", digest, make, Counted)

    assert [note(digest).number for digest in ("one", "one", "two", "two", "one")] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert made == ["one", "two", "one"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"digest": "one"}'])
def test_a_note_that_is_missing_or_damaged_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "note.json"
    if content is not None:
        path.write_text(content)
    assert read_note(Counted, path) is None


def test_code_counts_by_content_in_folders_too_and_data_in_folders_not_at_all(
    workspace: Path,
) -> None:
    before = inputs_of(workspace, "stage")
    assert set(before) == {"params.yaml: section", "code.py", "library/a.py", "models/code.json"}
    for path in workspace.rglob("*"):
        path.touch()
    (workspace / "data/b.bin").write_text("other")
    (workspace / "library/notes.txt").write_text("other")
    assert inputs_of(workspace, "stage") == before
    for name in ("code.py", "library/a.py", "models/code.json"):
        (workspace / name).write_text("other")
        assert inputs_of(workspace, "stage")[name] != before[name]
    (workspace / "params.yaml").write_text("section: {a: 2}\nother: 2\n")
    assert inputs_of(workspace, "stage")["params.yaml: section"] == {"a": 2}
