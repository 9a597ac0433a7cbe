"""Which columns a user's manifest has, and what those may mean that it names in another way.

A column that is not there is no fault by itself: recordings for a teacher that others trained have
no text, and most corpora no expected phrases. One that is there under a name nobody reads would be
passed over in silence, so names that look like ours are told.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection
from pathlib import Path

from distillery.errors import ManifestError

COLUMNS = ("path", "text", "speaker", "split", "utterance_id", "expected")
COLUMNS_WANTED = "path[, text, speaker, split, utterance_id, expected]"
PATHS = ("path", "audio_filepath")
"""Columns with a recording's path; the second is NeMo's."""
READ = {*COLUMNS, *PATHS, "offset", "duration"}
MEANT = {
    "text": {
        "label", "labels", "normalized_text", "raw_text", "reference", "sentence", "sentences",
        "transcript", "transcription", "transcriptions", "transcripts", "txt", "words",
    },
    "speaker": {"client_id", "speaker_id", "spk", "spk_id", "spkr"},
    "split": {"partition", "set", "subset"},
    "utterance_id": {"id", "utt", "utt_id"},
    "expected": {"expect", "keywords", "phrases", "slots"},
}  # fmt: skip
"""What others call our columns."""
ALIKE = 0.8
"""Share of equal letters from which on a name is taken for a slip of the pen."""

logger = logging.getLogger(__name__)


def check_columns(file: Path, found: Collection[str]) -> None:
    """Make sure that a manifest names recordings, and that its texts are not passed over.

    Args:
        file: for messages.
        found: its columns, in its order.

    Raises:
        ManifestError: there is no path; or no `text`, but a column that looks like it.
    """
    columns = [str(name) for name in found]
    if not set(PATHS) & set(columns):
        raise ManifestError(
            f"{file}: column 'path' is missing, found columns {columns}, expected "
            f"{COLUMNS_WANTED}; add it"
        )
    if "text" not in columns:
        if alike := _like("text", columns):
            raise ManifestError(
                f"{file}: column 'text' is missing, found columns {columns}, of which "
                f"{alike[0]!r} looks like it; rename it to text, or to anything else if it holds "
                "no transcripts"
            )
        logger.info("%s: no column text: none of its recordings has a transcript", file)
    for column in COLUMNS[2:]:
        if column not in columns and (alike := _like(column, columns)):
            logger.warning(
                "warning: %s: column %r is not read; if it is %s, call it so",
                file,
                alike[0],
                column,
            )


def _like(wanted: str, columns: Collection[str]) -> list[str]:
    """Return the columns that nobody reads and that look like one which is not there."""
    found = []
    for name in columns:
        plain = name.strip().lower().replace("-", "_").replace(" ", "_")
        if name in READ or plain in READ - {wanted}:
            continue
        slip = bool(difflib.get_close_matches(plain, [wanted], cutoff=ALIKE))
        if plain == wanted or slip or plain in MEANT[wanted]:
            found.append(name)
    return found
