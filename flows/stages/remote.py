"""Where DVC keeps what others are to have as well: the remotes that a workspace is set up with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.credentials import without_credentials
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

    A server that does not answer at all may take minutes.

    Args:
        root: the workspace.
        remote: one that its configuration names.
    """
    from dvc.fs import get_cloud_fs

    try:
        with quiet_dvc():
            kind, options, path = get_cloud_fs(configuration(root), name=remote.name)
            is_there = kind(**options).exists(path)
            is_folder = kind.protocol == "local"
    except Exception as error:  # of whichever library talks to it
        return without_credentials(f"{error or type(error).__name__}".partition("\n")[0])
    return "there is no such folder" if is_folder and not is_there else None
