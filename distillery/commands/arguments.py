"""Arguments that several commands take."""

from __future__ import annotations

from argparse import ArgumentParser


def add_version(command: ArgumentParser) -> None:
    """Let a command name the registered version that it is about."""
    command.add_argument(
        "--version",
        metavar="VERSION",
        help="a number, an alias or models:/NAME/VERSION; by default the champion",
    )
