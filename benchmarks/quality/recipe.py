"""How a network is best trained on transcripts alone: AN4's control, several recipes and seeds.

    python -m benchmarks.quality.recipe --source data/raw/an4 --rows auto --test

The student `conv` of examples/an4.yaml learns all transcripts without a teacher. Recipes are chosen
by the validation split; `--test` counts errors on the official test split, too, for the final
comparison. Every training is written to benchmarks/results/recipe.json as soon as it has ended, and
is not made again while it stands there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common import RESULTS, ROOT, commit, machine
from distillery.architectures.known import STUDENTS
from distillery.data.features import pack_features
from distillery.data.manifest import PreparedData, labelled
from distillery.data.scoring import Counts, count_text_errors
from distillery.evaluate.listening import batches
from distillery.files import whole_folder, write_json
from distillery.models.recogniser import Recogniser
from distillery.params.distill import DistillParams, StudentTrainingParams
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.training.batches import TrainingSet
from distillery.training.curves import CPU_SECONDS, VALID_WER, Curves
from distillery.training.datasets import validation_set
from distillery.training.objective import TranscriptObjective
from distillery.training.trainer import Trainer
from tasks.prepare import prepare

WORKSPACE = ROOT / "scratch/recipe"
STUDENT = "conv"
SHORT: Mapping[str, Any] = {
    "num_epochs": "auto",
    "max_epochs": 20,
    "cooldown_fraction": 0.0,
    "zero_output": False,
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "cosine, 80 epochs": {"num_epochs": 80},
    "cosine, 80 epochs, output from 0": {"num_epochs": 80, "zero_output": True},
    "auto, output at random": {"num_epochs": "auto", "zero_output": False},
    "auto, no average": {"num_epochs": "auto", "average_steps": 0},
    "auto, with a cooldown": {"num_epochs": "auto", "cooldown_fraction": 0.2},
    "auto": {"num_epochs": "auto"},
    # What could mend a seed that does not get going shows within 20 epochs.
    "20 epochs, output at random": SHORT,
    "20 epochs, half the step size": {**SHORT, "learning_rate": 2e-3},
    "20 epochs, batches of 20 s": {**SHORT, "batch_seconds": 20.0},
    "20 epochs, gradients of 1": {**SHORT, "max_gradient_norm": 1.0},
    "20 epochs, twice the warm-up": {**SHORT, "warmup_steps": 800},
    "20 epochs, output from 0": {**SHORT, "zero_output": True},
}
"""By name, what differs from the settings that all share: examples/an4.yaml's, one thread, fp32."""
DIGITS = 4


@dataclass(frozen=True)
class Recipes:
    """Trains recipes in a workspace, and keeps what each training gave."""

    workspace: Path
    path: Path
    """The JSON file of all rows."""

    def bring_up(self, source: Path) -> None:
        """Prepare the corpus; what is there stays."""
        content = yaml.safe_load((ROOT / "examples/an4.yaml").read_text("utf-8"))
        content["prepare"]["source"] = str(source)
        self.workspace.mkdir(parents=True, exist_ok=True)
        (self.workspace / PARAMS_FILE).write_text(yaml.safe_dump(content), "utf-8")
        if not (self.workspace / "data/prepared").exists():
            prepare(self.workspace)

    def rows(self) -> list[dict[str, Any]]:
        """Return what is finished."""
        return json.loads(self.path.read_text("utf-8")) if self.path.exists() else []

    def run(self, name: str, seed: int, *, test: bool) -> None:
        """Train one recipe from one seed, unless that was done."""
        model = self.workspace / "models" / f"{name}, seed {seed}"
        if not model.exists():
            self._train_once(name, seed, model)
        if test:
            self._count_test_errors(name, seed, model)

    def _train_once(self, name: str, seed: int, folder: Path) -> None:
        settings = Params.load(self.workspace / PARAMS_FILE).distill.for_seed(seed)
        common = {"precision": "fp32", "num_threads": 1, "seed": seed}
        base = settings.training.model_dump(exclude={"num_epochs"})
        training = StudentTrainingParams(**{**base, **common, **RECIPES[name]})
        row, model = self._train(settings, training)
        with whole_folder(folder) as temporary:
            model.save(temporary)
        self._write({"recipe": name, "seed": seed, **row})

    def _count_test_errors(self, name: str, seed: int, folder: Path) -> None:
        (row,) = [row for row in self.rows() if (row["recipe"], row["seed"]) == (name, seed)]
        data = PreparedData.open(self.workspace / "data/prepared")
        rate = _test_wer(Recogniser.load(folder, STUDENTS), data)
        self._write({**row, "test_wer": round(rate, DIGITS)})

    def _write(self, row: Mapping[str, Any]) -> None:
        rows = {(old["recipe"], old["seed"]): old for old in self.rows()}
        write_json(self.path, [*{**rows, (row["recipe"], row["seed"]): row}.values()])

    def _train(
        self, settings: DistillParams, training: StudentTrainingParams
    ) -> tuple[dict[str, Any], Recogniser]:
        data = PreparedData.open(self.workspace / "data/prepared")
        rows, features = labelled(data, "train"), settings.features
        scratch, vocabulary = self.workspace / "scratch", data.vocabulary
        packed = pack_features(data, rows, features, scratch)
        labels = [vocabulary.encode(text) for text in rows["text"]]
        items = TrainingSet(
            [packed], labels, features.hop_seconds, training.batch_seconds, training.seed
        )
        architecture = settings.students[STUDENT].architecture
        torch.manual_seed(training.seed)
        network = STUDENTS[architecture.type](architecture, features.num_mels, len(vocabulary))
        if training.starts_even:
            network.start_even()
        validation = validation_set(data, features, training, scratch, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, curves = Path(folder, "run.pt"), Curves(Path(folder, "curves.jsonl"))
            result = Trainer(
                network,
                items,
                TranscriptObjective(),
                validation,
                training,
                checkpoint,
                curves,
                "control",
            ).fit()
        model = Recogniser(network, architecture, features, vocabulary, data.sample_rate_hz)
        row = {
            "settings": training.model_dump(exclude={"specaugment", "device"}),
            "num_epochs": result.num_epochs,
            "best_epoch": result.best_epoch,
            "converged": result.converged,
            "valid_wer": round(result.best_wer, DIGITS),
            "cpu_seconds": round(curves.values(CPU_SECONDS)[-1], 1),
            "valid_wer_by_epoch": [round(rate, DIGITS) for rate in curves.values(VALID_WER)],
            "machine": machine(),
            "commit": commit(),
        }
        return row, model


def _test_wer(model: Recogniser, data: PreparedData) -> float:
    rows = labelled(data, "test")
    listed, total = list(rows.itertuples()), Counts(0, 0, 0, 0)
    for batch in batches(rows["duration_seconds"].to_numpy()):
        texts = model.transcribe([data.waveform(listed[row]) for row in batch])
        for row, text in zip(batch, texts, strict=True):
            total = total + count_text_errors(str(listed[row].text), text, data.unit_of("test"))
    return total.rate


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| recipe | seed | epochs | converged | CPU s | validation WER, % | test WER, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["recipe"], row["seed"])):
        test = f"{100 * row['test_wer']:.1f}" if "test_wer" in row else "-"
        lines.append(
            f"| {row['recipe']} | {row['seed']} | {row['num_epochs']} "
            f"| {'yes' if row['converged'] else 'no'} | {row['cpu_seconds']:.0f} "
            f"| {100 * row['valid_wer']:.1f} | {test} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train what is asked for and print the table of all that is finished."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="AN4's published folder")
    parser.add_argument("--rows", nargs="+", choices=RECIPES, default=["auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workspace", type=Path, default=WORKSPACE)
    parser.add_argument("--test", action="store_true", help="count errors on the test split, too")
    options = parser.parse_args()
    recipes = Recipes(options.workspace, RESULTS / "recipe.json")
    recipes.bring_up(options.source.resolve())
    for name in options.rows:
        for seed in options.seeds:
            recipes.run(name, seed, test=options.test)
    print(table(recipes.rows()))


if __name__ == "__main__":
    main()
