"""Stage `fetch`: registered models that the settings name are here, whole, and the right ones.

It talks to no registry: the flow and `make fetch` do, before DVC runs this. Beside the models it
lays down which code each model of this workspace has to itself, see code.py, and which of the
teacher's hidden layers students learn from, so that the stage `cache` is due when these change and
no other setting of students.
"""

from __future__ import annotations

import logging
from pathlib import Path

from distillery.files import write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import FetchStageParams
from distillery.tracking.fetched import REGISTERED, tidy
from tasks.code import write_code
from tasks.stage import LEARNT_LAYERS_FILE, run_stage

logger = logging.getLogger(__name__)


def fetch(root: Path) -> None:
    """Check models/registered under `root`, and write models/code and learnt_layers.json.

    Raises:
        StageError: a model has not been fetched.
        ModelError: one is damaged, or of an architecture that is not known here.
    """
    settings = FetchStageParams.load(root / PARAMS_FILE)
    found = tidy(root, settings.teacher, settings.distill, settings.register.decoder)
    for reader, source in found.items():
        logger.info("%s: %s, version %s", reader, source.model, source.version)
    write_code(root, settings.teacher, settings.distill, root / REGISTERED)
    write_json(root / LEARNT_LAYERS_FILE, list(settings.distill.teacher_layers))


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(fetch, Path.cwd())


if __name__ == "__main__":
    main()
