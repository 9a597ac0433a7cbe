"""docs/extending.md: its extensions are applied to a copy of the code, tested and run there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extending import PAGE, files_of, sections
from tests.pipeline.conftest import ROOT, copy_of, environment, run_module
from tests.tiny import LETTERS, RATE_HZ, tiny_params, write_corpus, write_params

LOSS, ARCHITECTURE, CORPUS, TEACHER, METRIC = SECTIONS = (
    "A loss",
    "An architecture",
    "A corpus",
    "A kind of teacher",
    "A metric",
)
MOST_FILES = {LOSS: 4, ARCHITECTURE: 4, CORPUS: 4, TEACHER: 4, METRIC: 2}
TOKENS = ["-", "|", *LETTERS]
SECONDS = 300
STAGES = """
from pathlib import Path
from tasks.prepare import prepare
from tasks.teacher import teacher
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate

root = Path()
prepare(root)
teacher(root)
cache(root)
distill(root, "own", 0)
evaluate(root)

from distillery.evaluate.summary import Summary
from distillery.register.metrics import model_metrics

summary = Summary.read(root / "reports/evaluation")
for row in summary.models:
    assert 0 <= model_metrics(row, summary)["test/sentence_error_rate"] <= 1, row
"""


def run(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of code and tests with all five extensions."""
    root = tmp_path_factory.mktemp("extended") / "clone"
    root.mkdir()
    for name in ("distillery", "tasks", "flows", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    for changes in sections().values():
        for change in changes:
            change.apply(root)
    return root


def test_each_extension_touches_as_few_files_as_the_page_says() -> None:
    found = sections()
    assert [title for title in found if found[title]] == list(SECTIONS)
    for title, most in MOST_FILES.items():
        files = files_of(found[title])
        assert len(files) <= most, f"{title}: {files}"
        anchor = title.lower().replace(" ", "-")
        (said,) = re.findall(
            rf"^\| \[.*\]\(#{anchor}\) \| (\d+) \|", PAGE.read_text(), re.MULTILINE
        )
        assert int(said) == len(files), f"{title}: {files}"


def test_the_new_code_keeps_to_the_rules_and_passes_its_tests(extended: Path) -> None:
    files = [file for changes in sections().values() for file in files_of(changes)]
    run(extended, "-m", "ruff", "check", *files)
    run(extended, "-m", "ruff", "format", "--check", *files)
    tests = [file for file in files if file.startswith("tests/")]
    said = run(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert " passed" in said


def test_the_new_code_runs_in_the_pipeline(extended: Path) -> None:
    settings = tiny_params(
        prepare={"corpus": "kaldi", "source": "corpus"},
        distill={
            "control": False,
            "objective": {"frame": {"type": "jensen_shannon", "weight": 1.0, "blank_mode": "all"}},
            "students": {
                "own": {"architecture": {"type": "tdnn", "channels": 16, "num_layers": 2}}
            },
        },
    )
    settings["teacher"] = {
        "kind": "wave_cnn",
        "weights": "own.pt",
        "tokens": TOKENS,
        "channels": 8,
        "sample_rate_hz": RATE_HZ,
        "allow_poor": True,
    }
    settings["distill"]["training"]["num_epochs"] = 1
    write_params(extended, settings)
    write_kaldi_corpus(extended / "corpus")
    make_weights = (
        "import torch; from distillery.teachers.wave_cnn import WaveCNN; "
        f"torch.save(WaveCNN(8, {len(TOKENS)}).state_dict(), 'own.pt')\n"
    )
    run(extended, "-c", make_weights + STAGES)
    own = json.loads((extended / "models/students/own/seed-0/config.json").read_text())
    assert own["architecture"]["type"] == "tdnn"
    curve = (extended / "curves/students/own/seed-0.jsonl").read_text()
    points = [json.loads(line) for line in curve.splitlines()]
    values = [point["value"] for point in points if point["key"] == "train/frame"]
    assert values
    assert all(0 < value < 0.7 for value in values)  # at most ln 2
    assert json.loads((extended / "models/teacher/config.json").read_text())["kind"] == "wave_cnn"


def write_kaldi_corpus(folder: Path) -> None:
    """Write the tiny corpus with Kaldi's lists instead of a manifest."""
    write_corpus(folder)
    rows = [line.split(",") for line in (folder / "manifest.csv").read_text().splitlines()[1:]]
    (folder / "manifest.csv").unlink()
    for name, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        (folder / name).mkdir()
        own = [row for row in rows if row[3] == split]
        for file, column in (("wav.scp", 0), ("text", 1), ("utt2spk", 2)):
            lines = [f"{Path(row[0]).stem} {row[column]}\n" for row in own]
            (folder / name / file).write_text("".join(lines))


def stale_after(finished: Path, root: Path, *titles: str) -> set[str]:
    """Return the stages that DVC wants to run again for some extensions, but for `fetch`.

    That one notes which code belongs to which model, in a second, so it runs first.
    """
    copy_of(finished, root)
    for title in titles:
        for change in sections()[title]:
            change.apply(root)
    run_module(root, "dvc", "repro", "--single-item", "fetch")
    changed = json.loads(run_module(root, "dvc", "status", "--json").stdout)
    return {stage.partition("@")[0] for stage in changed}


def test_no_model_is_trained_again_for_a_new_architecture_corpus_or_kind_of_teacher(
    finished: Path, tmp_path: Path
) -> None:
    assert stale_after(finished, tmp_path / "architecture", ARCHITECTURE) == set()
    assert stale_after(finished, tmp_path / "all", ARCHITECTURE, CORPUS, TEACHER) == {"prepare"}


def test_a_new_loss_trains_students_alone_and_a_new_metric_evaluates_again(
    finished: Path, tmp_path: Path
) -> None:
    assert stale_after(finished, tmp_path / "loss", LOSS) == {"distill"}
    assert stale_after(finished, tmp_path / "metric", METRIC) == {"evaluate"}
