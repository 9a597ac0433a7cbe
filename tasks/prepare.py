"""Stage `prepare`: a corpus becomes data/prepared/."""

import logging
from pathlib import Path

from distillery import params, preparation


def prepare(root: Path) -> None:
    """Prepare the corpus that params.yaml names.

    Args:
        root: the workspace: params.yaml is read there, data/prepared written.
    """
    settings = params.load(root / params.PARAMS_FILE).prepare
    preparation.prepare(
        settings, root / settings.source, root / "data" / "prepared", root / "reports"
    )


def main() -> None:
    """Prepare the corpus of the working folder."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    prepare(Path.cwd())


if __name__ == "__main__":
    main()
