"""Long recordings without a transcript, as utterances: cut at pauses, times kept.

A recording with a transcript is never cut, since nothing says which words fall where; one that is
a segment of a file already (NeMo's `offset`) is taken as it is. What is no speech is left out,
counted and listed (`distillery.corpora.spans`). All utterances of a recording stand in one split.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from distillery.corpora.base import Recording
from distillery.corpora.segments import Segment
from distillery.corpora.spans import NO_SPEECH, SPEECH, TOO_SHORT, Span
from distillery.data.audio import SECONDS_PER_HOUR, Reader, estimate_seconds
from distillery.data.manifest import SegmentCounts
from distillery.errors import AudioError
from distillery.params.prepare import PrepareParams, SegmentParams
from distillery.prepare.decoding import channel_of
from distillery.prepare.packing import Drop
from distillery.prepare.pauses import MIN_SPEECH_SECONDS, find_pieces
from distillery.prepare.speech import FRAME_SECONDS, Detector
from distillery.prepare.splits import Kept

MIN_RECORDINGS = 3
"""One for each split; of fewer, utterances are drawn."""
TIMES = re.compile(r"-\d{8}-\d{8}\Z")
"""Start and end in milliseconds, at the end of the ids of cut utterances."""
MS = 0.001
MAX_STEM = 100
"""Characters of a recording's id that its utterances' ids hold; 128 are allowed in all."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A corpus whose long recordings were cut."""

    recordings: list[Recording]
    """What is packed, in the order of the ids."""
    units: list[Recording]
    """What splits are drawn from: recordings as they were, or utterances where there are too few
    recordings, in the order of the ids."""
    unit_of: Mapping[str, str] = field(default_factory=dict)
    """Utterance id → id of its unit, where that is another."""
    spans: Sequence[Span] = ()
    """Of all recordings that were cut."""
    dropped: Sequence[Drop] = ()
    """Recordings in which nobody speaks."""
    counts: SegmentCounts | None = None
    """None where nothing was cut."""

    def kept_of_units(self, kept: Kept) -> Kept:
        """Return former decisions by unit: where its utterances were, a recording is."""
        units = {stem_of(unit.utterance_id): unit.utterance_id for unit in self.units}
        found = dict(kept.utterances)
        for key, split in kept.utterances.items():
            if is_cut(key) and (unit := units.get(TIMES.sub("", key))) is not None:
                found[unit] = split
        return replace(kept, utterances=found)

    def splits_of(self, of_units: dict[str, str]) -> dict[str, str]:
        """Return the split of every utterance from those of the units."""
        if not self.unit_of:
            return of_units
        return {
            recording.utterance_id: of_units[
                self.unit_of.get(recording.utterance_id, recording.utterance_id)
            ]
            for recording in self.recordings
        }


def stem_of(utterance_id: str) -> str:
    """Return what the ids of a recording's utterances begin with."""
    if len(utterance_id) <= MAX_STEM:
        return utterance_id
    digest = hashlib.sha256(utterance_id.encode()).hexdigest()[:10]
    return f"{utterance_id[: MAX_STEM - len(digest) - 1]}-{digest}"


def is_cut(utterance_id: str) -> bool:
    """Return whether an id ends in times, as those of cut utterances do."""
    return TIMES.search(utterance_id) is not None


def cut_recordings(
    recordings: Sequence[Recording], params: PrepareParams, kept: Kept, num_workers: int
) -> Cut:
    """Cut what is long and has no transcript, where the settings say so.

    Recordings are decoded once for this, and once more when they are packed; memory holds a block
    of each. One that cannot be decoded is left as it is: packing says what is wrong with it.

    Args:
        recordings: the corpus, in the order of the ids.
        params: the section `prepare`.
        kept: former decisions about splits.
        num_workers: threads.

    Raises:
        CorpusError: the detector is not installed.
    """
    settings = params.segment
    if settings is None:
        return Cut(list(recordings), list(recordings))
    long = [recording for recording in recordings if _is_long(recording, settings.max_seconds)]
    if not long:
        return Cut(list(recordings), list(recordings))
    detector = Detector()
    find = partial(_cut_one, params=params, settings=settings, detector=detector)
    with ThreadPoolExecutor(num_workers, "segment") as pool:
        results = pool.map(find, long)
        shown = tqdm(results, total=len(long), desc="segment", unit="file", disable=None)
        try:
            pairs = list(zip(long, shown, strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # who stops waits for no other file
    found = {item.utterance_id: parts for item, parts in pairs if parts is not None}
    return _collect(recordings, found, kept)


def _is_long(recording: Recording, max_seconds: float) -> bool:
    """Return whether a recording is to be cut, by its header."""
    if not isinstance(recording.audio, Path) or recording.segment is not None:
        return False
    is_told = recording.text is not None and bool(recording.text.strip())
    return not is_told and estimate_seconds(recording.audio) > max_seconds


@dataclass(frozen=True)
class _Parts:
    """What became of one recording."""

    recordings: Sequence[Recording]
    spans: Sequence[Span]
    seconds: float
    num_forced: int


def _cut_one(
    recording: Recording, params: PrepareParams, settings: SegmentParams, detector: Detector
) -> _Parts | None:
    """Return a recording's utterances; None where it stays whole."""
    assert isinstance(recording.audio, Path)
    try:
        probabilities, seconds = detector.probabilities(
            Reader(recording.audio, recording.source_path, channel_of(params))
        )
    except AudioError:  # packing decodes it again, and says so
        return None
    if seconds <= settings.max_seconds:  # its header could not tell
        return None
    parts: list[Recording] = []
    spans: list[Span] = []
    place, total = 0.0, _whole_ms(seconds)
    num_forced = 0
    longest = settings.max_seconds - MS  # for times are rounded
    for piece in find_pieces(probabilities, FRAME_SECONDS, longest, settings.min_silence):
        start = min(_whole_ms(piece.start * FRAME_SECONDS), total)
        end = min(_whole_ms(piece.end * FRAME_SECONDS), total)
        is_click = piece.num_speech * FRAME_SECONDS < MIN_SPEECH_SECONDS
        is_short = is_click or end - start < params.min_duration_seconds
        what = TOO_SHORT if is_short else SPEECH
        key = ""
        if what == SPEECH:
            key = f"{stem_of(recording.utterance_id)}-{_num_ms(start):08d}-{_num_ms(end):08d}"
            segment = Segment(start, round(end - start, 3))
            parts.append(replace(recording, utterance_id=key, segment=segment, text=None))
            num_forced += piece.is_forced
        if start > place:
            spans.append(Span("", recording.source_path, place, start, NO_SPEECH))
        spans.append(Span(key, recording.source_path, start, end, what))
        place = end
    if total > place:
        spans.append(Span("", recording.source_path, place, total, NO_SPEECH))
    return _Parts(parts, spans, seconds, num_forced)


def _whole_ms(seconds: float) -> float:
    return math.floor(seconds / MS) / 1000


def _num_ms(seconds: float) -> int:
    return round(seconds / MS)


def _collect(recordings: Sequence[Recording], found: Mapping[str, _Parts], kept: Kept) -> Cut:
    """Return the corpus with its cut recordings replaced."""
    drawn_whole = _units_are_whole(recordings, found, kept)
    packed: list[Recording] = []
    units: list[Recording] = []
    unit_of: dict[str, str] = {}
    dropped: list[Drop] = []
    for recording in recordings:
        parts = found.get(recording.utterance_id)
        if parts is None:
            packed.append(recording)
            units.append(recording)
            continue
        packed.extend(parts.recordings)
        if not parts.recordings:
            detail = f"nobody speaks in its {parts.seconds:.3f} s (prepare.segment)"
            dropped.append(Drop(recording.utterance_id, recording.source_path, NO_SPEECH, detail))
        elif drawn_whole:
            units.append(recording)
            unit_of |= {part.utterance_id: recording.utterance_id for part in parts.recordings}
        else:
            units.extend(parts.recordings)
    spans = [span for parts in found.values() for span in parts.spans]
    return Cut(
        sorted(packed, key=lambda item: item.utterance_id),
        sorted(units, key=lambda item: item.utterance_id),
        unit_of,
        sorted(spans, key=lambda span: (span.source_path, span.start_seconds)),
        dropped,
        _count(found) if found else None,
    )


def _units_are_whole(
    recordings: Sequence[Recording], found: Mapping[str, _Parts], kept: Kept
) -> bool:
    """Return whether splits are drawn from whole recordings; say so where they are not.

    Of one or two, no three splits can be drawn; what was drawn from them before stays.
    """
    former: dict[str, set[str]] = {}
    for key, split in kept.utterances.items():
        if is_cut(key):
            former.setdefault(TIMES.sub("", key), set()).add(split)
    parted = [key for key in found if len(former.get(stem_of(key), ())) > 1]
    if len(recordings) >= MIN_RECORDINGS and not parted:
        return True
    logger.warning(
        "prepare.segment: utterances of one recording are in several splits, for %s; results on "
        "recordings that were not heard in training may be worse",
        f"there are {len(recordings)} recordings in all"
        if not parted
        else f"those of {parted[0]} were before",
    )
    return False


def _count(found: Mapping[str, _Parts]) -> SegmentCounts:
    spans = [span for parts in found.values() for span in parts.spans]
    seconds = {
        what: round(sum(span.seconds for span in spans if span.what == what), 3)
        for what in (NO_SPEECH, TOO_SHORT)
    }
    return SegmentCounts(
        num_recordings=len(found),
        num_utterances=sum(len(parts.recordings) for parts in found.values()),
        num_without_pause=sum(parts.num_forced for parts in found.values()),
        hours=round(sum(parts.seconds for parts in found.values()) / SECONDS_PER_HOUR, 6),
        seconds_left_out={what: found for what, found in seconds.items() if found},
    )
