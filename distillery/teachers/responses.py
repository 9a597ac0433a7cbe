"""What a paid service answered, by audio key, and what it cost: nothing is asked twice.

    scratch/responses/DIGEST/AA/KEY.json    DIGEST of what is asked for, AA the key's first letters

Every answer is written as soon as it is there, whole or not at all. A killed pass, another cache or
a second teacher stage asks for nothing that was answered before; delete the folder to ask again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillery.errors import ModelError
from distillery.files import Json, read_json, write_json
from distillery.params.base import MEMBERS
from distillery.params.file import PARAMS_FILE

CONFIG_FILE = "config.json"
"""Of a saved teacher; distillery/models/recogniser.py, which brings PyTorch, calls it so."""
RESPONSES = "scratch/responses"
SERVICE_FILE = "service.json"
"""Beside a saved teacher: how its service is asked, of which nothing changes what it answers."""
SECONDS_PER_MINUTE = 60.0


def digest_of_asked(asked: Json) -> str:
    """Return the SHA-256 of what is asked for: all that decides an answer, but for the audio."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Response:
    """One answer."""

    seconds: float
    """Of audio that were sent."""
    took_seconds: float
    """From the request to the answer."""
    requests: int
    """Of which the last one was answered."""
    content: Any
    """As the service gave it."""


@dataclass(frozen=True)
class Spent:
    """What answers cost."""

    answers: int = 0
    requests: int = 0
    """With those that failed and were made again."""
    seconds: float = 0.0
    """Of audio that were sent and answered."""
    took_seconds: float = 0.0

    def since(self, former: Spent) -> Spent:
        """Return what came after a former count."""
        return Spent(
            self.answers - former.answers,
            self.requests - former.requests,
            self.seconds - former.seconds,
            self.took_seconds - former.took_seconds,
        )


@dataclass(frozen=True)
class Service:
    """How a service is asked; nothing here changes what it answers."""

    key_variable: str | None = None
    """Environment variable that holds its key."""
    parallel: int = 4
    timeout_seconds: float = 120.0
    max_attempts: int = 6
    price_per_minute: float = 0.0


@dataclass(frozen=True)
class ResponseStore:
    """A folder of answers."""

    folder: Path

    @classmethod
    def of(cls, root: Path, asked: Json) -> ResponseStore:
        """Return where a workspace keeps what was answered.

        Args:
            root: the workspace.
            asked: everything that decides an answer, but for the audio.
        """
        return cls(root / RESPONSES / digest_of_asked(asked)[:16])

    def read(self, key: str) -> Response | None:
        """Return the answer for an audio key, None where there is none that can be read."""
        try:
            return Response(**json.loads(self._path(key).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, key: str, response: Response) -> None:
        """Keep an answer."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(response))

    def spent(self) -> Spent:
        """Return what all answers cost."""
        found = [self.read(path.stem) for path in self.folder.glob("*/*.json")]
        answers = [response for response in found if response is not None]
        return Spent(
            len(answers),
            sum(one.requests for one in answers),
            sum(one.seconds for one in answers),
            sum(one.took_seconds for one in answers),
        )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def workspace_of(folder: Path) -> Path:
    """Return the workspace that a saved teacher lies in: the nearest folder with settings."""
    found = (parent for parent in folder.resolve().parents if (parent / PARAMS_FILE).exists())
    return next(found, folder.resolve().parent)


def spent_by(teacher: Path) -> Mapping[Path, Spent]:
    """Return what the services of a saved teacher and its members were paid for so far.

    By their folders; empty where there is none.

    Raises:
        ModelError: the teacher's files are damaged.
    """
    found = {}
    for path in [*teacher.glob(SERVICE_FILE), *sorted(teacher.glob(f"{MEMBERS}/*/{SERVICE_FILE}"))]:
        try:
            asked = json.loads((path.parent / CONFIG_FILE).read_text("utf-8"))["architecture"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{path.parent / CONFIG_FILE}: cannot be used: {error}; run make teacher"
            ) from None
        found[path.parent] = ResponseStore.of(workspace_of(teacher), asked).spent()
    return found


def read_service(teacher: Path) -> Service:
    """Return how a saved teacher's service is asked.

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = teacher / SERVICE_FILE
    try:
        return read_json(path, Service)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None


@dataclass(frozen=True)
class Cost:
    """What reports/cache.json says of services."""

    requests: int
    """In this pass, with those that failed and were made again."""
    seconds_sent: float
    """Of audio, in this pass."""
    price: float
    """Of them, by `teacher.price_per_minute`."""
    requests_so_far: int
    """In all passes and validations together."""
    seconds_sent_so_far: float
    price_so_far: float

    def __str__(self) -> str:
        return (
            f"service: {self.requests} requests, {self.seconds_sent:.0f} s of audio sent, price "
            f"{self.price:.2f} (so far {self.requests_so_far} requests, "
            f"{self.seconds_sent_so_far:.0f} s, {self.price_so_far:.2f})"
        )


def cost_since(teacher: Path, before: Mapping[Path, Spent]) -> Cost | None:
    """Return what services cost; None where there is none.

    Args:
        teacher: a saved teacher's folder.
        before: what had been spent before the pass.
    """
    after = spent_by(teacher)
    if not after:
        return None
    here = {folder: spent.since(before.get(folder, Spent())) for folder, spent in after.items()}

    def price(all_spent: Mapping[Path, Spent]) -> float:
        return sum(
            spent.seconds / SECONDS_PER_MINUTE * read_service(folder).price_per_minute
            for folder, spent in all_spent.items()
        )

    return Cost(
        sum(spent.requests for spent in here.values()),
        sum(spent.seconds for spent in here.values()),
        price(here),
        sum(spent.requests for spent in after.values()),
        sum(spent.seconds for spent in after.values()),
        price(after),
    )
