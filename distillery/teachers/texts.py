"""Texts as a teacher: what any recogniser wrote of the corpus's recordings, from a file or folder.

The recogniser need not be here. What it wrote is read once (written_files.py), given to prepared
utterances by key, id or path (written_names.py), spelt as the corpus is (written.py), and kept by
audio key in the saved teacher's texts.jsonl. A recording without a text has no hypothesis: the
empty one with confidence 0. A changed file is another teacher.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distillery.data.manifest import SPLITS, PreparedData
from distillery.data.spelling import writes_small_letters
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, digest_of_tree, read_json, write_bytes, write_json
from distillery.models.recogniser import CONFIG_FILE, TOKENS_FILE
from distillery.params.teacher import TextsTeacherParams
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.text_only import NOTHING, TextOnlyTeacher, key_of
from distillery.teachers.written import Spelling, Spelt, spell_answer
from distillery.teachers.written_files import Written, read_written
from distillery.teachers.written_names import Matched, match_written, some

KIND = "texts"
TEXTS_FILE = "texts.jsonl"
SETTING = "teacher.file"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextsArchitecture:
    """What stands for a network: nothing but the kind."""

    type: str = KIND


@dataclass(frozen=True)
class TextsSettings:
    """What config.json of such a teacher holds."""

    sample_rate_hz: int
    """Of the corpus that it was prepared for."""
    spelling: Spelling
    """How its texts were spelt."""
    architecture: TextsArchitecture = TextsArchitecture()
    kind: str = KIND


@dataclass(frozen=True)
class _Line:
    """One line of texts.jsonl."""

    key: str
    hypotheses: Sequence[tuple[str, float]]
    confidence: float


class TextsTeacher(TextOnlyTeacher):
    """Texts by audio key."""

    def __init__(
        self, settings: TextsSettings, texts: Mapping[str, Spelt], vocabulary: Vocabulary
    ) -> None:
        """Put the parts together.

        Args:
            settings: what config.json is to hold.
            texts: by audio key, spelt as the corpus is.
            vocabulary: the students' tokens.
        """
        super().__init__(vocabulary, settings.sample_rate_hz)
        self.settings, self.texts = settings, texts

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return asdict(self.settings)

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all texts, by audio key."""
        return hashlib.sha256(self._lines).hexdigest()

    def say(self, waveforms: Sequence[np.ndarray]) -> list[Spelt]:
        """Return the text of each recording `(samples,)`, nothing of those that have none."""
        return [self.texts.get(key_of(waveform), NOTHING) for waveform in waveforms]

    def lacks(self, waveforms: Sequence[np.ndarray]) -> list[bool]:
        """Return which recordings `(samples,)` have no text."""
        return [key_of(waveform) not in self.texts for waveform in waveforms]

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; equal teachers give equal bytes."""
        write_bytes(folder / TEXTS_FILE, self._lines)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    @property
    def _lines(self) -> bytes:
        lines = (
            _Line(key, spelt.hypotheses, spelt.confidence)
            for key, spelt in sorted(self.texts.items())
        )
        return "".join(
            json.dumps(asdict(line), sort_keys=True, ensure_ascii=False) + "\n" for line in lines
        ).encode()


def take_texts(params: TextsTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return what a recogniser wrote as the teacher, and tell what is missing and what is over.

    Raises:
        ModelError: the file is not there or cannot be used, or nothing in it belongs to the corpus.
    """
    path = place.root / params.file
    written = read_written(path, SETTING)
    data = place.data
    matched = match_written(written, data)
    if not matched.written:
        raise ModelError(
            f"{SETTING}: {path} holds {len(written)} texts, none for any of the {len(data.frame)} "
            f"prepared utterances; its names are {some([item.name for item in written])}, the "
            f"corpus's {some(list(data.frame['source_path']))}; expected audio keys, utterance ids "
            "or paths in the corpus"
        )
    best = (item.answer.hypotheses[0][0] for item in written)
    spelling = Spelling(data.spelling, writes_small_letters(best), params.unknown_confidence)
    texts = {
        key: spell_answer(item.answer, spelling, data.vocabulary)
        for key, item in matched.written.items()
    }
    missing = _tell(path, written, matched, texts, data)
    source = {
        "file": params.file,
        "sha256": digest_of_tree(path),
        "texts": len(written),
        "without_text": missing,
        "matching_nothing": len(matched.strangers),
        "of_dropped_utterances": len(matched.dropped),
        "ambiguous": len(matched.ambiguous),
    }
    teacher = TextsTeacher(TextsSettings(data.sample_rate_hz, spelling), texts, data.vocabulary)
    return ReadyTeacher(teacher, source=source)


def _tell(
    path: Path,
    written: Sequence[Written],
    matched: Matched,
    texts: Mapping[str, Spelt],
    data: PreparedData,
) -> dict[str, int]:
    """Log what has a text and what has none; return how many utterances of each split lack one."""
    missing = {}
    for split in SPLITS:
        rows = data.split(split)
        lacking = rows[~rows["audio_key"].isin(texts.keys())]
        missing[split] = len(lacking)
        logger.info(
            "teacher: %s: %d of %d utterances of split %s have a text",
            path,
            len(rows) - len(lacking),
            len(rows),
            split,
        )
        if len(lacking):
            logger.warning(
                "teacher: %s: no text for %d utterances of split %s (%s); %s",
                path,
                len(lacking),
                split,
                some(list(lacking["utterance_id"])),
                _WITHOUT_TEXT[split],
            )
    for names, why in (
        (matched.strangers, "match no utterance"),
        (matched.ambiguous, "match several utterances, so write utterance_id or audio_key instead"),
        (matched.dropped, "belong to utterances that prepare dropped (data/prepared/dropped.csv)"),
    ):
        if names:
            logger.warning(
                "teacher: %s: %d of %d texts %s: %s",
                path,
                len(names),
                len(written),
                why,
                some(names),
            )
    strange = {key: spelt.unknown for key, spelt in texts.items() if spelt.unknown}
    if strange:
        logger.warning(
            "teacher: %s: %d texts hold characters that prepare.alphabet lacks (%s); they are no "
            "hypotheses, such as %r",
            path,
            len(strange),
            " ".join(sorted(frozenset().union(*strange.values()))),
            matched.written[next(iter(strange))].answer.hypotheses[0][0],
        )
    return missing


_WITHOUT_TEXT = {
    "train": "they have no hypothesis of the teacher's, and distill.filter drops them",
    "valid": "the teacher's own errors are counted over the others",
    "test": "in the evaluation it says nothing there; let the recogniser write those, too",
}


def load(folder: Path, device: str) -> TextsTeacher:
    """Load a saved teacher; the file that it was made from is not needed, nor a device.

    Raises:
        ModelError: a file is missing or damaged.
    """
    path = folder / TEXTS_FILE
    try:
        settings = read_json(folder / CONFIG_FILE, TextsSettings)
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        texts = {
            str(line["key"]): Spelt(
                tuple((str(text), float(score)) for text, score in line["hypotheses"]),
                float(line["confidence"]),
            )
            for line in lines
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    return TextsTeacher(settings, texts, Vocabulary.load(folder / TOKENS_FILE))
