"""What stages cost at 10,000, 100,000 and 1,000,000 utterances, and with which exponent that grows.

    python -m benchmarks.scale [--sizes 10000 100000 1000000] [--stages prepare features …]

Utterances are generated, and last 20 ms: what is measured is rows, not audio. Each stage works in a
process of its own, by the entry points that the pipeline calls:

    prepare   everything, on recordings that cost next to nothing to decode
    plan      a teacher pass but for most of its partitions: the plan, and two of them
    teacher   a whole teacher pass, with a network of some hundred weights
    features  packing by one thread, then opening what is packed
    distill   what a student does before its first step: the filter, rows, texts, targets,
              features, the plan of an epoch, the digest of it all
    evaluate  everything but listening: errors, intervals, comparisons, tables, of three models

Stated are CPU seconds without imports, the peak of resident memory with them, and the exponent: the
slope between the two largest sizes on logarithmic scales. Rows go to benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import fill, in_child, memory_mib, report, row
from distillery.corpora.base import Recording
from distillery.params.prepare import PrepareParams

SIZES = (10_000, 100_000, 1_000_000)
MAX_EXPONENT = 1.05
MAX_MIB = 1.5 * 1024
RATE_HZ = 8000
SAMPLES = 160
ALPHABET = "abc"
WORDS = ("ab", "ba", "cab", "abc", "bca", "cc")
NUM_SENTENCES = 200
NUM_JUDGED = 100
"""Utterances of validation, and of test where that is not what is measured."""
PARTITION_SECONDS = 25.0
"""Audio of a shard: some 5,000 utterances in a partition."""
NUM_RUN = 2
"""Partitions that `plan` runs."""
ERROR_RATE = 0.2


def sentences() -> list[str]:
    """Return texts; many utterances share one."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 5)) for _ in range(NUM_SENTENCES)]


# --- what stages read ---------------------------------------------------------------------------


def generate(folder: Path, size: int, split: str) -> None:
    """Write prepared data with so many utterances in one split, and a few in the others."""
    from distillery.data.manifest import (
        MANIFEST_FILE,
        SPLITS,
        SUMMARY_FILE,
        SplitCounts,
        Summary,
        shard_name,
    )
    from distillery.files import write_json
    from distillery.prepare.rows import SCHEMA

    counts = {name: size if name == split else NUM_JUDGED for name in SPLITS}
    total, texts = sum(counts.values()), sentences()
    folder.mkdir(parents=True)
    keys = []
    with open(folder / shard_name(0), "wb") as file:
        for index in range(total):
            content = samples(index)[0].tobytes()
            file.write(content)
            keys.append(hashlib.sha256(content).hexdigest())
    index = np.arange(total)
    said = [texts[i % NUM_SENTENCES] for i in range(total)]
    names = [f"utt-{i:07d}" for i in range(total)]
    columns: dict[str, Any] = {
        "utterance_id": names,
        "speaker": [f"speaker-{i % 997}" for i in range(total)],
        "split": [name for name, count in counts.items() for _ in range(count)],
        "text": said,
        "text_original": said,
        "source_path": [f"{name}.wav" for name in names],
        "shard": np.zeros(total, np.int32),
        "offset_samples": index * SAMPLES,
        "num_samples": np.full(total, SAMPLES),
        "duration_seconds": np.full(total, SAMPLES / RATE_HZ),
        "audio_key": keys,
        **{name: np.zeros(total) for name in SCHEMA.names[-4:]},
    }
    table = pa.Table.from_arrays(
        [pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA
    )
    pq.write_table(table, folder / MANIFEST_FILE, compression="zstd")
    summary = Summary(
        corpus="manifest",
        sample_rate_hz=RATE_HZ,
        text_rule="",
        alphabet=ALPHABET,
        split_rule={},
        splits={name: SplitCounts(count, count, 0, 0, 0.0) for name, count in counts.items()},
        num_hidden_transcripts=0,
        dropped={},
    )
    write_json(folder / SUMMARY_FILE, summary.entries)


def samples(index: int) -> tuple[np.ndarray, int]:
    """Return int16 samples `(samples,)` that no other utterance has, and their rate."""
    wave = _tone(index % 1009).copy()
    wave[:8] += np.frombuffer(index.to_bytes(8, "little"), np.uint8)
    return wave, RATE_HZ


@functools.cache
def _tone(number: int) -> np.ndarray:
    time = np.arange(SAMPLES)
    return (8000 * np.sin(time * (0.05 + number / 1000))).astype("<i2")


def save_teacher(folder: Path) -> None:
    """Save a network of some hundred weights that nobody trained."""
    from distillery.architectures.known import TEACHERS
    from distillery.data.text import Vocabulary
    from distillery.models.fingerprint import fingerprint
    from distillery.models.recogniser import Recogniser
    from distillery.params.models import ConvBiLSTMParams, FeatureParams

    architecture = ConvBiLSTMParams(
        type="conv_bilstm", conv_channels=1, hidden_size=2, num_layers=1
    )
    vocabulary = Vocabulary.from_alphabet(ALPHABET)
    network = TEACHERS["conv_bilstm"](architecture, 8, len(vocabulary)).eval()
    features = FeatureParams(num_mels=8)
    teacher = Recogniser(network, architecture, features, vocabulary, RATE_HZ)
    folder.mkdir(parents=True)
    teacher.save(folder)
    fingerprint(teacher).save(folder)


# --- stages: what is called returns what is measured ----------------------------------------------


def prepare(folder: Path, size: int) -> Callable[[], object]:
    """Prepare recordings that are generated when they are read."""
    from distillery.corpora.known import CORPORA
    from distillery.prepare import prepare as preparation

    texts = sentences()

    def read(_params: PrepareParams, _source: Path) -> Iterable[Recording]:
        for index in range(size):
            name = f"utt-{index:07d}"
            speaker, text = f"speaker-{index % 997}", texts[index % NUM_SENTENCES]
            audio = functools.partial(samples, index)
            yield Recording(name, f"{name}.wav", speaker, text, None, audio)

    CORPORA["manifest"] = read
    params = PrepareParams(
        corpus="manifest",
        source="corpus",
        sample_rate_hz=RATE_HZ,
        min_duration_seconds=0.01,
        too_short_for_ctc="keep",
    )
    return lambda: preparation.prepare(
        params, folder, folder / "prepared", folder, decisions=folder / "splits.csv"
    )


def teacher(folder: Path, size: int, *, is_whole: bool = True) -> Callable[[], object]:
    """Run a teacher pass; or plan it, and run a few of its partitions."""
    from distillery.params.cache import CacheParams
    from distillery.teacher_cache.filling import fill as filling
    from distillery.teacher_cache.filling import workers
    from distillery.teacher_cache.filling.expected import Places, expected_namespace
    from distillery.teacher_cache.filling.plan import PartitionReport
    from distillery.teacher_cache.store import TeacherCache
    from distillery.teachers.kinds import load_teacher

    places = Places(folder / "data", folder / "teacher", folder / "cache")
    params = CacheParams(batch_seconds=4.0, shard_seconds=PARTITION_SECONDS, device="cpu")
    if is_whole:
        return lambda: filling.fill_cache(places, load_teacher, params)
    run, num_run = workers.run_partition, 0

    def run_some(partition: Any, progress: Any) -> PartitionReport:
        nonlocal num_run
        num_run += 1
        return run(partition, progress) if num_run <= NUM_RUN else PartitionReport()

    def plan() -> None:
        rows = filling._rows(places, params)
        cache = TeacherCache.create(places.cache, expected_namespace(places, params))
        todo = rows[~cache.holds(rows["audio_key"])].drop_duplicates("audio_key")
        filling._run(places, load_teacher, cache, todo.reset_index(drop=True), params)

    workers.run_partition = run_some  # type: ignore[assignment]
    return plan


def features(folder: Path, size: int) -> Callable[[], object]:
    """Pack features, and open them again, as the next student does."""
    from distillery.data import feature_store
    from distillery.data.copies import LEARNT_COLUMNS
    from distillery.data.features import pack_features
    from distillery.data.manifest import DESCRIPTIONS, PreparedData
    from distillery.params.models import FeatureParams

    # What two threads take varies by more than what is looked for.
    feature_store.usable_cores = lambda: 1

    def once() -> None:
        data = PreparedData.open(folder / "data", without=DESCRIPTIONS)
        rows = data.split("train", LEARNT_COLUMNS)
        pack_features(data, rows, FeatureParams(num_mels=8), folder / "scratch")

    def pack() -> None:
        once()
        once()

    return pack


def cache_and_pack(folder: Path) -> None:
    """Write a teacher cache and features of prepared data, uniform and zero."""
    from distillery.data.feature_store import FeatureStore
    from distillery.data.manifest import PreparedData
    from distillery.data.text import Vocabulary
    from distillery.teacher_cache.namespace import Namespace
    from distillery.teacher_cache.shards import Entry, Hypothesis

    frame = PreparedData.open(folder / "data").split("train")
    tokens = Vocabulary.from_alphabet(ALPHABET).tokens
    uniform = np.full((2, len(tokens)), -math.log(len(tokens)), np.float32)

    def entries() -> Iterator[Entry]:
        for key, text in zip(frame["audio_key"], frame["text"], strict=True):
            yield Entry(key, uniform, text, 0.9, (Hypothesis(text, -1.0),))

    fill(folder / "cache", Namespace({}, tokens, 0.01, {"kind": "u8"}), entries()).make_current()
    values = np.zeros((3, 8), np.float16)
    FeatureStore(folder / "features", 8).pack(frame[["audio_key"]], lambda _: values)


def distill(folder: Path, size: int) -> Callable[[], object]:
    """Get a student ready for its first step, features packed and teacher cached."""
    from distillery.data.feature_store import FeatureStore
    from distillery.data.manifest import DESCRIPTIONS, PreparedData
    from distillery.distill import distillation
    from distillery.errors import CorpusError
    from distillery.params.distill import DistillParams
    from distillery.teacher_cache.store import TeacherCache
    from distillery.training.curves import run_digest

    store = FeatureStore(folder / "features", 8)
    distillation.pack_features = lambda _data, rows, *_: store.pack(rows, lambda _: 1 / 0)
    params = DistillParams.model_validate(
        {
            "objective": {},
            "training": {"max_unalignable_fraction": 1.0},
            "students": {"conv": {"architecture": {"type": "separable_conv"}}},
        }
    )

    def start() -> None:
        data = PreparedData.open(folder / "data", without=DESCRIPTIONS)
        cache = TeacherCache.open_current(folder / "cache")
        student = distillation.Distillation(data, cache, "conv", params, folder / "scratch")
        rows = student.student_rows()
        with suppress(CorpusError):  # at the end: no text fits into 20 ms
            student.check_student_texts()
        training_set = student._student_set(rows)
        training_set.plan(0)
        run_digest(cache.manifest_digest, chain(rows["audio_key"], rows["text"]))

    return start


def evaluate(folder: Path, size: int) -> Callable[[], object]:
    """Judge what three models are said to have heard in the test split."""
    from distillery.data.manifest import ORIGINS, PreparedData
    from distillery.data.units import Unit
    from distillery.evaluate.comparison import compare
    from distillery.evaluate.evaluate import describe
    from distillery.evaluate.listening import JUDGED_COLUMNS, labelled_test_rows, predictions_of
    from distillery.evaluate.models import TrainedModel
    from distillery.evaluate.predictions import by_duration, per_speaker, rows_of
    from distillery.evaluate.rates import rates
    from distillery.params.evaluate import EvaluateParams

    random, params = np.random.default_rng(1), EvaluateParams()

    def heard_by_each(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
        for model, seed in (("teacher", None), ("students/conv", 0), ("controls/conv", 0)):
            is_wrong = random.random(len(rows)) < ERROR_RATE
            heard = [
                text[3:] if wrong else text
                for text, wrong in zip(rows["text"], is_wrong, strict=True)
            ]
            yield predictions_of(TrainedModel(model, seed), rows, heard, Unit.WORD)

    def judge() -> None:
        data = PreparedData.open(folder / "data", without=ORIGINS)
        rows = labelled_test_rows(data)[JUDGED_COLUMNS]
        describe(rows)
        predictions = pd.concat(heard_by_each(rows), ignore_index=True)
        for model in predictions["model"].unique():
            rates(rows_of(predictions, model), params)
        compare("conv", predictions, params)
        per_speaker(predictions)
        by_duration(predictions)
        predictions.to_parquet(folder / "predictions.parquet", index=False)

    return judge


STAGES: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "prepare": prepare,
    "plan": functools.partial(teacher, is_whole=False),
    "teacher": teacher,
    "features": features,
    "distill": distill,
    "evaluate": evaluate,
}


def ready(stage: str, folder: Path, size: int) -> None:
    """Write what a stage reads, in a process of its own, whose memory does not count."""
    if stage == "prepare":
        folder.mkdir()
        return
    generate(folder / "data", size, "test" if stage == "evaluate" else "train")
    if stage in ("plan", "teacher"):
        save_teacher(folder / "teacher")
    if stage == "distill":
        cache_and_pack(folder)


# --- measuring -----------------------------------------------------------------------------------


def cost(stage: str, size: int) -> dict[str, float]:
    """Return CPU seconds and peak memory of a stage; to be called in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        in_child("benchmarks.scale", "--ready", stage, small, NUM_JUDGED)
        in_child("benchmarks.scale", "--ready", stage, large, size)
        STAGES[stage](small, NUM_JUDGED)()  # what libraries need once
        work = STAGES[stage](large, size)
        started = _cpu_seconds()
        work()
        return {"cpu": _cpu_seconds() - started, "mib": memory_mib("VmHWM")}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rows_of(stage: str, costs: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """Return a stage's rows: each size, the exponent, the memory at the largest."""
    found = [
        row(f"{stage}, {size:,} utterances", item["cpu"], "CPU seconds", None, None,
            f"peak memory {item['mib']:.0f} MiB")
        for size, item in costs.items()
    ]  # fmt: skip
    *_, small, large = sorted(costs)
    exponent = math.log(costs[large]["cpu"] / costs[small]["cpu"]) / math.log(large / small)
    among = f"{small:,} and {large:,} utterances"
    goal = f"at most {MAX_EXPONENT}"
    found.append(row(f"{stage}, exponent", exponent, "", goal, exponent <= MAX_EXPONENT, among))
    if large < max(SIZES):  # what a million would take is not known
        return found
    mib = costs[large]["mib"]
    goal = f"at most {MAX_MIB:.0f}"
    found.append(row(f"{stage}, peak memory", mib, "MiB", goal, mib <= MAX_MIB, among))
    return found


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--name", default="scale", help="of the file of results")
    parser.add_argument("--ready", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--cost", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ready:
        stage, folder, size = arguments.ready
        ready(stage, Path(folder), int(size))
        print("null")
        return
    if arguments.cost:
        print(json.dumps(cost(arguments.cost[0], int(arguments.cost[1]))))
        return
    rows: list[dict[str, Any]] = []
    for stage in arguments.stages:
        sizes = sorted(arguments.sizes)
        costs = {size: in_child("benchmarks.scale", "--cost", stage, size) for size in sizes}
        rows += rows_of(stage, costs)
    report(arguments.name, rows)


if __name__ == "__main__":
    main()
