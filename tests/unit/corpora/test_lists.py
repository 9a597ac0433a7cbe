"""Lists in the encodings that tools leave them in; names that are composed otherwise."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillery.corpora.an4 import read_an4
from distillery.corpora.base import Recording
from distillery.corpora.commands import load_grammar
from distillery.corpora.commonvoice import read_commonvoice
from distillery.corpora.fsdd import read_fsdd
from distillery.corpora.librispeech import read_librispeech
from distillery.corpora.lists import find_file, read_lines, read_text, visible_files
from distillery.corpora.manifest import read_manifest
from distillery.corpora.speechcommands import read_speechcommands
from distillery.errors import CorpusError, ManifestError
from distillery.params.prepare import PrepareParams

TEXT = "né – ja\tx\n\u4f60\u2028z\r\n"
MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
DOT_FILE = b"\0\5\26\7"
"""How macOS's `._NAME` files begin."""

# --- the reader --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [*MARKED, "utf-16-le", "utf-16-be", "utf-32-be"])
def test_text_is_read_in_every_encoding_that_says_which_it_is(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "list"
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    path.write_bytes((mark + TEXT).encode(encoding))
    assert read_text(path) == TEXT
    assert read_lines(path) == ["né – ja\tx", "\u4f60\u2028z"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030"])
def test_other_encodings_are_refused_with_the_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.tsv"
    word = {"shift_jis": "日本", "gb18030": "你好"}.get(encoding, "né")
    path.write_bytes(f"first\nsecond\n{word}\n".encode(encoding))
    with pytest.raises(CorpusError, match=r"list\.tsv, line 3: .*save it again as UTF-8"):
        read_text(path)
    with pytest.raises(ManifestError):
        read_text(path, ManifestError)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_two_bytes_a_letter_without_a_mark_are_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list"
    path.write_bytes("a few words\n".encode(encoding))
    with pytest.raises(CorpusError, match="without a byte-order mark; save it again as UTF-8"):
        read_text(path)


def test_a_list_cut_short_within_a_character_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"a\n\xc3")
    with pytest.raises(CorpusError, match="line 2: cannot be read"):
        read_text(path)
    path.write_bytes("né".encode("utf-16")[:-1])
    with pytest.raises(CorpusError, match="line 1: cannot be read"):
        read_text(path)


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="expected a text file"):
        read_text(tmp_path)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_disk", "listed"),
    [
        ("Jose\u0301.wav", "Jos\u00e9.wav"),
        ("Jos\u00e9.wav", "Jose\u0301.wav"),
        ("a\u0308/Jos\u00e9.wav", "\u00e4/Jose\u0301.wav"),
        ("\u00e4/e\u0301.wav", "\u00e4/\u00e9.wav"),
        ("\ud55c.wav", "\u1112\u1161\u11ab.wav"),
    ],
)
def test_files_are_found_however_their_names_are_composed(
    tmp_path: Path, on_disk: str, listed: str
) -> None:
    path = tmp_path / on_disk
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert find_file(tmp_path, listed) == path
    assert find_file(tmp_path, "ascii.wav") == tmp_path / "ascii.wav"
    assert find_file(tmp_path, "é/none.wav") == tmp_path / "é/none.wav"


def test_dot_files_and_what_lies_in_them_are_not_seen(tmp_path: Path) -> None:
    for name in ("a/x.wav", "a/._x.wav", ".Trashes/x.wav", "a/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(visible_files(tmp_path, "*/*.wav")) == [tmp_path / "a/x.wav"]


# --- all readers -------------------------------------------------------------------------------

Write = Callable[[str, str], None]
"""From a list's path and its text."""


def an4(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    for split in ("train", "test"):
        write(f"etc/an4_{split}.fileids", f"an4_clstk/s/{split}-é\n")
        write(f"etc/an4_{split}.transcription", f"HELLO ({split}-é)\n")
        audio(source / f"wav/an4_clstk/s/{split}-é.wav")


def commonvoice(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    for name in ("train", "dev", "test"):
        write(f"{name}.tsv", f"client_id\tpath\tsentence\nc{name}\t{name}é.mp3\tHELLO\n")
        audio(source / f"clips/{name}é.mp3")


def librispeech(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    for number, part in enumerate(("train-clean-100", "dev-clean", "test-clean")):
        folder = f"LibriSpeech/{part}/{number}/7"
        write(f"{folder}/{number}-7.trans.txt", f"{number}-7-0000 HELLO\n")
        audio(source / f"{folder}/{number}-7-0000.flac")


def speechcommands(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    folder = "SpeechCommands/speech_commands_v0.02"
    for number in range(3):
        audio(source / folder / f"HELLO/aa{number}_nohash_0.wav")
    write(f"{folder}/validation_list.txt", "HELLO/aa1_nohash_0.wav\n")
    write(f"{folder}/testing_list.txt", "HELLO/aa2_nohash_0.wav\n")


def manifest_csv(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("path", "text"), *((f"{n}é.wav", "HELLO") for n in range(3))])
    write("manifest.csv", buffer.getvalue())
    for number in range(3):
        audio(source / f"{number}é.wav")


def manifest_json(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    rows = [{"audio_filepath": f"{number}é.wav", "text": "HELLO"} for number in range(3)]
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write("manifest.jsonl", "".join(f"{line}\n" for line in lines))
    for number in range(3):
        audio(source / f"{number}é.wav")


def fsdd(source: Path, write: Write, audio: Callable[[Path], Any]) -> None:
    for take in range(3):
        audio(source / f"recordings/7_jackson_{take}.wav")


READERS = {
    an4: read_an4,
    commonvoice: read_commonvoice,
    fsdd: read_fsdd,
    librispeech: read_librispeech,
    speechcommands: read_speechcommands,
    manifest_csv: read_manifest,
    manifest_json: read_manifest,
}


def settings_of(corpus: Any) -> PrepareParams:
    name, _, kind = corpus.__name__.partition("_")
    file = "manifest.jsonl" if kind == "json" else "manifest.csv"
    return PrepareParams(corpus=name, source="corpus", manifest=file)


readers = pytest.mark.parametrize("corpus", READERS, ids=lambda corpus: corpus.__name__)


@pytest.fixture
def read(tmp_path: Path, write_recording) -> Callable[..., list[Recording]]:
    def make(corpus: Any, encoding: str = "utf-8", linesep: str = "\n") -> list[Recording]:
        def write(name: str, content: str) -> None:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.replace("\n", linesep).encode(encoding))

        def audio(path: Path) -> None:
            write_recording(path, 0.1)
            for other in (f"._{path.name}", ".DS_Store"):
                path.with_name(other).write_bytes(DOT_FILE)

        corpus(tmp_path, write, audio)
        return list(READERS[corpus](settings_of(corpus), tmp_path))

    return make


@readers
@pytest.mark.parametrize("encoding", MARKED)
def test_every_reader_takes_marked_lists_and_leaves_dot_files(
    read, corpus: Any, encoding: str
) -> None:
    plain = {item.utterance_id: item for item in read(corpus)}
    assert len(plain) == (2 if corpus is an4 else 3)
    texts = {item.text for item in plain.values()}
    assert texts == {"seven"} if corpus is fsdd else {"HELLO"}
    assert not any("/." in item.source_path for item in plain.values())
    marked = {item.utterance_id: item for item in read(corpus, encoding, "\r\n")}
    assert marked == plain


@readers
def test_every_reader_names_a_list_that_it_cannot_read(read, corpus: Any, tmp_path: Path) -> None:
    if corpus is fsdd:
        pytest.skip("it has no list")
    read(corpus)
    lists = [*tmp_path.rglob("*.t[sx][vt]"), *tmp_path.rglob("an4_*"), *tmp_path.glob("manifest.*")]
    path = sorted(lists)[0]
    path.write_bytes(path.read_bytes() + "né".encode("latin-1"))
    with pytest.raises((CorpusError, ManifestError), match=r"line \d+: .*save it again as UTF-8"):
        list(READERS[corpus](settings_of(corpus), tmp_path))


@pytest.mark.parametrize("encoding", MARKED)
def test_a_grammar_may_be_marked_too(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "grammar.yaml"
    path.write_bytes("sentence: ['né']\n".encode(encoding))
    assert load_grammar(path) == {"sentence": ["né"]}
    path.write_bytes("sentence: ['né']\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"grammar\.yaml, line 1"):
        load_grammar(path)
