"""README.md and docs/: all links, anchors, paths, modules, tests and make targets exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.faults import named_tests, parts_by_file

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CODE = ("distillery", "tasks", "flows", "tests", "benchmarks", "examples")
SETTINGS = ("params.yaml", "dvc.yaml", "prefect.yaml", "pyproject.toml", "Makefile")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEW_FILE = re.compile(r"^```\w+ (\S+)", re.MULTILINE)
"""A fence whose first line names a file: docs/extending.md has the newcomer write it."""
README_LINES = 200
RUN_BY = {
    "README.md": "tests/pipeline/test_readme.py",
    "docs/coffee.md": "tests/unit/corpora/test_coffee_page.py",
    "docs/serving.md": "tests/pipeline/test_readme.py",
    "docs/retraining.md": "tests/pipeline/test_retraining.py",
    "docs/teacher-cache.md": "tests/unit/teacher_cache/test_format.py",
    "docs/extending.md": "tests/pipeline/test_extending.py",
}
"""Which test runs the shell and Python blocks of a page."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(anchor if anchor not in found else f"{anchor}-1")
    return found


def exists(path: str) -> bool:
    """Return whether a path of the repository exists; it may hold wildcards."""
    return any(ROOT.glob(path)) if path.strip("/") else False


def new_files() -> set[str]:
    """Return the files that docs/extending.md has a newcomer write."""
    page = ROOT / "docs/extending.md"
    return set(NEW_FILE.findall(page.read_text("utf-8"))) if page.exists() else set()


@pages
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: links {link}"
        assert not anchor or anchor in anchors(target), f"{page}: links {link}"


@pages
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    written = new_files()
    text = page.read_text("utf-8")
    for path in re.findall(rf"(?<![\w./-])((?:{'|'.join(CODE)}|docs)/[\w./*-]+)", text):
        path = path.rstrip(".")
        assert exists(path) or path in written, f"{page}: names {path}"


@pages
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    written = new_files()
    for name in re.findall(r"(?<![\w./-])((?:distillery|tasks|flows)(?:\.\w+)+)", page.read_text()):
        parts = name.split(".")
        known = [ROOT.joinpath(*parts[:n]).with_suffix(".py") for n in range(2, len(parts) + 1)]
        known = [path for path in known if path.exists()]
        folder = ROOT.joinpath(*parts)
        rest = parts[len(known[0].relative_to(ROOT).parts) :] if known else []
        defined = not rest or rest[0] in known[0].read_text("utf-8")
        new = any(path.removesuffix(".py").replace("/", ".") in name for path in written)
        assert (known and defined) or folder.is_dir() or new, f"{page}: names {name}"


def test_every_page_that_code_or_settings_name_exists() -> None:
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / name for name in SETTINGS] + sorted((ROOT / "examples").glob("*.yaml"))
    named: set[tuple[str, str]] = set()
    for file in files:
        for name, anchor in re.findall(r"(docs/[\w/.-]+\.md)(?:#([\w-]+))?", file.read_text()):
            assert (ROOT / name).exists(), f"{file}: names {name}"
            assert not anchor or anchor in anchors(ROOT / name), f"{file}: names {name}#{anchor}"
            named.add((str(file), name))
    assert named


def test_every_page_stands_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([\w/.-]+)\)", index))
    own = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert own <= linked
    assert len(index.splitlines()) <= len(own) + 20  # a line each


def test_every_word_of_the_glossary_is_used_elsewhere() -> None:
    glossary = ROOT / "docs/glossary.md"
    words = re.findall(r"^\| ([^|]+) \| ", glossary.read_text("utf-8"), re.MULTILINE)
    words = [word for row in words if row != "word" for word in re.split(r", | \(", row)]
    others = " ".join(page.read_text("utf-8") for page in PAGES if page != glossary).lower()
    unused = [word for word in words if word.rstrip(")").lower() not in others]
    assert words
    assert not unused


def test_the_readme_fits() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= README_LINES


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text("utf-8")
        code = [body for language, body in FENCE.findall(text) if language in ("", "bash", "sh")]
        code += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        code += re.findall(r"^ {4}(.+)$", FENCE.sub("", text), re.MULTILINE)
        named = {name for part in code for name in re.findall(r"(?:^|\s)make ([a-z-]+)", part)}
        assert named <= targets, f"{page}: {named - targets}"


def test_every_module_that_the_makefile_runs_exists() -> None:
    for name in re.findall(r"-m (\w+(?:\.\w+)+)", (ROOT / "Makefile").read_text("utf-8")):
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_every_block_of_code_is_run_by_a_test() -> None:
    with_code = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(
            language in ("bash", "sh", "python") for language, _ in FENCE.findall(page.read_text())
        )
    }
    assert with_code == set(RUN_BY) & with_code
    for page in with_code:
        assert (ROOT / RUN_BY[page]).exists(), page


@pytest.mark.parametrize("name", ["faults.md", "security.md"])
def test_every_test_that_a_page_names_exists(name: str) -> None:
    found = list(named_tests(ROOT / "docs" / name))
    assert found
    for file, parts in found:
        paths = list((ROOT / "tests").glob(f"**/{file}.py"))
        assert paths, f"{name}: names {file}"
        trees = [ast.parse(path.read_text("utf-8")) for path in paths]
        tests = [
            node.name
            for tree in trees
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        ]
        for part in parts:
            assert any(part in test for test in tests), f"{name}: {file} has no test …{part}…"


def test_the_command_for_faults_runs_all_that_the_page_names() -> None:
    found = parts_by_file()
    names = {path.name for path in found}
    named = {f"{name.split('/')[-1]}.py" for name, _ in named_tests(ROOT / "docs/faults.md")}
    assert named <= names
    assert {path.name for path in (ROOT / "tests/pipeline").glob("test_faults_*.py")} <= names
    assert "-p tests.faults" in (ROOT / "Makefile").read_text("utf-8")
