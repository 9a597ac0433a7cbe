"""The plan of the house: what lies where, how large it may be, and who may know whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from flows.stages.pipeline import STAGES

ROOT = Path(__file__).resolve().parents[2]
CODE = ("distillery", "tasks", "flows")
SCRIPTS = ("benchmarks", "examples")
MAX_FLAT_FILES = 6
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_OPEN_MAPPINGS = 40
OPEN_MAPPING = re.compile(r"\b(?:dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")
FOLDERS_OF_STAGES = {
    "prepare": "prepare",
    "fetch": "tracking",
    "teacher": "teachers",
    "cache": "teacher_cache",
    "distill": "distill",
    "evaluate": "evaluate",
    "register": "register",
}
FOLDERS_WITH_ENTRIES = ("corpora", "losses", "architectures", "augmentations")
"""One entry a file; teachers, too."""
NAMES_OF_OTHERS = {"dvc", "prefect", "mlflow", "tasks", "distillery"}
MIRRORS_NOTHING = {
    "augmentations/test_benchmark.py": "benchmarks/augmentation.py",
    "augmentations/test_copies.py": "data/copies.py, and what follows from it",
    "augmentations/test_time_warp.py": "a setting that is refused",
    "losses/test_sparse_kl.py": "kl.py on sparse targets",
    "studies/test_curve.py": "tasks/studies/curve.py",
    "studies/test_made_from.py": "tasks/studies/made_from.py",
    "studies/test_teachers.py": "tasks/studies/teachers.py",
    "teacher_cache/test_crash.py": "writers of shards.py and store.py that are killed",
    "teacher_cache/test_faults.py": "damage to what all modules here write",
    "teacher_cache/test_format.py": "the page docs/teacher-cache.md",
    "teachers/test_kept_teacher.py": "tasks/teacher.py, when a teacher is kept",
    "teachers/test_text_teacher.py": "all stages, with a teacher that gives texts alone",
    "test_benchmarks.py": "benchmarks/",
    "test_benchmarks_pocketsphinx.py": "benchmarks/",
    "test_benchmarks_training.py": "benchmarks/",
    "test_benchmarks_spelling.py": "benchmarks/",
    "test_docs.py": "README.md and docs/",
    "test_layout.py": "all of it",
    "corpora/test_coffee_page.py": "docs/coffee.md",
    "test_quality_study.py": "benchmarks/quality/",
}


def files(*folders: str) -> list[Path]:
    """Return the Python files in folders and below."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a path as messages show it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


# --- where things lie -----------------------------------------------------------------------------


def test_few_files_of_the_library_lie_flat() -> None:
    flat = [path.name for path in (ROOT / "distillery").glob("*.py")]
    assert len(flat) <= MAX_FLAT_FILES, flat


def test_stages_and_what_there_are_several_of_are_folders() -> None:
    assert FOLDERS_OF_STAGES.keys() == {*STAGES, "register"}
    for folder in (*FOLDERS_OF_STAGES.values(), *FOLDERS_WITH_ENTRIES):
        assert (ROOT / "distillery" / folder).is_dir(), folder


def test_no_folder_of_the_flows_hides_a_package() -> None:
    """Prefect puts flows/ first on the path."""
    names = {path.stem for path in (ROOT / "flows").iterdir()}
    assert not names & NAMES_OF_OTHERS


def test_each_unit_test_stands_where_its_module_does() -> None:
    unit = ROOT / "tests/unit"
    strangers = set()
    for path in unit.rglob("test_*.py"):
        inside = path.relative_to(unit)
        module = inside.with_name(inside.name.removeprefix("test_"))
        if not any((ROOT / base / module).is_file() for base in ("distillery", "")):
            strangers.add(inside.as_posix())
    assert strangers == MIRRORS_NOTHING.keys()


# --- README.md's tree -----------------------------------------------------------------------------


def entries_of_the_readme() -> list[str]:
    """Return the paths of the README's tree; folders below one are indented by two spaces."""
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if re.search(r"^distillery/ ", block, re.MULTILINE)]
    found: list[str] = []
    above: list[tuple[int, str]] = []
    for line in block.splitlines():
        entry = re.match(r"( *)(\S+?)(?: {2,}\S.*| \S.*)?$", line)
        if entry is None:
            assert not line.strip(), line
            continue
        indent, name = len(entry[1]), entry[2]
        while above and above[-1][0] >= indent:
            above.pop()
        assert not indent or above, f"{line}: is indented below nothing"
        path = (above[-1][1] if above else "") + name
        found.append(path)
        if name.endswith("/"):
            above.append((indent, path))
    return found


def test_the_readmes_tree_is_the_one_on_the_disk() -> None:
    found = entries_of_the_readme()
    assert len(found) == len(set(found))
    for path in found:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    folders = {
        f"{name_of(path)}/"
        for code in CODE
        for path in [ROOT / code, *(ROOT / code).rglob("*")]
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert folders <= set(found), folders - set(found)


# --- sizes ----------------------------------------------------------------------------------------


def test_files_are_short() -> None:
    lines = {name_of(path): path.read_text("utf-8").count("\n") for path in files(*CODE, *SCRIPTS)}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in files(*CODE, *SCRIPTS):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{name_of(path)}: {node.name}"] = lines
    assert long == {}


def test_what_travels_has_a_type() -> None:
    counts = {
        name_of(path): len(OPEN_MAPPING.findall(path.read_text("utf-8"))) for path in files(*CODE)
    }
    found = {name: count for name, count in counts.items() if count}
    assert sum(found.values()) <= MAX_OPEN_MAPPINGS, found


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for path in files(*CODE, *SCRIPTS):
        said = ast.get_docstring(tree_of(path))
        if tree_of(path).body and (not said or said.startswith("TODO")):
            silent.append(name_of(path))
    assert silent == []


# --- who knows whom -------------------------------------------------------------------------------


@cache
def modules() -> dict[str, Path]:
    """Return our files by the names under which they are imported."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files(*CODE)
    }


def imported(path: Path) -> Iterator[str]:
    """Yield our modules that a file imports: at its top, late, or for types alone."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            names = [
                whole if (whole := f"{node.module}.{alias.name}") in modules() else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in modules())


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Neither late nor for types alone: such an import only hides the circle."""
    # It raises CycleError, which names the modules of a circle.
    TopologicalSorter({name: set(imported(path)) for name, path in modules().items()}).prepare()


@pytest.mark.parametrize("package", CODE)
def test_packages_import_nothing_by_themselves(package: str) -> None:
    """Or a stage that reaches one module of a folder would depend on all of them."""
    for path in (ROOT / package).rglob("__init__.py"):
        assert not list(imported(path)), path
