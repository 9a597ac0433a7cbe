"""What holds for the settings of all sections, wherever they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillery.params import stages, whole
from distillery.params.base import Section

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "distillery/params"
FILES = sorted(FOLDER.glob("*.py"))


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    """Yield all sections, those below others and those that inherit included."""
    for section in base.__subclasses__():
        if section.__module__.startswith("distillery."):
            yield section
            yield from sections(section)


def test_all_sections_are_known_here() -> None:
    """A file that nothing imports would be a section that nobody can set."""
    loaded = {whole.__name__, stages.__name__, *(section.__module__ for section in sections())}
    holding = {path.stem for path in FILES if "(Section):" in path.read_text()}
    assert {f"distillery.params.{name}" for name in holding} <= loaded


def test_every_field_is_read_by_some_code() -> None:
    read = {
        name
        for folder in ("distillery", "tasks", "flows")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\.(\w+)", path.read_text())
    }
    fields = {(section.__name__, name) for section in sections() for name in section.model_fields}
    assert len(fields) > 200
    assert not [f"{section}.{name}" for section, name in fields if name not in read]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_has_a_sentence(path: Path) -> None:
    bare = []
    for node in [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)]:
        if "Sections" in [ast.unparse(base) for base in node.bases]:
            continue  # their fields are sections, which say themselves what they are
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            is_sentence = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and not is_sentence:
                name = ast.unparse(field.target)
                if name != "type":
                    bare.append(f"{node.name}.{name}")
    assert not bare
