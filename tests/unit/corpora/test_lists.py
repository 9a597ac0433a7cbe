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
from distillery.corpora.lists import find_file, read_lines, visible_files
from distillery.corpora.manifest import read_manifest
from distillery.corpora.speechcommands import read_speechcommands
from distillery.errors import CorpusError, ManifestError
from distillery.params.prepare import PrepareParams

MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
DOT_FILE = b"\0\5\26\7"
"""How macOS's `._NAME` files begin."""


def test_lines_are_stripped_and_other_separators_are_text(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(" a b\r\n\r\n\u4f60\u2028z \n".encode("utf-16"))
    assert read_lines(path) == ["a b", "\u4f60\u2028z"]


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
