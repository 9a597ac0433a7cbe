"""Which code a model has to itself: files that only its architecture or kind of teacher reaches.

DVC follows no imports, so dvc.yaml lists the code of each stage. What all teachers or all students
share stands there. An architecture's or a kind's own files cannot: a stage of a `matrix` names the
same files for every student. So the stage `fetch` writes their SHA-256 into one file for each
model, which that model's stage depends on:

    models/code/teacher.json          of the teacher's kind, its members and its architecture
    models/code/students/NAME.json    of the student's architecture

Code is read as text, never imported. The lists of architectures and kinds are nobody's own: a new
entry trains no model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import digest_of_file, whole_folder, write_json
from distillery.params.base import MEMBERS
from distillery.params.distill import DistillParams
from distillery.params.teacher import (
    EnsembleTeacherParams,
    RegistryTeacherParams,
    TeacherParams,
    TrainedTeacherParams,
)
from tasks.stage import CODE_FOLDER

PACKAGES = ("distillery", "tasks", "flows")
ROOMS = ("distillery/architectures", "distillery/teachers")
"""Where files may be one model's own."""
ARCHITECTURES = f"{ROOMS[0]}/known.py"
KINDS = f"{ROOMS[1]}/kinds.py"
LISTS = (ARCHITECTURES, KINDS)


def write_code(
    root: Path, teacher: TeacherParams, distill: DistillParams, registered: Path
) -> None:
    """Write what code each model has to itself into models/code.

    Args:
        root: the workspace, which holds the code.
        teacher: its settings.
        distill: settings of the students.
        registered: folder of the registered models, as they were fetched.

    Raises:
        ModelError: a registered teacher is of an architecture that is not known here.
    """
    with whole_folder(root / CODE_FOLDER) as folder:
        own = code_of_teacher(root, teacher, registered / "teacher")
        write_json(folder / "teacher.json", digests(root, own))
        (folder / "students").mkdir()
        for name, student in distill.students.items():
            own = code_of_architecture(root, student.architecture.type)
            write_json(folder / f"students/{name}.json", digests(root, own))


def digests(root: Path, files: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    return {name: digest_of_file(root / name) for name in sorted(files)}


def code_of_architecture(root: Path, name: str) -> set[str]:
    """Return the files that only models of one architecture reach.

    Raises:
        ModelError: it is not known here.
    """
    known = entries(root, ARCHITECTURES)
    if name not in known:
        raise ModelError(f"architecture {name!r}, expected one of {', '.join(sorted(known))}")
    return _own(root, known[name])


def code_of_teacher(root: Path, settings: TeacherParams, registered: Path) -> set[str]:
    """Return the files that only teachers of one kind reach, with those of what it is made of.

    Args:
        root: the workspace, which holds the code.
        settings: of the teacher.
        registered: where the registered model that they name lies, or those of members.

    Raises:
        ModelError: a registered model is of an architecture that is not known here.
    """
    own = _own(root, entries(root, KINDS)[settings.kind])
    if isinstance(settings, TrainedTeacherParams):
        return own | code_of_architecture(root, settings.architecture.type)
    if isinstance(settings, RegistryTeacherParams):
        config = registered / "config.json"
        if not config.exists():  # not fetched, so not to be used either
            return own
        saved = json.loads(config.read_text("utf-8"))["architecture"]
        return own | code_of_architecture(root, saved["type"])
    if isinstance(settings, EnsembleTeacherParams):
        for number, member in enumerate(settings.members):
            own |= code_of_teacher(root, member, registered / MEMBERS / str(number))
    return own


def entries(
    root: Path, file: str, part: Callable[[ast.expr], ast.AST] = lambda entry: entry
) -> Mapping[str, set[str]]:
    """Return a list's entries: to each name the files of ours that it names.

    Args:
        root: the workspace, which holds the code.
        file: a module with dict displays, whose keys are names and whose values name imports.
        part: of an entry's value, which counts.
    """
    tree = ast.parse((root / file).read_text("utf-8"))
    files = {
        alias.asname or alias.name: set(_files_of(root, f"{node.module}.{alias.name}"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found: dict[str, set[str]] = {}
    for display in (node for node in ast.walk(tree) if isinstance(node, ast.Dict)):
        for key, value in zip(display.keys, display.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                names = {node.id for node in ast.walk(part(value)) if isinstance(node, ast.Name)}
                named = set().union(*(files.get(name, set()) for name in names))
                found.setdefault(key.value, set()).update(_within(named, ROOMS))
    return found


def reached_files(root: Path, files: Iterable[str], rooms: Collection[str] = PACKAGES) -> set[str]:
    """Return our own files that importing some files loads, these included, but for empty ones.

    Args:
        root: the workspace, which holds the code.
        files: their paths from there.
        rooms: folders that are not left.
    """
    seen: set[str] = set()
    waiting = [*files]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            if file not in LISTS:
                names = imported_names(root / file)
                waiting += _within({path for x in names for path in _files_of(root, x)}, rooms)
    return {file for file in seen if (root / file).read_text("utf-8").strip()}


def _own(root: Path, files: Iterable[str]) -> set[str]:
    return reached_files(root, files, ROOMS) - set(LISTS)


def imported_names(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports, at whatever place, and the names that it takes.

    What is imported for types alone is left out: it never runs.
    """
    yield from _names_in(file.read_text("utf-8"))


@lru_cache(maxsize=1024)
def _names_in(source: str) -> Sequence[str]:
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}, which is not followed here"
            names.append(node.module or "")
            names += (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)
    return names


def _files_of(root: Path, name: str) -> Iterator[str]:
    """Yield the files of a module of ours, those of the packages around it included."""
    parts = name.split(".")
    if parts[0] in PACKAGES:
        for length in range(1, len(parts) + 1):
            path = Path(*parts[:length])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if (root / file).is_file():
                    yield file.as_posix()


def _within(files: set[str], rooms: Collection[str]) -> set[str]:
    return {file for file in files if any(file.startswith(f"{room}/") for room in rooms)}
