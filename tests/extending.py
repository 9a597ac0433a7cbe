"""docs/extending.md as a newcomer follows it: its files written, its diffs applied."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/extending.md"
BLOCK = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """One block of the page: a new file, or lines to change in one."""

    file: str
    text: str
    is_new: bool

    def apply(self, root: Path) -> None:
        """Make the change in a copy of the code.

        Raises:
            AssertionError: the file exists already, or does not hold the old lines exactly once.
        """
        path = root / self.file
        if self.is_new:
            assert not path.exists(), f"{self.file} exists already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text, "utf-8")
            return
        lines = self.text.splitlines(keepends=True)
        assert all(line[0] in "+- \n" for line in lines), f"{self.file}: no diff"
        old = "".join(line[1:] or "\n" for line in lines if line[0] != "+")
        new = "".join(line[1:] or "\n" for line in lines if line[0] != "-")
        code = path.read_text("utf-8")
        assert code.count(old) == 1, (
            f"{self.file} holds these lines {code.count(old)} times:\n{old}"
        )
        path.write_text(code.replace(old, new), "utf-8")


def sections() -> dict[str, list[Change]]:
    """Return the page's changes by the title of their section."""
    text = PAGE.read_text("utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        title: [
            Change(file, code, language == "python") for language, file, code in BLOCK.findall(body)
        ]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def files_of(changes: list[Change]) -> list[str]:
    """Return the files that changes touch, each once."""
    return list(dict.fromkeys(change.file for change in changes))
