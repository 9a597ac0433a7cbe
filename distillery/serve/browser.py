"""A student as a web page: a folder of static files that recognises speech in the browser.

    index.html, page.css, *.js      ours: microphone, features, search, times
    ort.wasm.min.mjs, ort-wasm-*    onnxruntime-web, from npm
    page.json                       title, and which network
    config.json, tokens.txt, …      the student

Nothing comes from elsewhere when the page runs, and no sound leaves the browser; any web server
serves it. docs/decisions/0033-handed-over.md says why it is built so.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import replace_file, write_bytes, write_json

PAGE_SOURCES = Path(__file__).with_name("page")
PAGE_FILE, INDEX_FILE = "page.json", "index.html"
RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7sv"
    "Nc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""What npm's registry says of that version: a download that differs is not taken."""
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
LICENSE_FILE = "onnxruntime-web.txt"
LICENSE = f"""\
{RUNTIME} {RUNTIME_VERSION}, https://github.com/microsoft/onnxruntime, MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NPM_SECONDS = 600


def write_page(
    folder: Path, student: Mapping[str, bytes], model_file: str, title: str, about: str, cache: Path
) -> None:
    """Write the page into an existing folder.

    Args:
        folder: where to.
        student: its files by name: the network, config.json, tokens.txt, and those of a decoder.
        model_file: the network's name.
        title: of the page.
        about: a sentence below it.
        cache: folder that keeps what npm brought.

    Raises:
        ModelError: onnxruntime-web cannot be had.
    """
    for name, content in runtime_files(cache).items():
        write_bytes(folder / name, content)
    write_bytes(folder / LICENSE_FILE, LICENSE.encode())
    for path in sorted(PAGE_SOURCES.iterdir()):
        write_bytes(folder / path.name, path.read_bytes())
    for name, content in student.items():
        write_bytes(folder / name, content)
    said = {"title": title, "about": about, "model_file": model_file}
    write_json(folder / PAGE_FILE, {**said, "has_decoder": "decoder.lm" in student})


def page_files(student: Mapping[str, bytes]) -> set[str]:
    """Return the names of all files of a page with such a student."""
    ours = {path.name for path in PAGE_SOURCES.iterdir()}
    return {*ours, *RUNTIME_FILES, LICENSE_FILE, PAGE_FILE, *student}


def runtime_files(cache: Path) -> dict[str, bytes]:
    """Return the files of onnxruntime-web that a page needs, by name.

    Args:
        cache: folder with npm's archive; without it npm fetches the archive, some 33 MB.

    Raises:
        ModelError: npm is missing or fails, or the archive is not the one that was published.
    """
    archive = cache / f"{RUNTIME}-{RUNTIME_VERSION}.tgz"
    if not archive.exists():
        _fetch(archive)
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != RUNTIME_INTEGRITY:
        archive.unlink()
        raise ModelError(
            f"{archive}: {found[:19]}…, expected {RUNTIME_INTEGRITY[:19]}…; it was removed: run "
            "the command again, and if it comes back, ask who answers for npm here"
        )
    with tarfile.open(archive) as tar:
        members = {name: tar.extractfile(f"package/dist/{name}") for name in RUNTIME_FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _fetch(archive: Path) -> None:
    """Have npm bring the archive."""
    npm = shutil.which("npm")
    wanted = f"{RUNTIME}@{RUNTIME_VERSION}"
    if npm is None:
        raise ModelError(
            f"npm: not found; it brings {wanted} for the page. Install it (on Debian: apt-get "
            f"install npm), or put npm's archive at {archive}"
        )
    target = archive.with_name("npm.tmp")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", "--ignore-scripts", wanted],
            cwd=target,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
        )
        brought = sorted(target.glob("*.tgz"))
        if done.returncode or not brought:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise ModelError(
                f"npm pack {wanted}: {lines[0]}; check the network, or put npm's archive at "
                f"{archive}"
            )
        replace_file(brought[0], archive)
    except subprocess.TimeoutExpired:
        raise ModelError(f"npm pack {wanted}: no answer in {NPM_SECONDS} s") from None
    finally:
        shutil.rmtree(target, ignore_errors=True)
