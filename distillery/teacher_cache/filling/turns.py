"""Whose turn it is to write: of the passes over a cache the last, of the tries at a partition too.

A worker whose link is cut counts as dead. Another one takes its partition over, and a further pass
may begin, while it still works. What it hears must not come into the cache a second time. So a
shard is published while the files of its pass and of its partition are held by flock, and only if
they still give its writer the turn. They lie in the namespace's folder:

    .pass-PASS.tmp               there as long as the pass is on: what it was planned with
    .begun-PASS-PARTITION.tmp    the tries at a partition, a line each: the last has the turn
    .heard-TRY.tmp               what a try has heard so far, a line for each batch and each shard
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from distillery.errors import CacheError
from distillery.files import Json, write_json
from distillery.teacher_cache.filling.plan import Partition, PartitionReport
from distillery.teacher_cache.shards import explained


def begin_pass(folder: Path, content: Json) -> str:
    """Say that a pass is on, and return the name of its file.

    Args:
        folder: of the namespace.
        content: what every worker must find, too.
    """
    name = f".pass-{uuid.uuid4().hex}.tmp"
    with explained(folder):
        write_json(folder / name, content)
    return name


def end_passes(folder: Path) -> None:
    """Take the turn from every pass over a namespace: nothing of theirs is published from now on.

    Of those that are left, the drivers were killed; their workers may not have been.
    """
    for path in folder.glob(".pass-*.tmp"):
        with suppress(FileNotFoundError), explained(folder), _held(path, fcntl.LOCK_EX):
            path.unlink()


class Turn:
    """One try at a partition: it has the turn until another one takes it."""

    def __init__(self, folder: Path, partition: Partition) -> None:
        """Prepare to take the turn.

        Args:
            folder: of the namespace.
            partition: what to do.
        """
        self._folder = folder
        self._name = uuid.uuid4().hex
        self._pass = folder / partition.of_pass
        self._begun = folder / partition.begun_file

    def take(self) -> PartitionReport | None:
        """Take the turn, and return what earlier tries had heard; None where this is the first.

        Raises:
            CacheError: the pass has ended, or the folder cannot be written.
        """
        with self._in_pass(), explained(self._folder), open(self._begun, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            former = file.read().decode().split()
            file.write(f"{self._name}\n".encode())
        if not former:
            return None
        return sum((_notes(self._folder, name) for name in former), PartitionReport())

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Keep the turn while a shard is made visible.

        Raises:
            CacheError: another try or pass has it by now.
        """
        with self._in_pass(), self._in_turn():
            yield

    def note(self, report: PartitionReport) -> None:
        """Write down what was heard since the last note, for who may have to take over."""
        with explained(self._folder), open(_notes_file(self._folder, self._name), "ab") as file:
            file.write(f"{json.dumps(asdict(report))}\n".encode())

    @contextmanager
    def _in_pass(self) -> Iterator[None]:
        with self._explained(), _held(self._pass, fcntl.LOCK_SH):
            yield

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        with self._explained(), _held(self._begun, fcntl.LOCK_EX) as file:
            if file.read().decode().split()[-1:] != [self._name]:
                raise FileNotFoundError(self._begun)
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise CacheError(
                f"{self._folder}: another worker or pass has taken over, for this one seemed dead; "
                "its open shard is dropped, what it finished before is in the cache"
            ) from error


@contextmanager
def _held(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Hold a file's lock.

    Raises:
        FileNotFoundError: it is not there, or was deleted by who held it before.
    """
    with open(path, "r+b") as file:  # over NFS, only who may write can hold it alone
        fcntl.flock(file, mode)
        if not os.fstat(file.fileno()).st_nlink:
            raise FileNotFoundError(path)
        yield file


def _notes_file(folder: Path, name: str) -> Path:
    return folder / f".heard-{name}.tmp"


def _notes(folder: Path, name: str) -> PartitionReport:
    """Return what a try had noted; of half a line, which a kill leaves, nothing is known."""
    total = PartitionReport()
    with suppress(FileNotFoundError):
        for line in _notes_file(folder, name).read_bytes().splitlines():
            with suppress(ValueError):
                total += PartitionReport(**json.loads(line))
    return total
