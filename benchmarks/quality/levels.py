"""How quiet real speech is: what `prepare.min_level_db` is chosen by.

    python -m benchmarks.quality.levels FOLDER …

A row for each folder of recordings: the level of its quietest one, around the mean and below full
scale, beside those of recordings that hold no speech. Rows go to benchmarks/results/levels.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import report, row
from distillery.corpora.lists import visible_files
from distillery.data.audio import AUDIO_SUFFIXES, decode
from distillery.params.prepare import PrepareParams
from distillery.prepare.levels import measure

SPOKEN = "the quietest recording"
MARGIN_DB = 6.0


def measured(folder: Path) -> dict[str, Any]:
    """Return the row of one corpus."""
    limit = PrepareParams.model_fields["min_level_db"].default
    paths = [path for path in visible_files(folder, "**/*") if path.suffix in AUDIO_SUFFIXES]
    levels = [measure(*decode(path)) for path in paths]
    sound = np.array([level.sound_dbfs for level in levels])  # (recordings,)
    return row(
        f"{SPOKEN}, {folder.name}",
        sound.min(),
        "dB below full scale",
        f"at least {MARGIN_DB:g} dB above prepare.min_level_db, {limit:g}",
        sound.min() >= limit + MARGIN_DB,
        f"{len(paths)} recordings, median {np.median(sound):.1f}; at most "
        f"{max(abs(level.dc_offset) for level in levels):.1%} offset and "
        f"{max(level.clipped_fraction for level in levels):.2%} clipped",
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    report("levels", [measured(folder) for folder in parser.parse_args().folders])


if __name__ == "__main__":
    main()
