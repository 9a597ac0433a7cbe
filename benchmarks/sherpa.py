"""Students in sherpa-onnx, beside our own serving: texts, WER, speed; and what features cost.

    python -m benchmarks.sherpa [--data data/prepared] [--models FOLDER …]

On saved students that hear `kaldi_fbank`; without `--models`, those of the workspace. The wheel
`sherpa-onnx` loads what `make export FORMAT=sherpa` writes and hears each utterance of the
validation and the test split by itself, in batches of 16 and, where a student streams, in pieces of
0.1 s. Times are CPU time on one thread, medians of paired rounds over the test split. Rows go to
benchmarks/results/sherpa.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import sherpa_onnx
import torch
import torchaudio
from threadpoolctl import threadpool_limits

from benchmarks.common import paired_rounds, report, row
from distillery.architectures.known import ARCHITECTURES
from distillery.data.kaldi import KaldiFilterBank
from distillery.data.manifest import PreparedData, labelled
from distillery.data.scoring import count_errors
from distillery.device import num_threads
from distillery.models.recogniser import Recogniser
from distillery.params.models import KALDI_FBANK, FeatureParams
from distillery.serve.export import calibration_waveforms, export_student
from distillery.serve.log_mel import NumpyLogMel
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.sherpa import (
    INT8_FILE,
    MODEL_FILE,
    STREAMING_FILE,
    TOKENS_FILE,
    export_sherpa,
)
from distillery.serve.sherpa_streaming import tail_seconds
from distillery.serve.streaming import StreamingRecogniser, can_stream

RATE_HZ, SECONDS, NUM_MELS = 16000, 10, 40
FEATURE_ROUNDS = 31
BATCH = 16
PIECE_SECONDS = 0.1
ROUNDS = 5
PARTS = ("valid", "test")
Hear = Callable[[Sequence[np.ndarray]], list[str]]


def main() -> None:
    """Measure students that sherpa-onnx can run."""
    parser = argparse.ArgumentParser(description="Students in sherpa-onnx.")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--models", type=Path, nargs="*")
    options = parser.parse_args()
    models = options.models or sorted(Path("models/students").glob("*/seed-*/"))
    students = {folder.parent.name: Recogniser.load(folder, ARCHITECTURES) for folder in models}
    data = PreparedData.open(options.data)
    rows = []
    with num_threads(1), threadpool_limits(1):
        for name, student in students.items():
            if student.features.type == KALDI_FBANK:
                rows += measure(name, student, data)
    if not rows:
        sys.exit(f"none of {len(students)} students hears {KALDI_FBANK}, so sherpa-onnx runs none")
    report("sherpa", [*features_rows(), *rows])


def features_rows() -> list[dict[str, Any]]:
    """Return how long each library takes to make the same features."""
    waveform = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE_HZ).astype(np.float32)
    params = FeatureParams(type=KALDI_FBANK, num_mels=NUM_MELS)
    log_mels = FeatureParams(num_mels=NUM_MELS)
    bank, log_mel = KaldiFilterBank(params, RATE_HZ), NumpyLogMel(log_mels, RATE_HZ)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither = RATE_HZ, 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = NUM_MELS
    options.mel_opts.low_freq, options.mel_opts.high_freq = 20, -400

    def library() -> np.ndarray:
        online = kaldi_native_fbank.OnlineFbank(options)
        online.accept_waveform(RATE_HZ, waveform)
        online.input_finished()
        return np.array([online.get_frame(index) for index in range(online.num_frames_ready)])

    def torchaudio_s() -> torch.Tensor:
        return torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(waveform)[None],
            num_mel_bins=NUM_MELS,
            sample_frequency=RATE_HZ,
            snip_edges=False,
            low_freq=20,
            high_freq=-400,
        )

    jobs = {
        "ours, NumPy": lambda: bank(waveform),
        "kaldi-native-fbank": library,
        "torchaudio.compliance.kaldi": torchaudio_s,
        "log_mel, NumPy": lambda: log_mel(waveform),
    }
    with num_threads(1), threadpool_limits(1):
        taken = zip(*paired_rounds(list(jobs.values()), FEATURE_ROUNDS), strict=True)
    against = f"{NUM_MELS} bands, median of {FEATURE_ROUNDS} paired rounds, CPU time"
    return [
        row(
            f"features of {SECONDS} s: {name}",
            1000 * statistics.median(times),
            "ms",
            None,
            None,
            against,
        )
        for name, times in zip(jobs, taken, strict=True)
    ]


def measure(name: str, student: Recogniser, data: PreparedData) -> list[dict[str, Any]]:
    """Return the rows of one student."""
    what = f"{name}: {student.architecture.type}, {student.num_parameters:,} parameters"
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ways = _ways(student, data, folder)
        for part in PARTS:
            spoken = labelled(data, part)
            waveforms = [data.waveform(item) for item in spoken.itertuples()]
            texts = {way: hear(waveforms) for way, hear in ways.items()}
            for way, heard in texts.items():
                ours = texts[_ours(way)]
                same = float(np.mean([a == b for a, b in zip(heard, ours, strict=True)]))
                where = f"{part}, {len(spoken)} utterances"
                is_goal = way in ("sherpa-onnx", "sherpa-onnx, batches")
                wer = _wer(spoken["text"], heard)
                found.append(row(f"{what}: WER, {way}", wer, "%", None, None, where))
                if way == _ours(way):
                    continue
                found.append(
                    row(
                        f"{what}: same texts as {_ours(way)}, {way}",
                        same,
                        "fraction",
                        "1",
                        same == 1,
                        where,
                        is_goal=is_goal,
                    )
                )
        seconds = sum(map(len, waveforms)) / data.sample_rate_hz
        jobs = [lambda hear=hear: hear(waveforms) for hear in ways.values()]
        columns = zip(*paired_rounds(jobs, ROUNDS), strict=True)
        for way, taken in zip(ways, columns, strict=True):
            factor = statistics.median(taken) / seconds
            against = f"test split, median of {ROUNDS} paired rounds, CPU time"
            found.append(row(f"{what}: real-time factor, {way}", factor, "", None, None, against))
    return found


def _ours(way: str) -> str:
    if "8 bits" in way:
        return "ours, 8 bits"
    return "ours, streaming" if "streaming" in way else "ours"


def _ways(student: Recogniser, data: PreparedData, folder: Path) -> dict[str, Hear]:
    student.save(folder)
    export_student(student, data, folder)
    forms = {name: OnnxRecogniser(folder, name) for name in MODEL_FILES}
    ways: dict[str, Hear] = {
        "ours": forms["onnx"].transcribe,
        "ours, 8 bits": forms["onnx-int8"].transcribe,
    }
    exported = folder / "sherpa"
    exported.mkdir()
    export_sherpa(student, exported, calibration_waveforms(data))
    for name, file in (("sherpa-onnx", MODEL_FILE), ("sherpa-onnx, 8 bits", INT8_FILE)):
        ways[name] = _whole(student, exported, file, 1)
    ways["sherpa-onnx, batches"] = _whole(student, exported, MODEL_FILE, BATCH)
    if can_stream(student):
        ways["ours, streaming"] = lambda waveforms: [_followed(student, item) for item in waveforms]
        ways["sherpa-onnx, streaming"] = _streamed(student, exported)
    return ways


def _whole(student: Recogniser, folder: Path, file: str, batch: int) -> Hear:
    rate = student.sample_rate_hz
    recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / file),
        tokens=str(folder / TOKENS_FILE),
        sample_rate=rate,
        feature_dim=student.features.num_mels,
    )

    def hear(waveforms: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for start in range(0, len(waveforms), batch):
            part = waveforms[start : start + batch]
            streams = [recogniser.create_stream() for _ in part]
            for stream, waveform in zip(streams, part, strict=True):
                stream.accept_waveform(rate, waveform)
            recogniser.decode_streams(streams)
            texts += [" ".join(stream.result.text.split()) for stream in streams]
        return texts

    return hear


def _pieces(waveform: np.ndarray, rate: int) -> list[np.ndarray]:
    return np.array_split(waveform, max(1, round(len(waveform) / rate / PIECE_SECONDS)))


def _followed(student: Recogniser, waveform: np.ndarray) -> str:
    stream = StreamingRecogniser(student)
    *first, last = _pieces(waveform, student.sample_rate_hz)
    for piece in first:
        stream.push(piece)
    stream.push(last, last=True)
    return stream.text


def _streamed(student: Recogniser, folder: Path) -> Hear:
    rate = student.sample_rate_hz
    recogniser = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        model=str(folder / STREAMING_FILE),
        tokens=str(folder / TOKENS_FILE),
        sample_rate=rate,
        feature_dim=student.features.num_mels,
        num_threads=1,
    )
    tail = np.zeros(round(tail_seconds(student) * rate), np.float32)

    def hear(waveforms: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for waveform in waveforms:
            stream = recogniser.create_stream()
            for piece in [*_pieces(waveform, rate), tail]:
                stream.accept_waveform(rate, piece)
                while recogniser.is_ready(stream):
                    recogniser.decode_stream(stream)
            texts.append(" ".join(recogniser.get_result(stream).split()))
        return texts

    return hear


def _wer(references: Sequence[str], texts: Sequence[str]) -> float:
    pairs = zip(references, texts, strict=True)
    counts = [count_errors(reference.split(), text.split()) for reference, text in pairs]
    return 100 * sum(c.errors for c in counts) / sum(c.reference_length for c in counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
