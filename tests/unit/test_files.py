import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillery.files import Json, digest_of_file, read_json


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 4097], ids=len)
def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert digest_of_file(path) == hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Part:
    """One entry of a file."""

    value: int | float
    note: str | None = None


@dataclass(frozen=True)
class Whole:
    """A file."""

    parts: Sequence[Part]
    foreign: Json


def test_a_file_is_read_as_the_class_that_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(
        '{"parts": [{"value": 3}, {"value": 3.0, "note": "x"}, {"value": Infinity}], '
        '"foreign": {"a": [1, 1.0, null], "b": {"c": "d"}}, "of a later version": 1}'
    )
    found = read_json(path, Whole)
    assert found == Whole(
        [Part(3), Part(3.0, "x"), Part(math.inf)], {"a": [1, 1.0, None], "b": {"c": "d"}}
    )
    assert [type(part.value) for part in found.parts] == [int, float, float]
    assert [type(item) for item in found.foreign["a"]] == [int, float, type(None)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Invalid JSON: "),
        ("[]", "Input should be an object"),
        ('{"parts": []}', "foreign: Field required"),
        ('{"parts": [{"value": null}], "foreign": {}}', "parts: 0: value: .*should be a valid"),
    ],
)
def test_a_file_that_is_something_else_says_what_and_where(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{says}[^\\n]*$"):
        read_json(path, Whole)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json", Whole)
