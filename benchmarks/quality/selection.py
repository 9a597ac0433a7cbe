"""What chosen recordings are worth, against as many at random: a study of `make select` on AN4.

    python -m benchmarks.quality.selection --source data/raw/an4

A teacher that others trained is stood in for by one that learns from half of the training split
with its transcripts; the students never see that half. The other half is theirs, untranscribed: a
student of each seed learns from the teacher's texts alone (row `none`). That student and the
teacher then choose COUNT recordings, which get their published transcripts, in place of a person,
and the same student is trained again. Rows differ in how they choose; the teacher stays as it is.
Nothing is chosen outside the training split; WERs are those of the official test split. What is
finished is kept in the workspace. Rows go to benchmarks/results/selection.json.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import TypeAdapter

from benchmarks.common import ROOT, report, row
from benchmarks.quality.runs import CHUNK_SECONDS
from benchmarks.quality.settings import WORKSPACES, merged
from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.data.scoring import Counts, count_errors, rate_over_seeds
from distillery.distill.distillation import Distillation
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import TrainedModel
from distillery.files import write_json
from distillery.models.recogniser import Recogniser
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.prepare.prepare import prepare as prepare_data
from distillery.studies.selection import Candidate, choose, find_candidates
from distillery.teacher_cache.store import TeacherCache
from tasks.cache import cache
from tasks.prepare import prepare
from tasks.teacher import teacher

BASE = "examples/an4.yaml"
STUDENT = "conv"
ARCHITECTURE = {"type": "separable_conv", "channels": 96, "num_blocks": 4}
COUNT = 50
SEEDS = (0, 1, 2)
NUM_RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED = 1000, 0.95, 0
CHANGES: dict[str, Any] = {
    "prepare": {"labelled_fraction": 0.5},  # the teacher's half, by hash
    "teacher": {
        "architecture": {
            "type": "conv_bilstm",
            "conv_channels": 16,
            "hidden_size": 96,
            "num_layers": 2,
            "dropout": 0.3,
        },
        "training": {
            "num_epochs": 25,
            "batch_seconds": 40.0,
            "learning_rate": 2.0e-3,
            "num_threads": 1,
        },
    },
    "cache": {"payload": {"hidden_layers": []}},
    "distill": {
        "control": False,
        "objective": {"teacher_share": 0.5, "frame": {"weight": 0.0}},
        "training": {"num_epochs": 32, "num_threads": 1},
    },
}
"""Of BASE: small, so that a study takes some ten minutes of one core."""

Choose = Callable[[Sequence[Candidate], pd.DataFrame, int], list[str]]


def _chosen(candidates: Sequence[Candidate], known: pd.DataFrame, _: int) -> list[str]:
    return [pick.candidate.utterance_id for pick in choose(candidates, COUNT, known)]


def _unsure(candidates: Sequence[Candidate], _: pd.DataFrame, __: int) -> list[str]:
    least = sorted(candidates, key=lambda item: (item.confidence, item.utterance_id))
    return [item.utterance_id for item in least[:COUNT]]


def _random(candidates: Sequence[Candidate], _: pd.DataFrame, seed: int) -> list[str]:
    return random.Random(seed).sample(sorted(c.utterance_id for c in candidates), COUNT)


ROWS: dict[str, Choose] = {
    "random": _random,
    "chosen": _chosen,
    "least confidence alone": _unsure,
}


@dataclass(frozen=True)
class Run:
    """What one training gave."""

    word_errors: list[int]
    """By test utterance."""
    words: list[int]
    seconds: float
    """Audio that was transcribed for it."""
    cpu_seconds: float


@dataclass(frozen=True)
class Study:
    """A workspace with data, teacher and cache, and what was trained there."""

    root: Path
    source: Path

    def bring_up(self) -> None:
        """Prepare data, teacher and cache; what is there stays."""
        base = yaml.safe_load((ROOT / BASE).read_text("utf-8"))
        content = merged(merged(base, CHANGES), {"prepare": {"source": str(self.source)}})
        content["distill"]["students"] = {STUDENT: {"architecture": ARCHITECTURE}}
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / PARAMS_FILE).write_text(yaml.safe_dump(content), encoding="utf-8")
        if not (self.root / "data/prepared").exists():
            prepare(self.root)
        if not (self.root / "models/teacher").exists():
            teacher(self.root)
        cache(self.root)
        (self.root / "runs").mkdir(exist_ok=True)
        if not (self.root / "truth").exists():
            whole = self.params.prepare.model_copy(update={"labelled_fraction": 1.0})
            prepare_data(whole, self.source, self.root / "truth", self.root / "reports")

    @cached_property
    def params(self) -> Params:
        """The settings."""
        return Params.load(self.root / PARAMS_FILE)

    @cached_property
    def data(self) -> PreparedData:
        """The corpus without the teacher's half of the training split."""
        data = PreparedData.open(self.root / "data/prepared")
        is_open = (data.frame["split"] != "train") | data.frame["text"].isna()
        return replace(data, frame=data.frame[is_open].reset_index(drop=True))

    @cached_property
    def truth(self) -> pd.Series:
        """All transcripts by utterance."""
        return PreparedData.open(self.root / "truth").frame.set_index("utterance_id")["text"]

    def run(self, name: str, ids: Sequence[str], seed: int) -> Run:
        """Return what the student of a seed gave with more transcripts, trained where it is new."""
        path = self.root / f"runs/{name.replace(' ', '-')}-{seed}.json"
        if not path.exists():
            frame = self.data.frame.copy()
            is_new = frame["utterance_id"].isin(ids)
            assert (frame.loc[is_new, "split"] == "train").all()
            frame.loc[is_new, "text"] = frame.loc[is_new, "utterance_id"].map(self.truth)
            started = time.process_time()
            data = replace(self.data, frame=frame)
            trained = Distillation(
                data,
                TeacherCache.open_current(self.root / "data/teacher_cache"),
                STUDENT,
                self.params.distill.for_seed(seed),
                self.root / "scratch",
                self.root / "models",
            ).train_student(path.with_suffix(".jsonl"))
            trained.checkpoint.unlink(missing_ok=True)
            spent = time.process_time() - started
            model = trained.recogniser
            model.network.eval()
            if name == "none":
                (folder := self.student(seed)).mkdir(parents=True)
                model.save(folder)
            heard, _ = predict(
                data, labelled_test_rows(data), {TrainedModel("model", None): model}, CHUNK_SECONDS
            )
            errors, words = heard["word_errors"].tolist(), heard["words"].tolist()
            seconds = float(frame.loc[is_new, "duration_seconds"].sum())
            write_json(path, vars(Run(errors, words, seconds, spent)))
        return TypeAdapter(Run).validate_json(path.read_bytes())

    def student(self, seed: int) -> Path:
        """Return where the student that chooses is kept."""
        return self.root / f"chooser/seed-{seed}"

    def ids(self, how: Choose, seed: int) -> list[str]:
        """Return the recordings that a row of a seed transcribes."""
        model = Recogniser.load(self.student(seed), ARCHITECTURES)
        stored = TeacherCache.open_current(self.root / "data/teacher_cache")
        candidates = find_candidates(self.data, stored, {STUDENT: model})
        train = self.data.split("train")
        return how(candidates, train[train["text"].notna()], seed)

    def teachers_errors(self, ids: Sequence[str]) -> str:
        """Return how wrong the teacher is about recordings, and how many speakers they have."""
        rows = self.data.frame[self.data.frame["utterance_id"].isin(ids)]
        stored = TeacherCache.open_current(self.root / "data/teacher_cache")
        said = stored.greedy_texts(stored.rows(list(rows["audio_key"])))
        pairs = zip(self.truth[list(rows["utterance_id"])], said, strict=True)
        counts = sum((count_errors(a.split(), b.split()) for a, b in pairs), Counts(0, 0, 0, 0))
        return (
            f"{counts.errors} word errors in {counts.reference_length} words, "
            f"{rows['speaker'].nunique()} speakers"
        )


def measure(study: Study, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the report's rows: WERs, and each row's gain over the first one named."""
    study.bring_up()
    runs = {"none": [study.run("none", [], seed) for seed in SEEDS]}
    found_by = {"none": "nothing"}
    for name in names:
        found_by[name] = "; ".join(
            study.teachers_errors(study.ids(ROWS[name], seed)) for seed in SEEDS
        )
        runs[name] = [study.run(name, study.ids(ROWS[name], seed), seed) for seed in SEEDS]
    words = np.array(runs["none"][0].words)
    rate = partial(
        rate_over_seeds,
        lengths=words,
        num_resamples=NUM_RESAMPLES,
        confidence=CONFIDENCE,
        seed=BOOTSTRAP_SEED,
    )
    errors = {name: np.array([run.word_errors for run in found]) for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        wer, gain = rate(errors[name]), rate(errors[names[0]] - errors[name])
        seconds = sum(run.seconds for run in found) / len(found)
        spent = sum(run.cpu_seconds for run in found)
        each = ", ".join(f"{100 * value:.1f}" for value in wer.by_seed)
        against = (
            f"seeds {each}; 95 % {100 * wer.low:.1f} to {100 * wer.high:.1f}; {seconds:.0f} s "
            f"transcribed, where the teacher has {found_by[name]}; gain over {names[0]} "
            f"{100 * gain.mean:.1f} points, {100 * gain.low:.1f} to {100 * gain.high:.1f}; "
            f"{spent:.0f} s of CPU"
        )
        rows.append(row(f"student's WER, {name}", 100 * wer.mean, "%", None, None, against))
    return rows


def main() -> None:
    """Train what is not trained yet, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of AN4")
    parser.add_argument("--workspace", type=Path, default=WORKSPACES / "selection")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    options = parser.parse_args()
    study = Study(options.workspace.resolve(), options.source.resolve())
    report("selection", measure(study, options.rows))


if __name__ == "__main__":
    main()
