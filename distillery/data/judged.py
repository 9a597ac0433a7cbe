"""What the teacher wrote of validation and test, where nobody else says what is spoken there.

The stage `teacher` lets it hear these splits once and keeps the texts in models/teacher, beside its
validation error rate; whoever judges models reads them from there. A rate that was counted so is
called `WER vs teacher` everywhere, see `distillery.data.units`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.files import Json, read_json

VALIDATION_FILE = "validation.json"
JUDGED_SPLITS = ("valid", "test")


@dataclass(frozen=True)
class ValidationResult:
    """What validation.json says, beside a saved teacher."""

    wer: float | None
    """Share of errors on the validation utterances whose words or phrases are known, as a fraction;
    None where there are none, so that its own texts are the truth."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What it wrote of splits that say nothing of what is spoken, by audio key; texts without a
    word are left out. In the file only where there are such splits."""

    @property
    def entries(self) -> Json:
        """What the file holds."""
        return {"wer": self.wer, **({"texts": dict(self.texts)} if self.texts else {})}


def splits_without_truth(data: PreparedData) -> list[str]:
    """Return which of validation and test hold neither transcripts nor expected phrases."""
    return [split for split in JUDGED_SPLITS if data.lacks_truth(split)]


def judged(data: PreparedData, teacher: Path) -> PreparedData:
    """Return prepared data whose splits models can be judged on.

    Args:
        data: prepared data; returned as they are where nothing is missing.
        teacher: folder of the saved teacher, whose texts stand for what is missing.

    Raises:
        ModelError: it has none, for it was made of other data.
    """
    bare = splits_without_truth(data)
    if not bare:
        return data
    path = teacher / VALIDATION_FILE
    try:
        texts = read_json(path, ValidationResult).texts
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    for split in bare:
        if not data.split(split)["audio_key"].isin(list(texts)).any():
            raise ModelError(
                f"{path}: holds no text of split {split}, which says nothing of what is spoken "
                "there, expected what the teacher wrote; run make teacher"
            )
    return replace(data, teacher_texts=texts)
