"""A student made again from what its run logged, in a worktree of its commit."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from distillery.errors import StageError, TrackingError
from distillery.params import Params
from distillery.tracking import Tracking
from flows.reproduce import Compared, find_origin
from tests.pipeline.conftest import make_workspace, run_module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose code was changed, its run finished, and its models gone since."""
    root = make_workspace(tmp_path_factory.mktemp("reproduce") / "workspace")
    with open(root / "distillery/text.py", "a", encoding="utf-8") as file:
        file.write("\nCHANGED = True\n")  # uncommitted
    (root / "distillery/added.py").write_text('"""New, and not committed either."""\n')
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["distill"]["seeds"] = [3]
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    run_module(root, "flows.run")
    return root


@pytest.fixture
def tracking(root: Path) -> Tracking:
    params = Params.model_validate(yaml.safe_load((root / "params.yaml").read_text()))
    return Tracking(params.register, root)


def test_a_version_is_made_again_bit_for_bit(root: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in (root / "params.yaml", root / "dvc.lock", root / "reports/metrics.json")
    }
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["distill"]["training"]["learning_rate"] = 1e-4  # of today, not of the run
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    try:
        done = run_module(root, "flows.reproduce", "1")
    finally:
        (root / "params.yaml").write_bytes(before[root / "params.yaml"])
    assert "The student was made again, bit for bit." in done.stdout
    assert "model, MD5 by DVC" in done.stdout
    assert "test/wer" in done.stdout
    assert "NO" not in done.stdout
    assert {path: path.read_bytes() for path in before} == before
    assert not list((root / "scratch/reproduce").iterdir())
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=root, capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_uncommitted_code_is_part_of_the_lineage(root: Path, tracking: Tracking) -> None:
    parent = json.loads((root / "reports/registered.json").read_text())["runs"]["parent"]
    folder = tracking.client.download_artifacts(parent, "uncommitted.patch", str(root / "scratch"))
    patch = Path(folder).read_text()
    assert "+CHANGED = True" in patch
    assert "b/distillery/added.py" in patch
    assert "params.yaml" not in patch


def test_what_is_meant_is_found_by_run_parent_version_and_alias(
    root: Path, tracking: Tracking
) -> None:
    runs = json.loads((root / "reports/registered.json").read_text())["runs"]
    own = runs["students/conv/seed-3"]
    for wanted in (own, runs["parent"], "1", "models:/tiny/1", "models:/tiny@champion"):
        origin = find_origin(tracking, "tiny", wanted)
        assert (origin.run, origin.model, origin.stage) == (
            own,
            "students/conv/seed-3",
            "distill@conv-3",
        )


def test_what_cannot_be_made_again_is_named(root: Path, tracking: Tracking) -> None:
    runs = json.loads((root / "reports/registered.json").read_text())["runs"]
    with pytest.raises(StageError, match="is of controls/conv/seed-3, expected a student"):
        find_origin(tracking, "tiny", runs["controls/conv/seed-3"])
    with pytest.raises(TrackingError, match="make reproduce|not found"):
        find_origin(tracking, "tiny", "7")
    with pytest.raises(TrackingError):
        find_origin(tracking, "tiny", "0" * 32)


def test_a_commit_that_is_gone_is_named(root: Path, tracking: Tracking) -> None:
    runs = json.loads((root / "reports/registered.json").read_text())["runs"]
    own = runs["students/conv/seed-3"]
    kept = tracking.client.get_run(own).data.tags["git.commit"]
    tracking.client.set_tag(own, "git.commit", "f" * 40)
    try:
        done = run_module(root, "flows.reproduce", own, check=False)
    finally:
        tracking.client.set_tag(own, "git.commit", kept)
    assert done.returncode == 1
    assert "commit ffffffffffff: not in this clone" in done.stdout


def test_other_bits_are_told() -> None:
    assert Compared("test/wer", "0.1", "0.1").equal
    assert not Compared("test/wer", "0.1", "0.2").equal
