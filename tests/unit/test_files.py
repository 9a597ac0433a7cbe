import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillery.errors import CorpusError, ManifestError
from distillery.files import (
    Json,
    digest_of_file,
    read_json,
    read_text,
    remove_unfinished,
    whole_text,
)

TEXT = "né – ja\tx\n\u4f60\u2028z\r\n"
MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


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


# --- users' texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [*MARKED, "utf-16-le", "utf-16-be", "utf-32-be"])
def test_text_is_read_in_every_encoding_that_says_which_it_is(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "list"
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    path.write_bytes((mark + TEXT).encode(encoding))
    assert read_text(path, CorpusError) == TEXT


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030"])
def test_other_encodings_are_refused_with_the_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.tsv"
    word = {"shift_jis": "日本", "gb18030": "你好"}.get(encoding, "né")
    path.write_bytes(f"first\nsecond\n{word}\n".encode(encoding))
    with pytest.raises(CorpusError, match=r"list\.tsv, line 3: .*save it again as UTF-8"):
        read_text(path, CorpusError)
    with pytest.raises(ManifestError):
        read_text(path, ManifestError)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_two_bytes_a_letter_without_a_mark_are_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list"
    path.write_bytes("a few words\n".encode(encoding))
    with pytest.raises(CorpusError, match="without a byte-order mark; save it again as UTF-8"):
        read_text(path, CorpusError)


def test_a_list_cut_short_within_a_character_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"a\n\xc3")
    with pytest.raises(CorpusError, match="line 2: cannot be read"):
        read_text(path, CorpusError)
    path.write_bytes("né".encode("utf-16")[:-1])
    with pytest.raises(CorpusError, match="line 1: cannot be read"):
        read_text(path, CorpusError)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="expected a text file"):
        read_text(tmp_path, CorpusError)


def test_what_a_killed_writer_left_of_a_file_goes_and_nothing_else(tmp_path: Path) -> None:
    names = ["run[1].pt", ".run[1].pt.12.tmp", ".run[1].pt.345.tmp", ".run1.pt.12.tmp", "x.tmp"]
    for name in names:
        (tmp_path / name).write_text("part")
    remove_unfinished(tmp_path / "run[1].pt")
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[3], names[4]}
    remove_unfinished(tmp_path / "no folder" / "run.pt")


def test_text_that_is_not_finished_leaves_the_former(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    with whole_text(path) as file:
        file.write("a,é\n")
    assert path.read_bytes() == "a,é\n".encode()
    with pytest.raises(RuntimeError), whole_text(path) as file:
        file.write("b\n")
        raise RuntimeError
    assert path.read_bytes() == "a,é\n".encode()
    assert list(tmp_path.iterdir()) == [path]
