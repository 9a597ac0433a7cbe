"""Recordings decoded ahead by threads or processes, in the order in which they are packed.

Several segments of one file stand anywhere in that order, yet their file is decoded once: what is
cut out of it waits on the disk until it is packed. Memory holds a block of each file, whatever its
length, and a few recordings.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distillery.corpora.base import Recording
from distillery.corpora.segments import cut_segments
from distillery.data.audio import Audio, Reader, resample
from distillery.data.manifest import SAMPLE_DTYPE, audio_key
from distillery.data.resampling import needs_torch
from distillery.errors import AudioError, CorpusError, EmptyAudio
from distillery.params.prepare import PrepareParams
from distillery.prepare import levels
from distillery.prepare.packing import Decoded, too_long

LOOK_AHEAD_PER_WORKER = 8
PROCESSES_FROM = 2000
"""Recordings: seconds of work, as much as it costs to start processes."""
PR_SET_PDEATHSIG = 1
SPARE_SECONDS = 1.0
"""By which audio may exceed the longest that is kept, before its samples are let go."""
NOTHING = np.empty(0, dtype=SAMPLE_DTYPE)


@dataclass(frozen=True)
class _Kept:
    """Where a segment's samples wait."""

    decoded: Decoded
    """Without its samples."""
    start: int
    num_samples: int


def decode_ahead(
    recordings: Sequence[Recording], params: PrepareParams, num_workers: int, folder: Path
) -> Iterator[tuple[Recording, Decoded]]:
    """Decode with some workers and a bounded look-ahead; order is kept.

    Args:
        recordings: in the order wanted.
        params: the section `prepare`.
        num_workers: threads; processes, where more than two have enough to do.
        folder: where segments wait; it is left empty.

    Raises:
        CorpusError: a process died.
    """
    waiting: deque[tuple[Recording, Callable[[], Decoded]]] = deque()
    todo = iter(recordings)
    with (
        _workers(recordings, num_workers) as pool,
        tqdm(total=len(recordings), desc="prepare", unit="utt", disable=None) as progress,
    ):
        cutting = _Cutting(recordings, params, folder, pool)
        try:
            while True:
                while len(waiting) < num_workers * LOOK_AHEAD_PER_WORKER:
                    if (recording := next(todo, None)) is None:
                        break
                    waiting.append((recording, cutting.submit(recording)))
                if not waiting:
                    return
                recording, result = waiting.popleft()
                try:
                    decoded = result()
                except BrokenProcessPool:
                    raise CorpusError(
                        f"prepare: a process that decodes died at {recording.source_path}, or some "
                        f"{num_workers * LOOK_AHEAD_PER_WORKER} recordings behind it, for want of "
                        "memory perhaps; make room and run make prepare, or leave that file out"
                    ) from None
                yield recording, decoded
                progress.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _workers(recordings: Sequence[Recording], num_workers: int) -> Executor:
    """Return threads, or processes where Python's lock would keep threads waiting for each other.

    Two threads seldom wait, and for a few recordings processes are not worth their start.
    """
    are_files = all(isinstance(recording.audio, Path) for recording in recordings)
    if num_workers <= 2 or len(recordings) < PROCESSES_FROM or not are_files:
        return ThreadPoolExecutor(num_workers, "decode")
    context = get_context("spawn")
    return ProcessPoolExecutor(num_workers, context, _die_with_parent, (os.getpid(),))


def _die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with the one that started it; Ctrl-C is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):  # another system
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before Linux knew
        os._exit(1)


class _Cutting:
    """Hands recordings to workers: files with several segments once, all others one by one."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        params: PrepareParams,
        folder: Path,
        pool: Executor,
    ) -> None:
        self._params, self._folder, self._pool = params, folder, pool
        counts = Counter(_file_of(recording) for recording in recordings)
        self._segments: dict[Path, list[Recording]] = {}
        for recording in recordings:
            if (file := _file_of(recording)) is not None and counts[file] > 1:
                self._segments.setdefault(file, []).append(recording)
        self._places = {file: folder / str(index) for index, file in enumerate(self._segments)}
        self._files: dict[Path, Future[dict[str, _Kept]]] = {}

    def submit(self, recording: Recording) -> Callable[[], Decoded]:
        """Begin to decode; return what waits for the result."""
        file = _file_of(recording)
        if file is None or file not in self._segments:
            return self._pool.submit(_decode_one, recording, self._params).result
        if file not in self._files:
            self._files[file] = self._pool.submit(
                _cut_file, file, self._segments[file], self._params, self._places[file]
            )
        return partial(self._take, file, recording)

    def _take(self, file: Path, recording: Recording) -> Decoded:
        kept = self._files[file].result()
        segment = kept.pop(recording.utterance_id)
        samples = NOTHING
        if segment.num_samples:
            samples = np.fromfile(
                self._places[file],
                SAMPLE_DTYPE,
                segment.num_samples,
                offset=segment.start * SAMPLE_DTYPE.itemsize,
            )
        if not kept:
            self._places[file].unlink()
        return replace(segment.decoded, samples=samples)


def _file_of(recording: Recording) -> Path | None:
    """Return the file that a segment is part of."""
    if recording.segment is None or not isinstance(recording.audio, Path):
        return None
    return recording.audio


def _decode_one(recording: Recording, params: PrepareParams) -> Decoded:
    try:
        audio = recording.read(channel_of(params), params.max_duration_seconds + SPARE_SECONDS)
    except AudioError as error:
        return _refused(error)
    return measure(audio, params)


def _cut_file(
    file: Path, recordings: Sequence[Recording], params: PrepareParams, place: Path
) -> dict[str, _Kept]:
    """Write the segments of a file one after another; return where, by utterance."""
    reader = Reader(file, recordings[0].source_path, channel_of(params))
    segments = [recording.segment for recording in recordings if recording.segment is not None]
    found: dict[str, _Kept] = {}
    num_written = 0
    with open(place, "wb") as out:
        try:
            for index, audio in cut_segments(
                reader, segments, params.max_duration_seconds + SPARE_SECONDS
            ):
                if isinstance(audio, AudioError):
                    decoded = _refused(audio)
                else:
                    decoded = measure(audio, params)
                out.write(decoded.samples.data)
                kept = _Kept(replace(decoded, samples=NOTHING), num_written, len(decoded.samples))
                num_written += len(decoded.samples)
                found[recordings[index].utterance_id] = kept
        except AudioError as error:  # of the file: none of its segments can be trusted
            refused_all = _Kept(_refused(error), 0, 0)
            return {recording.utterance_id: refused_all for recording in recordings}
    caution = reader.caution
    return {
        name: replace(kept, decoded=replace(kept.decoded, caution=caution))
        for name, kept in found.items()
    }


def channel_of(params: PrepareParams) -> int | None:
    """Return the channel that the settings choose; None mixes all."""
    return None if params.channel == "mix" else params.channel


def _refused(error: AudioError) -> Decoded:
    reason = "empty" if isinstance(error, EmptyAudio) else "unreadable"
    return Decoded(NOTHING, reason=reason, detail=str(error))


def measure(audio: Audio, params: PrepareParams) -> Decoded:
    """Return audio at the prepared rate, with what the profile holds of it."""
    rate = params.sample_rate_hz
    if audio.seconds > params.max_duration_seconds + SPARE_SECONDS:
        reason, detail = too_long(audio.seconds, params)
        return Decoded(NOTHING, reason=reason, detail=detail, caution=audio.caution)
    if needs_torch(audio.rate_hz, rate):
        _use_one_thread()
    overdriven = levels.overdriven_fraction(audio.samples)
    samples = np.ascontiguousarray(resample(audio.samples, audio.rate_hz, rate), SAMPLE_DTYPE)
    return Decoded(
        samples,
        audio_key(samples),
        levels.measure(samples, rate),
        overdriven,
        caution=audio.caution,
    )


def _use_one_thread() -> None:
    """Keep what resamples to this thread: more would fight with the other workers."""
    import torch  # waits here: most corpora need no resampling, and none of PyTorch's two seconds

    torch.set_num_threads(1)
