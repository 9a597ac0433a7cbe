"""How long one waits for text while one speaks: the WebSocket of `make serve`, on real recordings.

    python -m benchmarks.streaming MODEL … --workspace DIR --aligner MODEL [--clips 130]

MODEL is a folder with a student that streams, as it is served. The server is that of `make serve`
in a process of its own, without MLflow's part. Clients send the test split of the workspace as fast
as it would be spoken, in chunks of 0.1 s, some of them at once, and note when texts come:

- words: from the moment when the chunk with a word's end is sent, to the first text that has the
  word and after which no text is without it. A word ends where its last letter does when its
  transcript is aligned with what the aligner hears, a student that hears both directions
  (`distillery.decoder.alignment`). Words that the final text lacks are left out;
- end: from the end message to the final text;
- CPU time and memory of the server; then the same recordings as fast as they are taken.

Rows go to benchmarks/results/streaming.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rapidfuzz.distance import Levenshtein
from websockets.asyncio.client import connect

from benchmarks.common import ROOT, report, row
from distillery.data.audio import SAMPLE_SCALE
from distillery.data.manifest import PreparedData
from distillery.data.scoring import Counts, count_errors
from distillery.data.workspace import PREPARED
from distillery.params.register import ServeLimits
from distillery.serve.served import load_served

CHUNK_SECONDS = 0.1
START_SECONDS, ANSWER_SECONDS = 60, 120
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Clip:
    """A recording, its transcript, and when each word of it ends."""

    samples: np.ndarray
    text: str
    ends: Sequence[float]
    """Seconds, one a word."""


@dataclass
class Heard:
    """What a client was told, and when."""

    texts: list[tuple[float, str]] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    """When each chunk was."""
    ended: float = 0.0
    """When the end message was sent."""

    @property
    def final(self) -> str:
        """The last text."""
        return self.texts[-1][1]

    @property
    def end_seconds(self) -> float:
        """From the end message to the final text."""
        return self.texts[-1][0] - self.ended

    def word_seconds(self, clip: Clip) -> Iterator[float]:
        """Yield how long each word that was heard right took."""
        spoken, found = clip.text.split(), self.final.split()
        for block in Levenshtein.opcodes(spoken, found).as_matching_blocks():
            for offset in range(block.size):
                place = block.b + offset
                at = next(
                    when
                    for index, (when, _) in enumerate(self.texts)
                    if all(
                        t.split()[place : place + 1] == [found[place]]
                        for _, t in self.texts[index:]
                    )
                )
                chunk = min(int(clip.ends[block.a + offset] / CHUNK_SECONDS), len(self.sent) - 1)
                yield at - self.sent[chunk]


def clips_of(workspace: Path, aligner_folder: Path, count: int) -> list[Clip]:
    """Return recordings of the test split, aligned."""
    from distillery.architectures.known import ARCHITECTURES
    from distillery.decoder.alignment import align
    from distillery.models.recogniser import Recogniser

    data = PreparedData.open(workspace / PREPARED)
    aligner = Recogniser.load(aligner_folder, ARCHITECTURES)
    clips = []
    for item in list(data.references("test").itertuples())[:count]:
        waveform = data.waveform(item)
        tokens = aligner.vocabulary.encode(item.text)
        spans = align(aligner.log_probs([waveform])[0], tokens)
        letters = list(zip(item.text, spans, strict=True))
        ends, last = [], 0.0
        for letter, (_, stop) in [*letters, (" ", (0, 0))]:
            if letter == " ":
                ends.append(last)
            else:
                last = stop * aligner.frame_shift_seconds
        samples = np.rint(waveform * SAMPLE_SCALE).astype("<i2")
        clips.append(Clip(samples, item.text, ends))
    return clips


@contextmanager
def server_of(model: Path) -> Iterator[tuple[psutil.Process, int]]:
    """Serve a student in a process of its own; yield it and its port."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--serve", str(model)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield psutil.Process(child.pid), int(child.stdout.readline())
        finally:
            child.terminate()


def serve(model: Path) -> None:
    """Serve a student until the process ends, and print the port."""
    import socket

    import uvicorn

    from flows.servers.streaming import MAX_MESSAGE_BYTES, Streams

    streams = Streams(load_served(model), ServeLimits())
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        streams,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
    )
    asyncio.run(uvicorn.Server(config).serve([listener]))


async def speak(port: int, rate_hz: int, clip: Clip, is_paced: bool) -> Heard:
    """Return what one client was told of a recording."""
    heard, size = Heard(), round(CHUNK_SECONDS * rate_hz)
    async with connect(f"ws://127.0.0.1:{port}/stream", proxy=None) as client:
        await client.send(json.dumps({"sample_rate_hz": rate_hz}))

        async def listen() -> None:
            async for message in client:
                answer = json.loads(message)
                heard.texts.append((time.perf_counter(), answer["text"]))

        listening = asyncio.create_task(listen())
        start = time.perf_counter()
        for begin in range(0, len(clip.samples), size):
            chunk = clip.samples[begin : begin + size]
            if is_paced:  # a chunk is there once all of it was spoken
                spoken = start + (begin + len(chunk)) / rate_hz
                await asyncio.sleep(max(0.0, spoken - time.perf_counter()))
            heard.sent.append(time.perf_counter())
            await client.send(chunk.tobytes())
        heard.ended = time.perf_counter()
        await client.send(json.dumps({"end": True}))
        await asyncio.wait_for(listening, ANSWER_SECONDS)
    return heard


async def speak_all(
    port: int, rate_hz: int, clips: Sequence[Clip], at_once: int, is_paced: bool
) -> list[Heard]:
    """Return what clients were told of all recordings, so many of them at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(clip: Clip) -> Heard:
        async with places:
            return await speak(port, rate_hz, clip, is_paced)

    return list(await asyncio.gather(*map(one, clips)))


@dataclass(frozen=True)
class Round:
    """Clients of one server, and what they cost it."""

    heard: list[Heard]
    cpu_seconds: float
    memory_bytes: int
    """The most that the server's process held."""
    wall_seconds: float


async def measured(
    process: psutil.Process,
    port: int,
    rate_hz: int,
    clips: Sequence[Clip],
    at_once: int,
    paced: bool,
) -> Round:
    """Return one round of all recordings."""
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(CHUNK_SECONDS)

    watching = asyncio.create_task(watch())
    before, start = process.cpu_times(), time.perf_counter()
    heard = await speak_all(port, rate_hz, clips, at_once, paced)
    wall, after = time.perf_counter() - start, process.cpu_times()
    watching.cancel()
    cpu = after.user + after.system - before.user - before.system
    return Round(heard, cpu, most, wall)


def measure(model: Path, clips: Sequence[Clip], at_once: int) -> list[dict[str, Any]]:
    """Return the rows of one student."""
    student = load_served(model)
    rate, name = student.sample_rate_hz, model.resolve().name
    seconds = sum(len(clip.samples) for clip in clips) / rate
    wholes = [clip.samples.astype(np.float32) / np.float32(SAMPLE_SCALE) for clip in clips]
    expected = student.transcribe(wholes)
    with server_of(model) as (process, port):
        asyncio.run(measured(process, port, rate, clips[:2], 1, False))  # the first is slow
        idle = process.memory_info().rss
        paced = asyncio.run(measured(process, port, rate, clips, at_once, True))
        fast = asyncio.run(measured(process, port, rate, clips, 1, False))
    errors = sum(
        (count_errors(c.text.split(), t.split()) for c, t in zip(clips, expected, strict=True)),
        Counts(0, 0, 0, 0),
    )
    same = sum(h.final == text for h, text in zip(paced.heard, expected, strict=True))
    words = [w for h, c in zip(paced.heard, clips, strict=True) for w in h.word_seconds(c)]
    ends = [item.end_seconds for item in paced.heard]
    about = (
        f"{len(clips)} recordings, {seconds:.0f} s, {at_once} speakers at once in chunks of "
        f"{CHUNK_SECONDS:g} s; WER {100 * errors.rate:.1f} %"
    )
    figures = [
        ("time to a word, median", 1000 * float(np.median(words)), "ms"),
        ("time to a word, 95 %", 1000 * float(np.percentile(words, 95)), "ms"),
        ("time from the end to the final text, median", 1000 * float(np.median(ends)), "ms"),
        ("time from the end to the final text, 95 %", 1000 * float(np.percentile(ends, 95)), "ms"),
        ("CPU time of the server", paced.cpu_seconds / seconds, "s per s of audio"),
        ("memory of the server, idle", idle / MEBIBYTE, "MiB"),
        ("memory of the server, at most", paced.memory_bytes / MEBIBYTE, "MiB"),
    ]
    rows = [row(f"{name}: {what}", value, unit, None, None, about) for what, value, unit in figures]
    alone = f"one client, {seconds:.0f} s of audio, as fast as it is taken"
    rows.append(
        row(f"{name}: speed", seconds / fast.wall_seconds, "s of audio per s", None, None, alone)
    )
    goal = "all"
    named = f"{name}: final texts that are those of transcribe"
    rows.append(row(named, 100 * same / len(clips), "%", goal, same == len(clips), about))
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL")
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--aligner", type=Path)
    parser.add_argument("--clips", type=int, default=130)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    if not options.models or options.aligner is None:
        print("give a streaming student's folder, and --aligner; nothing is measured")
        return
    clips = clips_of(options.workspace, options.aligner, options.clips)
    rows = [r for model in options.models for r in measure(model, clips, options.at_once)]
    report("streaming", rows)


if __name__ == "__main__":
    main()
