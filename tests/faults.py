"""The tests that docs/faults.md names, for `make test-faults`: pytest -p tests.faults FILES.

python -m tests.faults    prints the files
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs/faults.md"


def named_tests(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each test file that a page names, its folders where given, and parts of test names."""
    files = r"`((?:[\w]+/)*test_\w+)(?:\.py)?`"
    for match in re.finditer(files + r"(?: \(((?:`…?\w+…?`(?:, )?)+)\))?", page.read_text("utf-8")):
        yield match[1], re.findall(r"`…?(\w+?)…?`", match[2] or "")


def parts_by_file(page: Path = PAGE) -> dict[Path, set[str]]:
    """Return the test files that a page names; parts of test names, none where all are meant."""
    found: dict[Path, set[str]] = {}
    whole = set(TESTS.glob("pipeline/test_faults_*.py"))
    for name, parts in named_tests(page):
        for path in TESTS.glob(f"**/{name}.py"):
            found.setdefault(path, set()).update(parts)
            if not parts:
                whole.add(path)
    return found | {path: set() for path in whole}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of the same files that the page does not name."""
    wanted = parts_by_file()
    chosen, left = [], []
    for item in items:
        parts = wanted.get(item.path)
        is_named = parts is not None and (not parts or any(part in item.name for part in parts))
        (chosen if is_named else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = chosen


if __name__ == "__main__":
    sys.stdout.write(" ".join(str(path) for path in sorted(parts_by_file())) + "\n")
