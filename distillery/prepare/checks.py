"""What prepared data must be, or the stage fails and leaves the former data as they were."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from distillery.data.manifest import DROPPED_FILE, SPLITS
from distillery.errors import CorpusError
from distillery.files import write_bytes
from distillery.params.alphabets import BEYOND_LATIN
from distillery.params.prepare import PrepareParams
from distillery.prepare.packing import Drop, Packing
from distillery.prepare.rows import Rows

NUM_EXAMPLES = 3
NEEDED_FOR = {
    "valid": "validation chooses each model's best epoch",
    "test": "models are compared on the test split",
}


def check_drops(
    dropped: Sequence[Drop], num_recordings: int, max_fraction: float, reports: Path
) -> None:
    """Refuse a corpus of which too much was dropped; the whole list goes into `reports`.

    Raises:
        CorpusError: it was.
    """
    if len(dropped) <= max_fraction * num_recordings:
        return
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / DROPPED_FILE
    write_bytes(path, as_csv(dropped))
    lines = []
    for reason, count in sorted(Counter(drop.reason for drop in dropped).items()):
        examples = [drop for drop in dropped if drop.reason == reason][:NUM_EXAMPLES]
        lines.append(f"  {reason}: {count}")
        lines.extend(f"    {drop.utterance_id}: {drop.detail}" for drop in examples)
    raise CorpusError(
        f"{len(dropped)} of {num_recordings} utterances were dropped, "
        f"prepare.max_dropped_fraction allows {max_fraction:g}; all of them are listed in {path}. "
        "Repair the corpus, change prepare's settings, or raise that fraction\n" + "\n".join(lines)
    )


def check_splits(rows: Rows, *, needs_truth: bool = True) -> None:
    """Refuse data without training, or that no model could be validated or tested on.

    Args:
        rows: what was kept.
        needs_truth: whether validation and test must say what is spoken; else the teacher's texts
            stand for that.

    Raises:
        CorpusError: a split is empty, or validation or test has neither transcripts nor phrases.
    """
    counts = Counter(rows.column("split"))
    if empty := [split for split in SPLITS if not counts[split]]:
        found = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        settings = " and ".join(
            f"prepare.{split}_fraction" for split in ("valid", "test") if split in empty
        )
        advice = f"raise {settings}" if settings else "lower valid_fraction and test_fraction"
        advice += ", or add data"
        if sum(counts.values()) < len(SPLITS):
            advice += f" ({len(SPLITS)} recordings at least; prepare.segment cuts long ones)"
        raise CorpusError(
            f"split {' and '.join(empty)}: no utterances (found {found}), expected some in each; "
            f"{advice}"
        )
    shown = rows.columns("split", "text", "expected")
    transcribed = Counter(split for split, words, phrases in shown if words or phrases)
    if needs_truth and (bare := [split for split in ("valid", "test") if not transcribed[split]]):
        found = ", ".join(f"{split} {transcribed[split]} of {counts[split]}" for split in SPLITS)
        raise CorpusError(
            f"split {' and '.join(bare)}: no transcribed utterance (found {found}), expected at "
            f"least one: {' and '.join(NEEDED_FOR[split] for split in bare)}. Add transcripts, "
            "or leave the split of transcribed utterances to prepare; or take a teacher that "
            "others trained, whose texts then stand for transcripts: docs/teachers.md"
        )


def check_labels(packing: Packing, labelled_fraction: float) -> None:
    """Refuse a share that leaves a transcribed corpus without any training transcript.

    Raises:
        CorpusError: it does.
    """
    hidden = packing.num_hidden_transcripts
    said = packing.rows.columns("split", "text")
    labelled = (split == "train" and words is not None for split, words in said)
    if labelled_fraction and hidden and not any(labelled):
        raise CorpusError(
            f"split train: prepare.labelled_fraction {labelled_fraction:g} keeps none of its "
            f"{hidden} transcripts, expected at least one; raise that fraction, or set it to 0"
        )


def check_alphabet(params: PrepareParams, num_transcripts: int) -> None:
    """Refuse to take the alphabet from transcripts where there are none to take it from.

    Args:
        params: the section `prepare`.
        num_transcripts: training transcripts that may be looked at.

    Raises:
        CorpusError: there are none, and the settings do not say what letters there are.
    """
    if num_transcripts or params.alphabet_without_texts is not None:
        return
    named = "is null" if params.language is None else f"of {params.language!r} is not listed"
    raise CorpusError(
        f"prepare.alphabet {named}, and no training transcript shows what letters there are; set "
        f"prepare.language to one of {', '.join(sorted(BEYOND_LATIN))}, or write the characters of "
        "the texts into prepare.alphabet"
    )


def as_csv(dropped: Iterable[Drop]) -> bytes:
    """Return dropped.csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("utterance_id", "source_path", "reason", "detail"))
    writer.writerows((d.utterance_id, d.source_path, d.reason, d.detail) for d in dropped)
    return buffer.getvalue().encode()
