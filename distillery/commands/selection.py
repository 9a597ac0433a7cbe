"""Which recordings to transcribe next, as a table to fill in: `distillery select [N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.data.workspace import PREPARED, STUDENTS, TEACHER_CACHE
from distillery.errors import CorpusError, ManifestError
from distillery.files import write_bytes

if TYPE_CHECKING:
    from distillery.models.recogniser import Recogniser

COUNT = 50
OUT_FILE = "to-transcribe.csv"


def add_commands(commands: Any) -> None:
    """Add the command to a parser's list of them."""
    command = commands.add_parser(
        "select",
        help="which recordings a person should transcribe next, as a table to fill in",
        description="Choose untranscribed training recordings by the teacher's confidence, by how "
        "far teacher and students differ, and by how new text and speaker are; write a table with "
        "the teacher's text as a proposal and an empty column `text`. Filled in and put into the "
        "corpus folder, prepare.transcripts reads it.",
    )
    command.add_argument(
        "count",
        nargs="?",
        type=_positive,
        default=COUNT,
        metavar="N",
        help="how many (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path(OUT_FILE),
        metavar="FILE",
        help="the table, CSV (default: %(default)s)",
    )
    command.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of recordings, expected 1 or more")
    return int(text)


def select(root: Path, count: int, out: Path) -> list[str]:
    """Write the recordings that are worth transcribing, and return what a person should know.

    Args:
        root: the workspace, whose cache is filled.
        count: how many.
        out: the table.

    Raises:
        ManifestError: the data are not prepared, or the table holds transcripts already.
        CorpusError: every recording has a transcript, or the table cannot be written there.
        CacheError: the cache is not filled.
    """
    _check_place(out)
    from distillery.data.manifest import PreparedData
    from distillery.studies.selection import as_csv, choose, find_candidates
    from distillery.teacher_cache.store import TeacherCache

    data = PreparedData.open(root / PREPARED)
    cache = TeacherCache.open_current(root / TEACHER_CACHE)
    students = _students(root / STUDENTS, data.sample_rate_hz)
    candidates = find_candidates(data, cache, students)
    train = data.split("train")
    picks = choose(candidates, count, train[train["text"].notna()])
    write_bytes(out, as_csv(picks))
    seconds = sum(pick.candidate.seconds for pick in picks)
    speakers = {pick.candidate.speaker for pick in picks} - {None}
    by = f" by {len(speakers)} speakers" if speakers else ""
    found = ", ".join(students) if students else "none is trained yet, so by the teacher alone"
    return [
        f"{out}: {len(picks)} of {len(candidates)} recordings without a transcript, "
        f"{seconds / 60:.1f} minutes{by}; students that were asked: {found}",
        "fill in the column text, put the file into the corpus folder, name it in "
        "prepare.transcripts and run make run",
    ]


def _check_place(out: Path) -> None:
    """Make sure that nobody's work is overwritten.

    Raises:
        ManifestError: the table holds transcripts, or is none.
        CorpusError: the folder is missing.
    """
    from distillery.corpora.manifest import cell, read_rows

    if not out.parent.is_dir() or out.is_dir() or out.suffix.lower() != ".csv":
        raise CorpusError(f"{out}: expected a file FILE.csv in a folder that is there; correct it")
    if not out.exists():
        return
    filled = sum(cell(row, "text") is not None for row in read_rows(out))
    if filled:
        raise ManifestError(
            f"{out}: {filled} transcripts are filled in already, expected none where a new table "
            "goes; put it into the corpus folder and name it in prepare.transcripts, or take "
            "another name, OUT=other.csv"
        )


def _students(folder: Path, sample_rate_hz: int) -> dict[str, Recogniser]:
    """Return the trained students that hear such audio, by name and seed."""
    from distillery.architectures.known import ARCHITECTURES
    from distillery.models.recogniser import WEIGHTS_FILE, Recogniser

    found = {}
    for weights in sorted(folder.glob(f"*/*/{WEIGHTS_FILE}")):
        model = Recogniser.load(weights.parent, ARCHITECTURES)
        if model.sample_rate_hz == sample_rate_hz:
            found[weights.parent.relative_to(folder).as_posix()] = model
    return found


def _run(options: argparse.Namespace) -> int:
    for line in select(Path.cwd(), options.count, options.out):
        sys.stdout.write(f"{line}\n")
    return 0
