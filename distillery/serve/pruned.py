"""What a module needs of this library, as a folder of modules that runs without it.

From each module stay the definitions that are reached from the one asked for, as they stand in the
source, comments and docstrings included: nothing is written twice, so nothing can drift. Names in
annotations reach nothing. Imports are written anew; of other packages those of `ALLOWED` may be
left, or it is an error.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import distillery
from distillery.errors import ModelError

SOURCES = Path(distillery.__file__).parent
LIBRARY = "distillery"
ALLOWED = frozenset({"numpy", "onnxruntime"})
REPLACED: Mapping[str, str] = {"scipy.fft.rfft(": "np.fft.rfft("}
"""NumPy has SciPy's transform, slower; a package should not need SciPy for it."""
HEADER = """{docstring}

from __future__ import annotations

{imports}

"""


@dataclass(frozen=True)
class _Import:
    """A name that a module has from another one."""

    module: str
    name: str | None
    """In that module; None: the module itself."""
    alias: str

    @property
    def line(self) -> str:
        """As it stands in a source."""
        if self.name is None:
            named = "" if self.alias == self.module.split(".")[0] else f" as {self.alias}"
            return f"import {self.module}{named}"
        return f"from {self.module} import {self.name}" + (
            "" if self.alias == self.name else f" as {self.alias}"
        )


@dataclass(frozen=True)
class _Module:
    """A module's source, by its definitions."""

    name: str
    source: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, _Import] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> _Module:
        """Read a module of ours."""
        path = SOURCES.joinpath(*name.split(".")[1:]).with_suffix(".py")
        source = path.read_text("utf-8")
        for before, after in REPLACED.items():
            source = source.replace(before, after)
        module = cls(name, source)
        last: str | None = None
        for statement in ast.parse(source).body:
            last = module._take(statement, last)
        return module

    def _take(self, statement: ast.stmt, last: str | None) -> str | None:
        """Note a statement; the name that it defines is returned, for a docstring that follows."""
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                bound = alias.asname or alias.name.split(".")[0]
                if isinstance(statement, ast.Import):
                    self.imports[bound] = _Import(alias.name, None, bound)
                else:
                    self.imports[bound] = _Import(str(statement.module), alias.name, bound)
            return None
        if isinstance(statement, ast.Expr):
            if last is not None:
                self.definitions[last].append(statement)
            return None
        names = _bound(statement)
        for name in names:
            self.definitions.setdefault(name, []).append(statement)
        return names[0] if names else None

    @cached_property
    def docstring(self) -> str:
        """As it stands in the source."""
        first = ast.parse(self.source).body[0]
        return ast.get_source_segment(self.source, first) or '""""""'

    def text_of(self, statement: ast.stmt) -> str:
        """Return a statement with its decorators and the comments above it."""
        lines = self.source.splitlines()
        decorators = getattr(statement, "decorator_list", [])
        start = min([statement.lineno, *(item.lineno for item in decorators)]) - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        return "\n".join(lines[start : statement.end_lineno])


def pruned(module: str, name: str, package: str) -> dict[str, str]:
    """Return the files of a package that holds one class of this library, and all it needs.

    Args:
        module: where the class is defined.
        name: of the class.
        package: what the new package is called; its `__init__` has the class.

    Raises:
        ModelError: a definition needs a package that is not to be needed, or two modules would get
            one file.
    """
    modules: dict[str, _Module] = {}
    needed: dict[str, dict[str, _Import | None]] = {}
    todo = [(module, name)]
    while todo:
        where, what = todo.pop()
        source = modules.setdefault(where, _Module.read(where))
        names = needed.setdefault(where, {})
        if what in names:
            continue
        imported = None if what in source.definitions else source.imports.get(what)
        names[what] = imported
        if imported is None:
            found = source.definitions.get(what, [])
            todo += [(where, used) for item in found for used in _used(item, source)]
        elif imported.module.split(".")[0] == LIBRARY:
            todo.append((imported.module, str(imported.name)))
        elif imported.module.split(".")[0] not in (*ALLOWED, *sys.stdlib_module_names):
            raise ModelError(f"{where}: needs {imported.module}, expected {sorted(ALLOWED)} alone")
    files = {f"{_file(where)}.py": _written(modules[where], needed[where]) for where in needed}
    if len(files) < len(needed):
        raise ModelError(f"modules of one name among {sorted(needed)}; expected different ones")
    init = f'"""{package}: generated from {LIBRARY} by make package."""\n\n'
    init += f"from .{_file(module)} import {name}\n\n__all__ = [{name!r}]\n"
    return {"__init__.py": init, **files}


def _written(module: _Module, needed: Mapping[str, _Import | None]) -> str:
    """Return a module's source with what is needed of it alone."""
    imports = [
        _Import("." + _file(item.module), item.name, item.alias)
        if item.module.split(".")[0] == LIBRARY
        else item
        for item in needed.values()
        if item is not None
    ]
    lines = sorted({item.line for item in imports}, key=lambda line: (" ." in line, line))
    statements: dict[int, ast.stmt] = {}
    for name, imported in needed.items():
        if imported is None:
            statements |= {item.lineno: item for item in module.definitions.get(name, [])}
    text = HEADER.format(docstring=module.docstring, imports="\n".join(lines))
    before: ast.stmt | None = None
    for _, statement in sorted(statements.items()):
        is_large = any(
            isinstance(item, ast.FunctionDef | ast.ClassDef) for item in (before, statement)
        )
        text += ("\n\n" if before is not None and is_large else "") + module.text_of(statement)
        text += "\n"
        before = statement
    return text


def _file(module: str) -> str:
    return module.rpartition(".")[2]


def _bound(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at a module's top defines; none of conditional ones."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    return [
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    ]


def _used(statement: ast.stmt, module: _Module) -> list[str]:
    """Return the names of a module that a statement needs when it runs."""
    names = {node.id for node in _running(statement) if isinstance(node, ast.Name)}
    known = {*module.definitions, *module.imports} - set(dir(builtins))
    return sorted(names & known)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one, those of annotations left out."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _running(child)
