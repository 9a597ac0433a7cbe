"""A recording to try things with: `distillery sample [INDEX]`."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from distillery.data.workspace import PREPARED
from distillery.errors import CorpusError
from distillery.files import write_bytes

SPLIT = "test"
SAMPLE_FILE = "sample.wav"


def add_commands(commands: Any) -> None:
    """Add the command to a parser's list of them."""
    command = commands.add_parser(
        "sample",
        help="a clip of the test split as a recording to try things with",
        description=f"Write one clip of the prepared {SPLIT} split to {SAMPLE_FILE}, 16-bit WAV, "
        "and print its transcript as `distillery transcribe` would.",
    )
    command.add_argument(
        "index", nargs="?", type=int, default=0, metavar="INDEX", help="which clip (default: 0)"
    )
    command.set_defaults(run=_run)


def write_sample(root: Path, index: int) -> str:
    """Write a clip of the test split to `sample.wav` and return FILE<TAB>transcript.

    Args:
        root: the workspace, whose data are prepared.
        index: of the clip, in the manifest's order, from 0.

    Raises:
        ManifestError: the data are not prepared, or damaged.
        CorpusError: the split has no such clip.
    """
    import soundfile

    from distillery.data.manifest import PreparedData

    data = PreparedData.open(root / PREPARED)
    rows = data.split(SPLIT)
    if not 0 <= index < len(rows):
        raise CorpusError(f"clip {index}: the {SPLIT} split has {len(rows)}, counted from 0")
    row = next(rows.iloc[[index]].itertuples())
    content = io.BytesIO()
    soundfile.write(content, data.samples(row), data.sample_rate_hz, format="WAV", subtype="PCM_16")
    write_bytes(root / SAMPLE_FILE, content.getvalue())
    text = row.text if isinstance(row.text, str) else "(no transcript)"
    return f"{SAMPLE_FILE}\t{text}"


def _run(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{write_sample(Path.cwd(), options.index)}\n")
    return 0
