"""A corpus into prepared data: decode, resample, normalise, split, drop with a reason, pack.

A few threads decode ahead of the packing (packing.py), which takes the test split first, then
validation, then training; of each what was there before, then what was added, in the order of the
utterance ids. So equal input gives equal bytes, whatever order the file system lists it in, and
added data change no audio file that is there.
"""

from __future__ import annotations

import itertools
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, partial
from itertools import compress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.corpora.base import UTTERANCE_ID_PATTERN, Recording
from distillery.corpora.known import CORPORA
from distillery.corpora.spans import SPANS_FILE
from distillery.corpora.spans import as_csv as spans_as_csv
from distillery.data import text
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.cores import usable_cores
from distillery.data.manifest import (
    AUDIO_SUFFIX,
    DROPPED_FILE,
    MANIFEST_FILE,
    SPLITS,
    SUMMARY_FILE,
    PreparedData,
    SegmentCounts,
    SplitCounts,
    Summary,
)
from distillery.data.units import Unit, unit_of
from distillery.errors import CorpusError
from distillery.files import whole_folder, write_bytes, write_json
from distillery.params.prepare import PrepareParams
from distillery.prepare.checks import (
    as_csv,
    check_alphabet,
    check_drops,
    check_labels,
    check_splits,
)
from distillery.prepare.decoding import decode_ahead
from distillery.prepare.journal import JOURNAL_FILE, Diverged, Journal, made_by
from distillery.prepare.kept import KEY_LENGTH, Recall, Terms, read_decisions, write_decisions
from distillery.prepare.packing import (
    PACKING_ORDER,
    Decoded,
    Drop,
    Group,
    Packing,
)
from distillery.prepare.profile import write_profile
from distillery.prepare.report import (
    caution_of_channels,
    cautions_as_csv,
    remarks,
    table,
    without_transcripts,
)
from distillery.prepare.rows import EXPECTED_FIELD, SCHEMA, Rows
from distillery.prepare.segments import Cut, cut_recordings
from distillery.prepare.speakers import say_unified, unify_speakers
from distillery.prepare.spelling import Spelling, find_spelling, recorded, say_spelling
from distillery.prepare.splits import OFFICIAL, Kept, assign_splits
from distillery.prepare.transcripts import with_transcripts

SEGMENTS_FOLDER = ".segments"
CHANNELS_FILE = "channels.csv"
"""Recordings whose channels do not mix well; written only where there are any."""
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
    num_workers: int = 0,
    decisions: Path | None = None,
    *,
    needs_truth: bool = True,
) -> Summary:
    """Write prepared data and return its summary.

    Args:
        params: the section `prepare`.
        source: the corpus folder (or grammar file).
        folder: where prepared data goes; replaced whole, or left as it was when this fails.
        reports: where the list of dropped utterances goes when there are too many.
        num_workers: threads or processes that decode; 0: as many as there are cores.
        decisions: the file that keeps which utterance is in which split; read first and written
            last. None keeps nothing.
        needs_truth: whether validation and test must say what is spoken; a teacher that others
            trained needs no such thing, its texts may stand for transcripts.

    Raises:
        CorpusError: the corpus is missing or contradicts itself, too many utterances were dropped,
            or a split is empty, or models could not be validated or tested on it.
        ManifestError: the user's manifest breaks its contract, or the file of decisions or the
            table of transcripts does.
    """
    listed = read_recordings(params, source)
    recordings, respelt = unify_speakers(with_transcripts(params, source, listed))
    check_alphabet(params, sum(bool(r.text) for r in recordings) if params.labelled_fraction else 0)
    recall = _recall(decisions, params, recordings)
    cut = cut_recordings(recordings, params, recall.kept, num_workers or usable_cores())
    for line in filter(None, (say_unified(respelt) if respelt else None, recall.note)):
        logger.warning("%s", line)
    with whole_folder(folder, goes_on=True) as temporary:
        packing, split_rule = _split_and_pack(params, cut, recall.kept, temporary, num_workers)
        packing.dropped.extend(cut.dropped)
        dropped = sorted(packing.dropped, key=lambda drop: drop.utterance_id)
        num_recordings = len(cut.recordings) + len(cut.dropped)
        check_drops(dropped, num_recordings, params.max_dropped_fraction, reports)
        _check(params, packing, needs_truth=needs_truth)
        summary = _summarise(params, packing, dropped, split_rule, cut.counts)
        _write_manifest(temporary / MANIFEST_FILE, packing.rows)
        write_bytes(temporary / DROPPED_FILE, as_csv(dropped))
        if packing.cautions:
            write_bytes(temporary / CHANNELS_FILE, cautions_as_csv(packing.cautions))
        if cut.spans:
            write_bytes(temporary / SPANS_FILE, spans_as_csv(cut.spans))
        write_json(temporary / SUMMARY_FILE, summary.entries)
        write_profile(temporary, profile := packing.profile(len(respelt)))
    if decisions is not None:
        write_decisions(decisions, Terms.of(params), recall, packing.rows)
    assert profile.leaks is not None
    said = say_spelling(params, packing.spelling.rule, packing.respelt)
    for line in (*remarks(packing.rows, profile.leaks.repeated, recall.kept), *said):
        logger.info("%s", line)
    _tell(summary, packing, folder / CHANNELS_FILE)
    return summary


def _recall(
    decisions: Path | None, params: PrepareParams, recordings: Sequence[Recording]
) -> Recall:
    """Return what was decided before about splits, as far as it holds."""
    former = None if decisions is None else read_decisions(decisions)
    if former is None:
        return Recall()
    return former.recall(params, (item.utterance_id for item in recordings))


def _tell(summary: Summary, packing: Packing, channels: Path) -> None:
    """Say what was prepared, and what a person should mind.

    Args:
        summary: of the prepared data.
        packing: what was kept.
        channels: where recordings are listed whose channels do not mix well.
    """
    for line in without_transcripts(summary, packing.rows):
        logger.info("%s", line)
    logger.info("prepared %s\n%s", summary.corpus, table(summary, packing.rows))
    if packing.cautions:
        logger.warning("%s", caution_of_channels(packing.cautions, channels))


def _check(params: PrepareParams, packing: Packing, *, needs_truth: bool) -> None:
    """Make sure that models can be trained, validated and tested on what was kept."""
    check_splits(packing.rows, needs_truth=needs_truth)
    check_labels(packing, params.labelled_fraction)
    check_alphabet(params, _num_transcripts(packing.rows, "train"))


def _split_and_pack(
    params: PrepareParams,
    cut: Cut,
    kept: Kept,
    folder: Path,
    num_workers: int,
) -> tuple[Packing, dict[str, str]]:
    """Draw splits and pack all recordings; return how validation and test were chosen, too.

    Where all transcripts of a drawn split are dropped, as their audio shows, it is drawn again, and
    not from what was dropped.
    """
    lost: set[str] = set()
    _clear(folder)
    draft = find_spelling(params, cut.recordings)
    of_former = cut.kept_of_units(kept)
    says_something = any(_is_transcribed(params, draft, item) for item in cut.recordings)
    while True:

        def is_usable(recording: Recording, lost: AbstractSet[str] = frozenset(lost)) -> bool:
            usable = not says_something or _is_transcribed(params, draft, recording)
            return recording.utterance_id not in lost and usable

        splits, split_rule = assign_splits(
            cut.units, params.valid_fraction, params.test_fraction, of_former, is_usable
        )
        splits = cut.splits_of(splits)
        packing = Packing(params, folder, find_spelling(params, cut.recordings, splits))
        waiting = folder / SEGMENTS_FOLDER
        waiting.mkdir()
        workers = num_workers or usable_cores()
        decode = partial(decode_ahead, params=params, num_workers=workers, folder=waiting)
        journal = Journal(folder, made_by(params))
        try:
            _pack(packing, cut.recordings, decode, journal, _Places(splits, split_rule, kept))
        except Diverged:
            journal.remove()
            _clear(folder)
            continue
        journal.remove()
        waiting.rmdir()
        shown = packing.rows.columns("split", "text", "expected")
        transcribed = {split for split, words, phrases in shown if words or phrases}
        drawn = {split for split, rule in split_rule.items() if rule != OFFICIAL}
        dropped = {drop.utterance_id for drop in packing.dropped}
        if drawn <= transcribed or not transcribed or dropped <= lost:
            return packing, split_rule
        bare = " and ".join(sorted(drawn - transcribed))
        logger.info("split %s: all transcripts were dropped with their audio; drawn again", bare)
        lost |= dropped
        for shard in folder.iterdir():
            shard.unlink()


def _is_transcribed(params: PrepareParams, spelling: Spelling, recording: Recording) -> bool:
    """Return whether models can be validated and tested on a recording's text or phrases."""
    if recording.expected:
        return True
    words = text.normalise(spelling.said(recording.text or ""), params.case)
    return bool(words) and (params.alphabet is None or set(words) <= set(params.alphabet) | {" "})


def _clear(folder: Path) -> None:
    """Remove what a killed run left but for packed audio and the journal of it."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != JOURNAL_FILE and path.suffix != AUDIO_SUFFIX:
            path.unlink()


_group = cache(Group)
"""There are a few of them, for millions of recordings."""


@dataclass(frozen=True)
class _Places:
    """What says in which split a recording is."""

    splits: Mapping[str, str]
    """Of every utterance."""
    rules: Mapping[str, str]
    """How validation and test were chosen."""
    kept: Kept
    """Former decisions."""

    def group_of(self, recording: Recording) -> Group:
        """Return what a recording is packed with."""
        split = PACKING_ORDER.index(self.splits[recording.utterance_id])
        return _group(split, self.kept.addition_of(recording.utterance_id))

    def of(self, recording: Recording, key: str) -> str:
        """Return the split of a recording with some audio.

        Audio that was in another split before is there again, under whatever name, unless the
        corpus itself says where it belongs.
        """
        split = self.splits[recording.utterance_id]
        former = self.kept.audio.get(key[:KEY_LENGTH], split)
        says = recording.split
        if says is None or (says == "train" and self.rules.get(former) != OFFICIAL):
            return former
        return split


def _pack(
    packing: Packing,
    recordings: Sequence[Recording],
    decode: Callable[[Sequence[Recording]], Iterator[tuple[Recording, Decoded]]],
    journal: Journal,
    places: _Places,
) -> None:
    """Pack all recordings; those that a killed run had done are not decoded again.

    Raises:
        Diverged: what that run left cannot be used.
    """
    ordered = sorted(recordings, key=places.group_of)
    num_done = 0
    with packing.shards as shards, journal:
        for recording, decoded, place in journal.done(ordered, places.splits):
            shards.enter(places.group_of(recording))
            packing.add(recording, places.of(recording, decoded.key), decoded)
            if shards.place != place:
                raise Diverged
            num_done += 1
        if not shards.begin():
            raise Diverged
        if num_done:
            logger.info("prepare: %d of %d were done before", num_done, len(ordered))
        try:
            for recording, decoded in decode(ordered[num_done:]):
                shards.enter(places.group_of(recording))
                packing.add(recording, places.of(recording, decoded.key), decoded)
                split = places.splits[recording.utterance_id]
                journal.note(recording, split, decoded, shards.place)
                if journal.is_due:
                    shards.sync()
                    journal.save()
        finally:
            shards.sync()
            journal.save()
    packing.drop_copies()


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


# --- what is written ----------------------------------------------------------------------------


def _summarise(
    params: PrepareParams,
    packing: Packing,
    dropped: Sequence[Drop],
    split_rule: dict[str, str],
    segments: SegmentCounts | None,
) -> Summary:
    rows = packing.rows
    return Summary(
        corpus=params.corpus,
        sample_rate_hz=params.sample_rate_hz,
        text_rule=text.describe_rule(params.case),
        alphabet=_alphabet(params, rows),
        split_rule=split_rule,
        splits={split: _count(rows, split) for split in SPLITS},
        num_hidden_transcripts=packing.num_hidden_transcripts,
        dropped=dict(sorted(Counter(drop.reason for drop in dropped).items())),
        unit=_unit(params, rows),
        spelling=recorded(params.spelling, packing.spelling.rule, packing.respelt),
        segments=segments,
        language=params.language,
    )


def _unit(params: PrepareParams, rows: Rows) -> Unit:
    """Return what errors are counted in, by the settings or as the transcripts' script has it."""
    if params.unit != "auto":
        return Unit(params.unit)
    return unit_of(Counter(c for words in rows.column("text") if words is not None for c in words))


def _num_transcripts(rows: Rows, split: str) -> int:
    return sum(own == split and words is not None for own, words in rows.columns("split", "text"))


def _alphabet(params: PrepareParams, rows: Rows) -> str:
    """Return the alphabet of the settings, or the characters of the texts that models train and
    validate on; where they train on none, the language's."""
    known = params.alphabet_without_texts
    if known is not None and (params.alphabet is not None or not _num_transcripts(rows, "train")):
        return known
    said = rows.columns("split", "text")
    texts = (words for split, words in said if split != "test" and words is not None)
    return "".join(sorted(set().union(*texts) - {" "}))


def _count(rows: Rows, split: str) -> SplitCounts:
    chosen = [own == split for own in rows.column("split")]
    labelled = _num_transcripts(rows, split)
    seconds = sum(compress(rows.column("duration_seconds"), chosen))
    return SplitCounts(
        num_utterances=sum(chosen),
        num_labelled=labelled,
        num_unlabelled=sum(chosen) - labelled,
        num_speakers=len({*compress(rows.column("speaker"), chosen)} - {None}),
        hours=round(seconds / SECONDS_PER_HOUR, 6),
    )


def _write_manifest(path: Path, rows: Rows) -> None:
    order = sorted(range(len(rows)), key=rows.column("utterance_id").__getitem__)
    has_phrases = any(phrases is not None for phrases in rows.column("expected"))
    schema = SCHEMA.append(EXPECTED_FIELD) if has_phrases else SCHEMA
    columns = [
        pa.array(map(rows.column(field.name).__getitem__, order), field.type) for field in schema
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    pq.write_table(table, path, compression="zstd")
