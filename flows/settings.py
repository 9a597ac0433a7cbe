"""Make ready settings the current ones: python -m flows.settings FILE."""

from __future__ import annotations

import sys
from pathlib import Path

from distillery.commands import surroundings
from distillery.errors import ParamsError
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params


def use(source: Path, root: Path) -> bool:
    """Copy settings to params.yaml; what stood there is kept as params.yaml.bak.

    Args:
        source: the settings to use.
        root: the workspace.

    Returns:
        Whether former settings were kept aside.

    Raises:
        ParamsError: the settings are missing or cannot be used; nothing was changed.
    """
    Params.load(source)
    target = root / PARAMS_FILE
    content = source.read_bytes()
    former = target.read_bytes() if target.exists() else content
    if former != content:
        write_bytes(target.with_name(f"{target.name}.bak"), former)
    write_bytes(target, content)
    return former != content


def main() -> int:
    """Use the settings that the command line names and return the exit status."""
    surroundings.settle()
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.stderr.write("error: which settings? make settings FROM=examples/an4.yaml\n")
        return 2
    try:
        kept = use(Path(sys.argv[1]), Path.cwd())
    except ParamsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    aside = "; the former ones are in params.yaml.bak" if kept else ""
    sys.stdout.write(f"params.yaml now holds {sys.argv[1]}{aside}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
