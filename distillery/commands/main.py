"""The command `distillery`: transcribe and score recordings, name the champion, keep the cache."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping

from distillery.commands import surroundings
from distillery.errors import DistilleryError

EXIT_USAGE = 2
COMMANDS: Mapping[str, str] = {
    "transcribe": "transcribe",
    "sample": "sample",
    "score": "score",
    "export": "export",
    "page": "package",
    "package": "package",
    "select": "selection",
    "champion": "champion",
    "promote": "champion",
    "rollback": "champion",
    "cache": "cache",
}
"""The module of this folder that adds each command. One alone is imported where it is named: the
others bring pandas and more, which the text of a recording should not wait for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    surroundings.settle()
    parser = argparse.ArgumentParser(prog="distillery", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else arguments
    named = [COMMANDS[word] for word in given[:1] if word in COMMANDS]
    for module in named or dict.fromkeys(COMMANDS.values()):
        importlib.import_module(f"distillery.commands.{module}").add_commands(commands)
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
