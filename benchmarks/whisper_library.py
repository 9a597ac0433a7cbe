"""What the teacher `faster_whisper` costs, against the library of that name used by hand.

    python -m benchmarks.whisper_library --model FOLDER --audio FOLDER [--seconds 60] [--rounds 5]

Both hear the same recordings one by one on one thread, with the same beams, in paired rounds, in
CPU time. By hand means WhisperModel.transcribe without time-stamps and without retries at other
temperatures. A second pair detects the language. The last row asks whether several utterances in
one call of CTranslate2 would cost less. Rows go to benchmarks/results/whisper_library.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.common import paired_medians, report, row
from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.device import num_threads
from distillery.teachers import faster_whisper
from distillery.teachers.ctranslate2_files import digests_of_model
from distillery.teachers.faster_whisper import (
    FasterWhisperSettings,
    FasterWhisperTeacher,
    PublishedFiles,
)

MODEL_RATE_HZ = 16000
AT_ONCE = 8
BEAM_SIZE = 5
MAX_OF_HAND = 1.1
LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def read_audio(folder: Path, seconds: float) -> list[np.ndarray]:
    """Return recordings of a folder, float32 `(samples,)` at 16 kHz, in the order of their names.

    Args:
        folder: of FLAC or WAV files, folders below it included.
        seconds: of audio, together.
    """
    found: list[np.ndarray] = []
    for path in sorted([*folder.rglob("*.flac"), *folder.rglob("*.wav")]):
        samples, rate = soundfile.read(path, dtype="float32")
        if rate == MODEL_RATE_HZ:
            found.append(samples)
        if duration(found) >= seconds:
            return found
    raise SystemExit(f"error: {folder}: holds {duration(found):.0f} s at 16 kHz, fewer than asked")


def duration(waveforms: Sequence[np.ndarray]) -> float:
    """Return seconds of audio."""
    return sum(map(len, waveforms)) / MODEL_RATE_HZ


def take(folder: Path, language: str | None) -> FasterWhisperTeacher:
    """Return the teacher of a folder."""
    settings = FasterWhisperSettings(
        architecture=PublishedFiles(digests_of_model(folder)),
        sample_rate_hz=MODEL_RATE_HZ,
        compute_type="int8",
        beam_size=BEAM_SIZE,
        language=language,
        task="transcribe",
        prompt=None,
        hot_words=[],
        spelling=SpellingRule("cardinals", "spell", "en"),
    )
    return FasterWhisperTeacher(settings, folder, Vocabulary.from_alphabet(LETTERS))


def ours(teacher: FasterWhisperTeacher, audio: Sequence[np.ndarray]) -> Callable[[], object]:
    """Return the job of the teacher: features, search, hypotheses, hidden states."""
    return lambda: [teacher.forward(*teacher.extract([item]), ["last"]) for item in audio]


def by_hand(teacher: FasterWhisperTeacher, audio: Sequence[np.ndarray]) -> Callable[[], object]:
    """Return the job of the library alone."""

    def work() -> None:
        for item in audio:
            segments, _ = teacher.model.transcribe(
                item,
                language=teacher.language,
                beam_size=BEAM_SIZE,
                temperature=0,
                without_timestamps=True,
                condition_on_previous_text=False,
            )
            list(segments)

    return work


def batched(teacher: FasterWhisperTeacher, audio: Sequence[np.ndarray]) -> Callable[[], object]:
    """Return the job of the teacher with several utterances in one call."""
    longest_last = sorted(audio, key=len)

    def work() -> None:
        before = dict(faster_whisper.AT_ONCE)
        faster_whisper.AT_ONCE["cpu"] = AT_ONCE
        try:
            teacher.forward(*teacher.extract(longest_last), ["last"])
        finally:
            faster_whisper.AT_ONCE.update(before)

    return work


def measure(folder: Path, audio: Sequence[np.ndarray], rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    told, detecting = take(folder, "en"), take(folder, None)
    works = [ours(told, audio), by_hand(told, audio), batched(told, audio)]
    works += [ours(detecting, audio), by_hand(detecting, audio)]
    with num_threads(1), torch.inference_mode():
        own, hand, together, own_detecting, hand_detecting = paired_medians(works, rounds)
    seconds = duration(audio)
    what = f"{folder.name}, {len(audio)} utterances, {seconds:.0f} s, beam {BEAM_SIZE}, 1 thread"
    pairs = [("language set", own, hand), ("language detected", own_detecting, hand_detecting)]
    rows = [
        row(
            f"teacher faster_whisper against the library by hand, {name}, CPU time",
            mine / theirs,
            "times the library's",
            f"at most {MAX_OF_HAND:g}",
            mine <= MAX_OF_HAND * theirs,
            f"{mine:.2f} s against {theirs:.2f} s; {what}",
        )
        for name, mine, theirs in pairs
    ]
    for name, cost in [("one by one", own), (f"{AT_ONCE} in one call", together)]:
        rows.append(
            row(
                f"teacher faster_whisper, {name}",
                seconds / cost,
                "seconds of audio per CPU second",
                None,
                None,
                what,
            )
        )
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder, CTranslate2's format")
    parser.add_argument("--audio", type=Path, required=True, help="folder of recordings, 16 kHz")
    parser.add_argument("--seconds", type=float, default=60, help="of audio")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    audio = read_audio(arguments.audio, arguments.seconds)
    report("whisper_library", measure(arguments.model, audio, arguments.rounds))


if __name__ == "__main__":
    main()
