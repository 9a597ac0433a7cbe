"""Where DVC keeps what others are to have as well: the remotes that a workspace is set up with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distillery.credentials import without_credentials
from distillery.tracking.drivers import how_to_install, in_a_line, missing_driver
from flows.patience import STORE_SECONDS, within
from flows.stages.process import quiet_dvc

if TYPE_CHECKING:
    from dvc.config import Config


@dataclass(frozen=True)
class Remote:
    """One remote of DVC's configuration."""

    name: str
    """What DVC calls it."""
    url: str
    """Where it is: a folder, or an address; without credentials."""
    is_default: bool
    """Whether pushes and pulls go there."""
    is_verified: bool
    """Whether DVC hashes what it downloads from there."""

    def is_inside(self, root: Path) -> bool:
        """Return whether it is a folder of the workspace, which no clone shares."""
        return Path(self.url).is_relative_to(root.resolve())

    @property
    def shown(self) -> str:
        """Its name and place, for messages."""
        return f"{self.name} ({self.url})"


def read_remotes(root: Path) -> list[Remote]:
    """Return the remotes that DVC's configuration names, of Git and of this clone alone.

    Args:
        root: the workspace.
    """
    config = configuration(root)
    default = config["core"].get("remote")
    return [
        Remote(
            name,
            without_credentials(str(options["url"])),
            name == default,
            bool(options.get("verify")),
        )
        for name, options in config["remote"].items()
    ]


def configuration(root: Path) -> Config:
    """Return DVC's configuration; unlike a repository of DVC's it needs no Git.

    Args:
        root: the workspace.
    """
    from dvc.config import Config

    return Config(dvc_dir=str(root / ".dvc"))


def default_remote(root: Path) -> Remote | None:
    """Return the remote that pushes and pulls go to; None where none is set."""
    return next((remote for remote in read_remotes(root) if remote.is_default), None)


def fault_of(root: Path, remote: Remote) -> str | None:
    """Return why a remote cannot be used, in a line; None: it answers, or is an empty bucket.

    Args:
        root: the workspace.
        remote: one that its configuration names.
    """
    if (missing := _missing_module(remote)) is not None:
        return f"the Python module {missing} is not installed; {how_to_install(missing)}"
    try:
        with quiet_dvc():
            within(STORE_SECONDS, lambda: _ask(root, remote))
    except FileNotFoundError:
        return "there is no such folder"
    except TimeoutError:
        return f"gave no answer within {STORE_SECONDS:g} s"
    except Exception as error:  # of whichever library talks to it
        return missing_driver(error) or without_credentials(in_a_line(error))
    return None


def _missing_module(remote: Remote) -> str | None:
    """Return the module that DVC needs for a kind of remote, where it is not installed."""
    from dvc.fs import known_implementations

    kind = known_implementations.get(urlsplit(remote.url).scheme)
    if kind is None:
        return None
    try:
        importlib.import_module(str(kind["class"]).rpartition(".")[0])
    except ModuleNotFoundError as error:
        return str(error.name).partition(".")[0]
    return None


def _ask(root: Path, remote: Remote) -> None:
    """Look whether a remote is there.

    Raises:
        FileNotFoundError: it is a folder, and there is none.
        Exception: what the library that talks to it raises.
    """
    from dvc.fs import get_cloud_fs

    kind, options, path = get_cloud_fs(configuration(root), name=remote.name)
    is_there = kind(**options).exists(path)
    if kind.protocol == "local" and not is_there:
        raise FileNotFoundError(path)
