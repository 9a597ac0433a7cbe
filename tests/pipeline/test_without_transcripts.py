"""The real job: a recogniser that others trained, and recordings that nobody has transcribed.

With a real Whisper and real recordings where they are; few and short ones, but every stage.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from distillery.data.manifest import PreparedData
from distillery.data.units import Unit
from distillery.evaluate.summary import Summary
from distillery.evaluate.tables import render_table
from distillery.params.whole import Params
from distillery.register.registered import Registered
from distillery.teacher_cache.store import TeacherCache
from distillery.tracking.store import Tracking
from distillery.tracking.versions import SPELLING_TAG
from flows.looking_back import report
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.lineage import RESULTS
from tasks.prepare import prepare
from tasks.register import register
from tasks.teacher import teacher
from tests.conftest import SHARED_DATA, SHARED_MODELS
from tests.stores import mlflow_of, put_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Run

NUM_RECORDINGS = 8
STUDENT = "models/students/conv/seed-0"
SETTINGS = """
prepare: {corpus: manifest, source: orders, manifest: manifest.tsv, language: en}
teacher: {kind: faster_whisper, model: whisper, beam_size: 2}
cache: {audit_utterances: 1, payload: {num_hypotheses: 2, hidden_layers: [last]}}
distill:
  control: auto
  objective:
    teacher_share: 1.0
    frame: {weight: 0.0}
    sequence: {weight: 1.0}
    hidden: {layers: {last: last}, weight: 0.7}
  training: {num_epochs: 2}
  students:
    conv: {architecture: {type: separable_conv, channels: 16, num_blocks: 1}}
evaluate: {num_resamples: 100, speed_seconds: 1.0, speed_repeats: 1}
register: {experiment: orders, model_name: orders, decoder: {}}
"""
"""What a user writes, and what makes a test short."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran on orders whose slots are known, and no transcript."""
    for folder in (SHARED_DATA / "coffee", SHARED_MODELS / "whisper-base-int8"):
        if not folder.is_dir():
            pytest.skip(f"{folder} is absent: others' models and recordings are not in Git")
    root = put_mlflow(tmp_path_factory.mktemp("real"))
    (root / "whisper").symlink_to(SHARED_MODELS / "whisper-base-int8")
    write_orders(root / "orders", SHARED_DATA / "coffee")
    (root / "params.yaml").write_text(SETTINGS)
    for stage in (prepare, teacher, cache):
        stage(root)
    distill(root, "conv", 0)
    evaluate(root)
    return root


def write_orders(folder: Path, coffee: Path) -> None:
    """Write the shortest recordings and a manifest of two columns, as the corpus has its truth."""
    with open(coffee / "recordings.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows.sort(key=lambda row: (int(row["num_samples"]), row["path"]))
    folder.mkdir()
    lines = ["path\texpected"]
    for row in rows[:NUM_RECORDINGS]:
        name = Path(row["path"]).name
        shutil.copy(coffee / row["path"], folder / name)
        lines.append(f"{name}\t{row['slots']}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture(scope="module")
def registered(finished: Path) -> Registered:
    # DVC, which would write this, has tests of its own.
    outputs = [{"path": name, "md5": "0" * 32} for name in (*RESULTS, STUDENT)]
    lock = {"schema": "2.0", "stages": {"all": {"outs": outputs}}}
    (finished / "dvc.lock").write_text(yaml.safe_dump(lock))
    return register(finished)


def runs(root: Path) -> list[Run]:
    client = mlflow_of(root)
    experiment = client.get_experiment_by_name("orders")
    return list(client.search_runs([experiment.experiment_id]))


def test_every_split_has_recordings_and_phrases(finished: Path) -> None:
    data = PreparedData.open(finished / "data/prepared")
    assert sum(len(data.split(name)) for name in ("train", "valid", "test")) == NUM_RECORDINGS
    assert all(data.split(name)["expected"].notna().any() for name in ("train", "valid", "test"))
    assert data.frame["text"].isna().all()


def test_the_students_learn_what_whisper_wrote(finished: Path) -> None:
    store = TeacherCache.open_current(finished / "data/teacher_cache")
    texts = [items[0].text for items in store.hypotheses(store.all_rows)]
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz' ") for text in texts)
    assert all(len(text.split()) >= 3 for text in texts)
    assert any("ounce" in text for text in texts)
    config = json.loads((finished / "models/teacher/config.json").read_text())
    assert (config["language"], config["spelling"]["language"]) == ("en", "en")  # prepare.language


def test_phrase_accuracy_stands_in_every_place(finished: Path, registered: Registered) -> None:
    summary = Summary.read(finished / "reports/evaluation")
    assert summary.data.unit is Unit.PHRASE
    assert summary.teacher.wer.value < 0.5
    table = render_table(summary)
    assert "phrase" in table and "accuracy %" in table and "WER" not in table
    for run in runs(finished):
        assert run.data.tags["unit"] == "phrase"
        metrics = run.data.metrics
        both = [metrics[f"asr/phrase_{name}_percent"] for name in ("accuracy", "errors")]
        assert sum(both) == pytest.approx(100)
        interval = [metrics[f"test/phrase_accuracy{end}"] for end in ("_low", "", "_high")]
        assert interval == sorted(interval)
        assert "phrase accuracy %" in run.data.tags["mlflow.note.content"]
    assert registered.version == "1"
    version = mlflow_of(finished).get_model_version("orders", "1")
    assert json.loads(version.tags[SPELLING_TAG])["language"] == "en"
    tracking = Tracking(Params.load(finished / "params.yaml").register, finished)
    page = report.write_report(finished, tracking, report.find_parent(tracking, "orders", None))
    written = page.read_text("utf-8")
    assert "phrase accuracy %" in written and "expected phrases" in written
    gate = json.loads((finished / "reports/gate.json").read_text())
    assert "phrase errors" in gate["reason"]  # a student of two epochs finds none
