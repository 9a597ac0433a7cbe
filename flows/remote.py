"""One DVC remote for all clones of a project: python -m flows.remote URL."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from distillery.credentials import line_with_credentials, without_credentials
from distillery.errors import DistilleryError, StageError
from flows import environment
from flows.stages.remote import Remote, configuration, default_remote, fault_of

NAME = "shared"


def main(arguments: list[str] | None = None) -> int:
    """Set the remote of the current folder's project, and return 1 if it cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description=__doc__)
    parser.add_argument("url", help="a folder, ssh://HOST/FOLDER, s3://BUCKET/PREFIX, …")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    environment.apply(root)
    try:
        remote = set_remote(root, options.url)
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    fault = fault_of(root, remote)
    sys.stdout.write(
        f"{remote.shown}: {fault or 'can be reached'}\n"
        ".dvc/config names it, with verify = true. "
        "Commit that file, so that every clone has it; then run dvc push\n"
    )
    return 1 if fault else 0


def set_remote(root: Path, url: str) -> Remote:
    """Write a remote into .dvc/config, as the default, and return it.

    Args:
        root: the workspace.
        url: a folder, which every clone must see at the same path, or an address.

    Raises:
        StageError: the address holds credentials.
    """
    if line_with_credentials(url) is not None:
        raise StageError(
            f"{without_credentials(url)}: the address holds credentials, expected none, for "
            ".dvc/config is in Git; leave them out, then `dvc remote modify --local "
            f"{NAME} password …` keeps them in this clone"
        )
    options = {"url": url, "verify": "true"}
    if "://" not in url:
        options["url"] = os.path.normpath(
            Path(url).expanduser().absolute()
        )  # the same for every clone
        options["shared"] = "group"  # or one could not write beside what another has pushed
    with configuration(root).edit("repo") as config:
        config["remote"][NAME] = options
        config["core"]["remote"] = NAME
    remote = default_remote(root)
    assert remote is not None  # it has just been written
    return remote


if __name__ == "__main__":
    sys.exit(main())
