"""What exporting a student is worth: PyTorch against ONNX in floats and in 8-bit integers.

    python -m benchmarks.export [--workspace .] [--rounds 9]

On the students of a workspace, `models/students`, best from AN4's settings. Times are CPU time on
one thread, medians of paired rounds, over 10 s of the test split's audio: of the network alone,
from features to log-probabilities, and of everything, from waveform to text. Word errors and
changes of log-probabilities are over the whole test split, each utterance by itself. Then how long
a fresh process takes to load a student and transcribe its first recording. Rows go to
benchmarks/results/export.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.common import ROOT, paired_rounds, report, row
from distillery.architectures.known import ARCHITECTURES
from distillery.data.audio import compute_num_samples
from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_errors
from distillery.device import num_threads
from distillery.evaluate.listening import labelled_test_rows, speed_clip
from distillery.models.decoding import greedy_text
from distillery.models.recogniser import WEIGHTS_FILE, Recogniser
from distillery.serve.export import export_student
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser

CLIP_SECONDS = (10.0, 0.5)
MIN_SPEED_UP, MAX_BYTES_FRACTION, MAX_WER_LOSS = 4.5, 0.35, 0.005
STARTS = 3
CONVOLUTIONAL = "separable_conv"


def main() -> None:
    """Measure every student of a workspace."""
    parser = argparse.ArgumentParser(description="PyTorch against exported students.")
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    models = sorted((options.workspace / "models/students").glob("*/seed-*/"))
    data = PreparedData.open(options.workspace / "data/prepared")
    rows = []
    with num_threads(1), threadpool_limits(1):
        for folder in models:
            rows += measure(folder, data, options.rounds)
    report("export", rows)


def measure(folder: Path, data: PreparedData, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of one student.

    Args:
        folder: where it was saved.
        data: prepared data.
        rounds: paired ones.
    """
    student = Recogniser.load(folder, ARCHITECTURES)
    kind = student.architecture.type
    what = f"{folder.parent.name}: {kind}, {student.num_parameters:,} parameters"
    is_goal = kind == CONVOLUTIONAL
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary)
        student.save(target)
        export_student(student, data, target)
        forms = {name: OnnxRecogniser(target, name) for name in MODEL_FILES}
        found = []
        for seconds in CLIP_SECONDS:
            found += _speeds(student, forms, data, seconds, rounds, what, is_goal)
        for name, form in forms.items():
            share = form.num_bytes / (folder / WEIGHTS_FILE).stat().st_size
            found.append(
                row(
                    f"{what}: bytes, {name}",
                    share,
                    "of PyTorch's",
                    f"<= {MAX_BYTES_FRACTION}",
                    share <= MAX_BYTES_FRACTION,
                    WEIGHTS_FILE,
                    is_goal=is_goal and name == "onnx-int8",
                )
            )
        found += _errors(student, forms, data, what, is_goal)
        found += _starts(target, what)
    return found


def _speeds(
    student: Recogniser,
    forms: dict[str, OnnxRecogniser],
    data: PreparedData,
    seconds: float,
    rounds: int,
    what: str,
    is_goal: bool,
) -> list[dict[str, Any]]:
    clip = speed_clip(data, labelled_test_rows(data), seconds)
    assert len(clip) == compute_num_samples(seconds, data.sample_rate_hz)
    tensor, lengths = student.extract([clip])
    features = tensor.numpy()
    found = []
    networks: list[Callable[[], object]] = [lambda: student.forward(tensor, lengths)]
    networks += [lambda form=form: form.run(features) for form in forms.values()]
    whole: list[Callable[[], object]] = [lambda: student.transcribe([clip])]
    whole += [lambda form=form: form.transcribe([clip]) for form in forms.values()]
    for part, works in (("network alone", networks), ("waveform to text", whole)):
        taken = paired_rounds([_repeated(work) for work in works], rounds)
        for position, name in enumerate(forms, start=1):
            ratio = statistics.median(times[0] / times[position] for times in taken)
            is_fast = name == "onnx-int8" and part == "network alone" and seconds == 10.0
            found.append(
                row(
                    f"{what}: {seconds:g} s of audio, {part}, {name}",
                    ratio,
                    "times as fast as PyTorch",
                    f">= {MIN_SPEED_UP}",
                    ratio >= MIN_SPEED_UP,
                    f"median of {rounds} paired rounds, CPU time",
                    is_goal=is_goal and is_fast,
                )
            )
    return found


def _repeated(work: Callable[[], object]) -> Callable[[], None]:
    """Return a job that does the work often enough to be timed."""

    def job() -> None:
        for _ in range(10):
            work()

    return job


def _errors(
    student: Recogniser,
    forms: dict[str, OnnxRecogniser],
    data: PreparedData,
    what: str,
    is_goal: bool,
) -> list[dict[str, Any]]:
    rows = labelled_test_rows(data)
    texts: dict[str, list[str]] = {"torch": [], **{name: [] for name in forms}}
    changes = dict.fromkeys(forms, 0.0)
    for item in rows.itertuples():
        waveform = data.waveform(item)
        (expected,) = student.log_probs([waveform])
        texts["torch"].append(greedy_text(expected, student.vocabulary))
        for name, form in forms.items():
            (found,) = form.log_probs([waveform])
            texts[name].append(greedy_text(found, form.vocabulary))
            changes[name] = max(changes[name], float(np.abs(found - expected).max()))
    wers, counted = {}, {}
    for name, said in texts.items():
        counts = [
            count_errors(reference.split(), text.split())
            for reference, text in zip(rows["text"], said, strict=True)
        ]
        wers[name] = sum(c.errors for c in counts) / sum(c.reference_length for c in counts)
        kinds = ("substitutions", "deletions", "insertions")
        counted[name] = "/".join(str(sum(getattr(c, kind) for c in counts)) for kind in kinds)
    found = []
    for name in forms:
        loss = wers[name] - wers["torch"]
        same = np.mean([a == b for a, b in zip(texts[name], texts["torch"], strict=True)])
        test = f"test split, {len(rows)} utterances"
        against = (
            f"{test}; S/D/I {counted[name]}, PyTorch {counted['torch']} "
            f"({100 * wers['torch']:.2f} %)"
        )
        found += [
            row(
                f"{what}: WER lost, {name}",
                100 * loss,
                "points",
                f"<= {100 * MAX_WER_LOSS}",
                loss <= MAX_WER_LOSS,
                against,
                is_goal=is_goal and name == "onnx-int8",
            ),
            row(
                f"{what}: same texts, {name}",
                float(same),
                "fraction",
                "1",
                bool(same == 1),
                test,
                is_goal=name == "onnx",
            ),
            row(f"{what}: largest change of ln p, {name}", changes[name], "nat", None, None, test),
        ]
    return found


def _starts(folder: Path, what: str) -> list[dict[str, Any]]:
    """Return how long fresh processes take from their start to the first text."""
    onnx = "from distillery.serve.onnx_recogniser import OnnxRecogniser as R; m = R(f, '{name}')"
    codes = {
        "torch": "from distillery.models.recogniser import Recogniser as R; "
        "from distillery.architectures.known import STUDENTS as S; m = R.load(f, S)",
        **{name: onnx.format(name=name) for name in MODEL_FILES},
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(STARTS):
        for name, code in codes.items():
            script = (
                "import sys, numpy; from pathlib import Path; f = Path(sys.argv[1])\n"
                f"{code}; m.transcribe([numpy.zeros(16000, numpy.float32)])"
            )
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True)
            taken[name].append(time.perf_counter() - started)
    return [
        row(
            f"{what}: process start to first text, {name}",
            min(times),
            "s",
            None,
            None,
            f"fastest of {STARTS}",
        )
        for name, times in taken.items()
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
