"""Stage `prepare`: a corpus becomes data/prepared/."""

from pathlib import Path

from distillery import params, preparation
from tasks.stage import run_stage


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
    """Run the stage in the current folder."""
    run_stage(prepare, Path.cwd())


if __name__ == "__main__":
    main()
