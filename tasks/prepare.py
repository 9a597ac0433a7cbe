"""Stage `prepare`: a corpus becomes data/prepared/."""

import logging
from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED, SPLITS_FILE
from distillery.errors import ParamsError
from distillery.params.file import PARAMS_FILE
from distillery.params.rules import needs_transcripts
from distillery.params.stages import PrepareStageParams
from distillery.prepare import prepare as preparation
from distillery.prepare.kept import keep_splits_of
from distillery.prepare.source import source_fault
from tasks.stage import run_stage

logger = logging.getLogger(__name__)


def prepare(root: Path) -> None:
    """Prepare the corpus that params.yaml names.

    Args:
        root: the workspace: params.yaml is read there, data/prepared and data/splits.csv written.

    Raises:
        ParamsError: the settings cannot be used, or the corpus lies where stages write.
    """
    everything = PrepareStageParams.load(root / PARAMS_FILE)
    settings, folder = everything.prepare, root / PREPARED
    if fault := source_fault(root, settings.source):
        raise ParamsError(fault)
    if not (root / SPLITS_FILE).exists():  # DVC has removed what it keeps no such file of
        keep_splits_of(folder, root / SPLITS_FILE)
    preparation.prepare(
        settings,
        root / settings.source,
        folder,
        root / "reports",
        decisions=root / SPLITS_FILE,
        needs_truth=needs_transcripts(everything.teacher),
    )
    caution = preparation.too_little_to_learn(PreparedData.open(folder))
    if caution and everything.teacher.kind == "trained":
        logger.warning("%s", caution)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(prepare, Path.cwd())


if __name__ == "__main__":
    main()
