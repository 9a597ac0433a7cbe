"""What a package carries of the library: only what it needs, and as it stands here."""

import ast
import re
import sys

import pytest

from distillery.errors import ModelError
from distillery.serve.pruned import ALLOWED, REPLACED, SOURCES, pruned

FILES = pruned("distillery.serve.packaged", "PackagedRecogniser", "runtime")


def test_it_needs_nothing_but_numpy_and_onnx_runtime() -> None:
    for text in FILES.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [] if node.level else [str(node.module)]
            else:
                continue
            for name in names:
                assert name.split(".")[0] in {*ALLOWED, *sys.stdlib_module_names}, name


def test_every_definition_stands_so_in_the_library() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    for before, after in REPLACED.items():
        sources = sources.replace(before, after)
    for name, text in FILES.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                segment = ast.get_source_segment(text, node)
                assert segment is not None and segment in sources, f"{name}: {node.name}"


def test_what_is_not_needed_stays_behind() -> None:
    assert "parse_hot_words" not in FILES["texts.py"]  # it needs pydantic
    assert "soundfile" not in FILES["audio.py"]
    assert not any(re.search(r"\bdistillery\.\w+ import", text) for text in FILES.values())


def test_what_cannot_run_without_another_package_is_refused() -> None:
    with pytest.raises(ModelError, match="needs pydantic, expected"):
        pruned("distillery.files", "read_json", "runtime")
