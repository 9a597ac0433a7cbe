from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from distillery.corpora.an4 import download_an4
from distillery.corpora.archives import fetch_archive
from distillery.corpora.commonvoice import download_commonvoice
from distillery.corpora.fsdd import download_fsdd
from distillery.corpora.librispeech import download_librispeech
from distillery.corpora.speechcommands import download_speechcommands
from distillery.errors import CorpusError


def make_archive(path: Path, *names: str) -> str:
    """Write a tar.gz with one small file per name; return its URL."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return path.as_uri()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_wanted_folder_arrives_and_nothing_else(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "a.tar.gz", "an4-123/etc/list", "pax/other")
    target = tmp_path / "data" / "an4"
    fetch_archive(url, "an4-*", target, sha256(tmp_path / "a.tar.gz"))
    assert (target / "etc/list").read_text() == "an4-123/etc/list"
    assert [path.name for path in target.parent.iterdir()] == ["an4"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "an4").mkdir()
    fetch_archive(make_archive(tmp_path / "a.tar.gz", "an4-1/x"), "an4-*", tmp_path / "an4")
    assert (tmp_path / "an4/x").is_file()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "an4").mkdir()
    (tmp_path / "an4" / "mine").touch()
    url = make_archive(tmp_path / "a.tar.gz", "an4-1/x")
    with pytest.raises(CorpusError, match="holds other files"):
        fetch_archive(url, "an4-*", tmp_path / "an4")
    assert [path.name for path in (tmp_path / "an4").iterdir()] == ["mine"]


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "data" / "an4"
    with pytest.raises(CorpusError, match="cannot be downloaded"):
        fetch_archive((tmp_path / "gone.tar.gz").as_uri(), "an4-*", target)
    assert list(target.parent.iterdir()) == []


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "a.tar.gz", "an4-1/x")
    with pytest.raises(CorpusError, match=r"SHA-256 is [0-9a-f]{64}, expected 00"):
        fetch_archive(url, "an4-*", tmp_path / "an4", "00")
    assert not (tmp_path / "an4").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_text("a login page")
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        fetch_archive((tmp_path / "a.tar.gz").as_uri(), "an4-*", tmp_path / "an4")


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "a.tar.gz", *(f"an4-1/{index}" for index in range(500)))
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        fetch_archive(url, "an4-*", tmp_path / "an4")
    assert not (tmp_path / "an4").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "a.tar.gz", "an4-1/x", "../../../escaped")
    with pytest.raises(CorpusError, match="cannot be unpacked"):
        fetch_archive(url, "an4-*", tmp_path / "deep" / "an4")
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_without_the_wanted_folder_is_refused(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "a.tar.gz", "other/x")
    with pytest.raises(CorpusError, match=r"0 folders match 'an4-\*', expected one"):
        fetch_archive(url, "an4-*", tmp_path / "an4")


@pytest.fixture
def stingy_server() -> Iterator[str]:
    """A server that promises more bytes than it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a.tar.gz"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_ends_early_is_noticed(tmp_path: Path, stingy_server: str) -> None:
    with pytest.raises(CorpusError, match="ended after 10 of 1000 bytes"):
        fetch_archive(stingy_server, "an4-*", tmp_path / "an4")


def test_an4_and_fsdd_unpack_into_the_source_folder(tmp_path: Path) -> None:
    download_an4(tmp_path / "an4", make_archive(tmp_path / "a.tar.gz", "an4-master/etc/x"))
    assert (tmp_path / "an4/etc/x").is_file()
    name = "free-spoken-digit-dataset-master/recordings/0_a_0.wav"
    download_fsdd(tmp_path / "fsdd", make_archive(tmp_path / "f.tar.gz", name))
    assert (tmp_path / "fsdd/recordings/0_a_0.wav").is_file()


def test_librispeech_unpacks_part_by_part(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("dev-clean", "test-clean"):
        make_archive(
            tmp_path / f"{part}.tar.gz",
            f"LibriSpeech/{part}/1/2/x",
            "LibriSpeech/README",
        )
        checksum = sha256(tmp_path / f"{part}.tar.gz")
        download_librispeech(source, part, tmp_path.as_uri(), checksum)
        assert (source / "LibriSpeech" / part / "1/2/x").is_file()


def test_librispeech_checks_the_published_checksum_by_default(tmp_path: Path) -> None:
    make_archive(tmp_path / "dev-clean.tar.gz", "LibriSpeech/dev-clean/x")
    with pytest.raises(CorpusError, match="expected 76f87d0906"):
        download_librispeech(tmp_path / "source", "dev-clean", tmp_path.as_uri())


def test_speechcommands_unpacks_the_whole_archive(tmp_path: Path) -> None:
    url = make_archive(tmp_path / "s.tar.gz", "./yes/a_nohash_0.wav", "./testing_list.txt")
    download_speechcommands(tmp_path / "source", url, sha256=None)
    folder = tmp_path / "source/SpeechCommands/speech_commands_v0.02"
    assert (folder / "yes/a_nohash_0.wav").is_file()
    assert (folder / "testing_list.txt").is_file()


def test_commonvoice_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="accept the terms"):
        download_commonvoice(tmp_path)
