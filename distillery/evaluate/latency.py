"""How long students that stream make one wait, measured while they run chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from distillery.data.audio import compute_num_samples
from distillery.decoder.decoder import Decoder, texts_of
from distillery.device import num_threads
from distillery.evaluate.summary import Latency
from distillery.models.base import Teacher
from distillery.models.recogniser import Recogniser
from distillery.serve.growing_text import GreedyPath
from distillery.serve.streaming import (
    StreamingRecogniser,
    algorithmic_latency_seconds,
    can_stream,
)

TAIL_PERCENTILE = 95
MILLISECONDS = 1000


@dataclass(frozen=True)
class Heard:
    """What a recogniser heard in one utterance."""

    text: str
    tokens: list[int]
    frames: list[int]
    """The output frame in which each token begins."""
    chunk_seconds: list[float]
    """Computing time of each chunk, the last included; empty unless it streamed."""


def listen(
    recogniser: Teacher, waveforms: Sequence[np.ndarray], chunk_seconds: float
) -> list[Heard]:
    """Return what a recogniser hears: chunk by chunk on one thread if it can, else in one batch.

    Args:
        recogniser: the model.
        waveforms: float32 audio `(samples,)` in [-1, 1).
        chunk_seconds: audio in one chunk.
    """
    if can_stream(recogniser):
        with num_threads(1):
            stream(recogniser, waveforms[0], chunk_seconds)  # the first chunks are slow
            return [stream(recogniser, waveform, chunk_seconds) for waveform in waveforms]
    outputs = recogniser.forward(*recogniser.extract(waveforms))
    if outputs.hypotheses is not None:
        return [Heard(items[0][0] if items else "", [], [], []) for items in outputs.hypotheses]
    heard = []
    for log_probs in outputs.items:
        path = GreedyPath()
        path.push(log_probs)
        text = recogniser.vocabulary.decode(path.tokens)
        heard.append(Heard(text, path.tokens, path.frames, []))
    return heard


def stream(
    recogniser: Recogniser,
    waveform: np.ndarray,
    chunk_seconds: float,
    decoder: Decoder | None = None,
) -> Heard:
    """Return what a recogniser hears in `(samples,)` chunk by chunk, its text read after each."""
    size = max(1, compute_num_samples(chunk_seconds, recogniser.sample_rate_hz))
    listener = StreamingRecogniser(recogniser, decoder)
    seconds, text = [], ""
    for start in range(0, max(1, len(waveform)), size):
        started = time.perf_counter()
        listener.push(waveform[start : start + size], last=start + size >= len(waveform))
        text = listener.text
        seconds.append(time.perf_counter() - started)
    return Heard(text, listener.path.tokens, listener.path.frames, seconds)


def usual_way(
    recogniser: Teacher, chunk_seconds: float, decoder: Decoder | None = None
) -> Callable[[Sequence[np.ndarray]], Sequence[str]]:
    """Return how a recogniser is meant to run: chunk by chunk if it streams, else in batches.

    Args:
        recogniser: the model.
        chunk_seconds: audio in one chunk.
        decoder: what a student is served with; None: best paths.

    Returns:
        A function from waveforms `(samples,)` to their texts.
    """
    if can_stream(recogniser):
        return lambda waveforms: [
            stream(recogniser, item, chunk_seconds, decoder).text for item in waveforms
        ]
    if decoder is None:
        return recogniser.transcribe
    return lambda waveforms: texts_of(
        decoder, recogniser.forward(*recogniser.extract(waveforms)).items
    )


def latency_figures(
    recogniser: Recogniser,
    heard: Sequence[Heard],
    chunk_seconds: float,
    teacher: Teacher,
    teacher_heard: Sequence[Heard],
) -> Latency:
    """Return how long a streaming recogniser makes one wait.

    Args:
        recogniser: the one that streamed.
        heard: what it heard.
        chunk_seconds: audio in one chunk.
        teacher: a recogniser that heard the same.
        teacher_heard: what that one heard.
    """
    chunks = np.array([seconds for item in heard for seconds in item.chunk_seconds])
    ends = np.array([item.chunk_seconds[-1] for item in heard])
    delay = emission_delay_seconds(
        heard, recogniser.frame_shift_seconds, teacher_heard, teacher.frame_shift_seconds
    )
    return Latency(
        algorithmic=MILLISECONDS * algorithmic_latency_seconds(recogniser),
        chunk=MILLISECONDS * chunk_seconds,
        compute_median=MILLISECONDS * float(np.median(chunks)),
        compute_p95=MILLISECONDS * float(np.percentile(chunks, TAIL_PERCENTILE)),
        final_median=MILLISECONDS * float(np.median(ends)),
        emission_delay=None if delay is None else MILLISECONDS * delay,
    )


def emission_delay_seconds(
    heard: Sequence[Heard],
    frame_shift_seconds: float,
    teacher: Sequence[Heard],
    teacher_shift_seconds: float,
) -> float | None:
    """Return how much later tokens begin than the teacher's, on average; None if none match.

    Tokens are matched by a minimal alignment of the two best paths.

    Args:
        heard: utterances as the student heard them.
        frame_shift_seconds: time between its output frames.
        teacher: the same utterances as the teacher heard them.
        teacher_shift_seconds: time between the teacher's output frames.
    """
    delays = [
        own.frames[block.b + offset] * frame_shift_seconds
        - theirs.frames[block.a + offset] * teacher_shift_seconds
        for own, theirs in zip(heard, teacher, strict=True)
        for block in Levenshtein.opcodes(theirs.tokens, own.tokens).as_matching_blocks()
        for offset in range(block.size)
    ]
    return float(np.mean(delays)) if delays else None
