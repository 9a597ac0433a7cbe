"""A corpus into prepared data: decode, resample, normalise, split, drop with a reason, pack.

A few threads decode ahead of the packing (packing.py), which takes the test split first, then
validation, then training, each in the order of its utterance ids: equal input gives equal bytes,
whatever order the file system lists it in.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.corpora.base import UTTERANCE_ID_PATTERN, Recording
from distillery.corpora.known import CORPORA
from distillery.data import text
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.manifest import (
    DROPPED_FILE,
    MANIFEST_FILE,
    SPLITS,
    SUMMARY_FILE,
    PreparedData,
    SplitCounts,
    Summary,
)
from distillery.data.units import Unit, unit_of
from distillery.errors import CorpusError
from distillery.files import whole_folder, write_bytes, write_json
from distillery.params.prepare import PrepareParams
from distillery.prepare.decoding import decode_ahead
from distillery.prepare.packing import SCHEMA, Drop, Packing, Row, in_packing_order
from distillery.prepare.profile import write_profile
from distillery.prepare.splits import assign_splits

NUM_WORKERS = 2
SEGMENTS_FOLDER = ".segments"
CHANNELS_FILE = "channels.csv"
"""Recordings whose channels do not mix well; written only where there are any."""
NUM_EXAMPLES = 3
LITTLE_SECONDS = 300.0
"""Transcribed training audio below which a teacher that is trained here hardly learns.

92 utterances of AN4, some five minutes, made a teacher of 57 % WER, with copies at eight other
speeds; all 770 made one of 14 % (`quality_an4_partly.json` and `quality_an4_all.json` in
benchmarks/results).
"""

logger = logging.getLogger(__name__)


def prepare(
    params: PrepareParams,
    source: Path,
    folder: Path,
    reports: Path,
    num_workers: int = NUM_WORKERS,
) -> Summary:
    """Write prepared data and return its summary.

    Args:
        params: the section `prepare`.
        source: the corpus folder (or grammar file).
        folder: where prepared data goes; replaced whole, or left as it was when this fails.
        reports: where the list of dropped utterances goes when there are too many.
        num_workers: threads that decode.

    Raises:
        CorpusError: the corpus is missing or contradicts itself, too many utterances were dropped,
            or a split is empty.
        ManifestError: the user's manifest breaks its contract.
    """
    recordings = read_recordings(params, source)
    splits, split_rule = assign_splits(recordings, params.valid_fraction, params.test_fraction)
    with whole_folder(folder) as temporary:
        packing = Packing(params, temporary)
        with packing.shards:
            waiting = temporary / SEGMENTS_FOLDER
            waiting.mkdir()
            for recording, decoded in decode_ahead(
                in_packing_order(recordings, splits), params, num_workers, waiting
            ):
                packing.add(recording, splits[recording.utterance_id], decoded)
            waiting.rmdir()
        dropped = sorted(packing.dropped, key=lambda drop: drop.utterance_id)
        _check_drops(dropped, len(recordings), params.max_dropped_fraction, reports)
        _check_splits(packing.rows)
        _check_labels(packing, params.labelled_fraction)
        summary = _summarise(params, packing, dropped, split_rule)
        _write_manifest(temporary / MANIFEST_FILE, packing.rows)
        write_bytes(temporary / DROPPED_FILE, _as_csv(dropped))
        if packing.cautions:
            write_bytes(temporary / CHANNELS_FILE, _cautions_as_csv(packing.cautions))
        write_json(temporary / SUMMARY_FILE, summary.entries)
        write_profile(temporary, packing.profile.profile())
    _log_summary(summary)
    if packing.cautions:
        logger.warning("%s", _caution_of_channels(packing.cautions, folder / CHANNELS_FILE))
    return summary


def too_little_to_learn(data: PreparedData) -> str | None:
    """Return a caution where the training split holds too few transcripts for a trained teacher.

    It is none where pre-trained teachers bring what they know.
    """
    rows = data.split("train")
    seconds = float(rows.loc[rows["text"].notna(), "duration_seconds"].sum())
    if seconds >= LITTLE_SECONDS:
        return None
    return (
        f"warning: split train holds {seconds / 60:.1f} minutes of transcribed audio, too little "
        f"for a teacher of kind trained: expected {LITTLE_SECONDS / 60:.0f} or more (92 utterances "
        "of AN4, some five minutes, made one of 57 % WER, all 770 one of 14 %); add transcripts, "
        "or take a teacher that others trained: docs/teachers.md"
    )


def read_recordings(params: PrepareParams, source: Path) -> list[Recording]:
    """Return a corpus's recordings in the order of their ids, which are checked.

    Raises:
        CorpusError: the corpus is missing, an id is unfit for a file name, or ids repeat.
    """
    recordings = sorted(CORPORA[params.corpus](params, source), key=lambda item: item.utterance_id)
    if not recordings:
        raise CorpusError(f"corpus {params.corpus}: {source} holds no recordings")
    for recording in recordings:
        if not re.fullmatch(UTTERANCE_ID_PATTERN, recording.utterance_id):
            raise CorpusError(
                f"corpus {params.corpus}: utterance {recording.utterance_id!r} "
                f"({recording.source_path}): expected an id of the form {UTTERANCE_ID_PATTERN}"
            )
    for first, second in itertools.pairwise(recordings):
        if first.utterance_id == second.utterance_id:
            raise CorpusError(
                f"corpus {params.corpus}: utterance {first.utterance_id!r} occurs twice "
                f"({first.source_path} and {second.source_path}); ids must be unique"
            )
    return recordings


# --- what is written and checked at the end ----------------------------------------------------


def _check_drops(
    dropped: Sequence[Drop], num_recordings: int, max_fraction: float, reports: Path
) -> None:
    if len(dropped) <= max_fraction * num_recordings:
        return
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / DROPPED_FILE
    write_bytes(path, _as_csv(dropped))
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


def _check_splits(rows: Sequence[Row]) -> None:
    counts = Counter(row.split for row in rows)
    if empty := [split for split in SPLITS if not counts[split]]:
        found = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        settings = " and ".join(
            f"prepare.{split}_fraction" for split in ("valid", "test") if split in empty
        )
        raise CorpusError(
            f"split {' and '.join(empty)}: no utterances (found {found}), expected some in each; "
            + (f"raise {settings}" if settings else "lower valid_fraction and test_fraction")
            + ", or add data"
        )


def _check_labels(packing: Packing, labelled_fraction: float) -> None:
    """Refuse a share that leaves a transcribed corpus without any training transcript."""
    hidden = packing.num_hidden_transcripts
    labelled = (row for row in packing.rows if row.split == "train" and row.text is not None)
    if hidden and not any(labelled):
        raise CorpusError(
            f"split train: prepare.labelled_fraction {labelled_fraction:g} keeps none of its "
            f"{hidden} transcripts, expected at least one; raise that fraction"
        )


def _summarise(
    params: PrepareParams,
    packing: Packing,
    dropped: Sequence[Drop],
    split_rule: dict[str, str],
) -> Summary:
    rows = packing.rows
    return Summary(
        corpus=params.corpus,
        sample_rate_hz=params.sample_rate_hz,
        text_rule=text.describe_rule(params.case),
        alphabet=params.alphabet if params.alphabet is not None else _alphabet_of(rows),
        split_rule=split_rule,
        splits={split: _count(rows, split) for split in SPLITS},
        num_hidden_transcripts=packing.num_hidden_transcripts,
        dropped=dict(sorted(Counter(drop.reason for drop in dropped).items())),
        unit=_unit(params, rows),
    )


def _unit(params: PrepareParams, rows: Iterable[Row]) -> Unit:
    """Return what errors are counted in, by the settings or as the transcripts' script has it."""
    if params.unit != "auto":
        return Unit(params.unit)
    return unit_of(Counter(c for row in rows if row.text is not None for c in row.text))


def _alphabet_of(rows: Iterable[Row]) -> str:
    """Return the characters of the texts that models train and validate on."""
    texts = (row.text for row in rows if row.split != "test" and row.text is not None)
    return "".join(sorted(set().union(*texts) - {" "}))


def _count(rows: Iterable[Row], split: str) -> SplitCounts:
    chosen = [row for row in rows if row.split == split]
    seconds = sum(row.duration_seconds for row in chosen)
    labelled = sum(row.text is not None for row in chosen)
    return SplitCounts(
        num_utterances=len(chosen),
        num_labelled=labelled,
        num_unlabelled=len(chosen) - labelled,
        num_speakers=len({row.speaker for row in chosen} - {None}),
        hours=round(seconds / SECONDS_PER_HOUR, 6),
    )


def _write_manifest(path: Path, rows: Iterable[Row]) -> None:
    ordered = sorted(rows, key=lambda row: row.utterance_id)
    table = pa.Table.from_pylist([vars(row) for row in ordered], schema=SCHEMA)
    pq.write_table(table, path, compression="zstd")


def _as_csv(dropped: Iterable[Drop]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("utterance_id", "source_path", "reason", "detail"))
    writer.writerows((d.utterance_id, d.source_path, d.reason, d.detail) for d in dropped)
    return buffer.getvalue().encode()


def _cautions_as_csv(cautions: Mapping[str, str]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("source_path", "channels"))
    writer.writerows(sorted(cautions.items()))
    return buffer.getvalue().encode("utf-8", errors="backslashreplace")


def _caution_of_channels(cautions: Mapping[str, str], path: Path) -> str:
    examples = "; ".join(f"{name}: {caution}" for name, caution in sorted(cautions.items())[:1])
    return (
        f"warning: {len(cautions)} recordings have channels that do not mix well, such as "
        f"{examples}; all of them are listed in {path}, prepare.channel takes one channel"
    )


def _log_summary(summary: Summary) -> None:
    lines = [f"{'split':<8}{'utterances':>12}{'unlabelled':>12}{'speakers':>10}{'hours':>9}"]
    for split, counts in summary.splits.items():
        lines.append(
            f"{split:<8}{counts.num_utterances:>12}{counts.num_unlabelled:>12}"
            f"{counts.num_speakers:>10}{counts.hours:>9.3f}"
        )
    if summary.unit is Unit.CHARACTER:
        lines.append(
            "unit: character (CER), for most letters are of a script without spaces between words, "
            "or prepare.unit says so"
        )
    if hidden := summary.num_hidden_transcripts:
        lines.append(f"hidden: transcripts of {hidden} training utterances")
    lines.extend(f"dropped: {reason} {count}" for reason, count in summary.dropped.items())
    logger.info("prepared %s\n%s", summary.corpus, "\n".join(lines))
