"""Published archives: downloaded whole, checked, unpacked safely, moved into place."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from tqdm import tqdm

from distillery.errors import CorpusError

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


def fetch_archive(url: str, inner: str, target: Path, sha256: str | None = None) -> None:
    """Download a tar archive and put one of its folders in a new place.

    Nothing appears at `target` unless the whole archive arrived and could be unpacked.

    Args:
        url: where the archive is published.
        inner: the wanted folder inside it, as a pattern (`an4-*`) that one folder matches; empty
            for the whole.
        target: where that folder goes; it must not exist, or be empty.
        sha256: the archive's published checksum, if there is one.

    Raises:
        CorpusError: the target is in use, the download fails or is cut short, the checksum
            differs, the archive cannot be unpacked safely, or lacks the folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CorpusError(
            f"{target}: holds other files, expected nothing there before a download; "
            "move them away, or set prepare.source to another folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        archive = temporary / "archive"
        _check(url, _download(url, archive), sha256)
        unpacked = temporary / "unpacked"
        _unpack(url, archive, unpacked)
        found = sorted(unpacked.glob(inner)) if inner else [unpacked]
        if len(found) != 1:
            raise CorpusError(
                f"{url}: {len(found)} folders match {inner!r}, expected one; "
                "the archive has changed, unpack it by hand"
            )
        if target.exists():
            target.rmdir()
        os.replace(found[0], target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("downloaded %s to %s", url, target)


def _download(url: str, archive: Path) -> str:
    """Write the archive and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
            open(archive, "wb") as file,
        ):
            promised = int(response.headers.get("Content-Length") or 0)
            progress = tqdm(
                total=promised or None,
                desc="download",
                unit="B",
                unit_scale=True,
                disable=None,
            )
            with progress:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    progress.update(len(chunk))
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        raise CorpusError(
            f"{url}: cannot be downloaded: {error}; try again, or fetch it by hand"
        ) from error
    if size < promised:
        raise CorpusError(f"{url}: ended after {size} of {promised} bytes; try again")
    return digest.hexdigest()


def _check(url: str, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise CorpusError(
            f"{url}: SHA-256 is {found}, expected {expected}; "
            "the archive was changed or damaged during the download, try again"
        )


def _unpack(url: str, archive: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # refuses paths and links that leave the folder
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(f"{url}: cannot be unpacked: {error}; fetch it by hand") from error
