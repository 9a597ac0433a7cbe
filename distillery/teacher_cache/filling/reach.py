"""Whether a worker works in the folders of a pass: it may be another host's, with others there.

A pass says in a file of its own what it was planned with. A worker that finds this file, and the
same data and teacher, reads what the pass reads; one that writes where the driver sees it shares
the disk.
"""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path
from typing import NamedTuple

from distillery.data.manifest import SUMMARY_FILE
from distillery.errors import CacheError
from distillery.files import Json, digest_of_file
from distillery.models.fingerprint import FINGERPRINT_FILE
from distillery.teacher_cache.filling.expected import Places

ADVICE = (
    "Workers of a Dask cluster need the same folders under the same paths, on a disk that all "
    "share: mount it there, or stop the workers of that host, then run make cache; finished shards "
    "stay"
)


class Seen(NamedTuple):
    """What a worker says of itself."""

    host: str
    fault: str | None
    """What it lacks."""
    written: str = ""
    """Name of the file that it wrote beside the shards."""


def planned_with(places: Places) -> Json:
    """Return hashes of what describes data and teacher: they tell a pass's folders from others."""
    return {
        str(path): digest_of_file(path)
        for path in (places.data / SUMMARY_FILE, places.teacher / FINGERPRINT_FILE)
    }


def look(places: Places, folder: Path, of_pass: str) -> Seen:
    """Look, on a worker, whether it has what a pass needs, and write a file beside the shards.

    Args:
        places: prepared data, teacher and cache.
        folder: of the namespace.
        of_pass: name of the pass's file.
    """
    host, written = socket.gethostname(), f".seen-{uuid.uuid4().hex}.tmp"
    fault = _fault(places, folder, of_pass)
    try:
        if fault is None:
            (folder / written).touch()
    except OSError as error:
        fault = f"{folder} cannot be written ({error.strerror})"
    return Seen(host, fault, written)


def check_here(places: Places, folder: Path, of_pass: str) -> None:
    """Make sure that this process works in a pass's folders: a worker may have come later.

    Raises:
        CacheError: it does not.
    """
    if fault := _fault(places, folder, of_pass):
        raise CacheError(f"host {socket.gethostname()}: {fault}. {ADVICE}")


def _fault(places: Places, folder: Path, of_pass: str) -> str | None:
    """Return what this host lacks for a pass, None where it lacks nothing."""
    try:
        planned = json.loads((folder / of_pass).read_bytes())
    except OSError:
        return f"{folder} is not there, or not the one of this pass"
    try:
        here = planned_with(places)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    if differing := [name for name, digest in here.items() if planned.get(name) != digest]:
        return f"{differing[0]} is another than where the pass was planned"
    return None
