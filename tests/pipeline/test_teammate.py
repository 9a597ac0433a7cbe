"""Clones of one project: what a teammate's has after `git clone`, `dvc pull`, `make retrain`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.pipeline import prefect_api
from tests.pipeline.conftest import run_module
from tests.pipeline.test_flow import mlflow_runs, outputs, versions
from tests.stores import mlflow_of, put_mlflow, put_prefect
from tests.tiny import tiny_params, write_params
from tests.unit.flows.stages.conftest import commit, git

ALL = ("prepare", "fetch", "teacher", "cache", "distill@conv-0", "evaluate")


@pytest.fixture(scope="module")
def project(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace in Git, its results at a remote that clones share."""
    root = tmp_path_factory.mktemp("project") / "first"
    shutil.copytree(untouched, root, symlinks=True)
    settings = tiny_params() | {"retraining": {"retries": 0}}
    write_params(root, settings)
    store = root.parent / "store"
    store.mkdir()
    said = run_module(root, "flows.remote", str(store)).stdout
    assert f"shared ({store}): can be reached" in said
    run_module(root, "dvc", "push", "-q")
    commit(root, "a run")
    return root


@pytest.fixture
def mate(project: Path, tmp_path: Path, prefect_of_copies: str) -> Path:
    """A fresh clone."""
    root = tmp_path / "mate"
    git(project, "clone", "-q", str(project), str(root))
    put_prefect(put_mlflow(root))
    prefect_api.use(root, prefect_of_copies)
    return root


def test_after_a_pull_there_is_nothing_to_do_and_git_stays_clean(project: Path, mate: Path) -> None:
    run_module(mate, "dvc", "pull", "-q")
    assert "up to date" in run_module(mate, "dvc", "status").stdout
    shown = run_module(mate, "dvc", "metrics", "diff", "HEAD").stdout
    assert shown == ""
    output = run_module(mate, "flows.run", "--retrain").stdout
    assert "nothing new: the corpus and all else are as they were" in output
    assert mlflow_of(mate).get_experiment_by_name("tiny") is None  # MLflow never heard of it
    assert git(mate, "status", "--porcelain") == ""
    assert outputs(mate) == outputs(project)


def test_a_run_brings_what_the_remote_has_and_registers_it_once(
    project: Path, mate: Path, tmp_path: Path
) -> None:
    store = project.parent / "store"
    output = run_module(mate, "flows.run").stdout
    assert output.count(f"from DVC's cache or its remote shared ({store}): data/prepared, ") == 1
    for target in ALL:
        assert f"{target}: unchanged" in output
    assert "MLflow does not hold its results yet" in output
    assert outputs(mate) == outputs(project)
    assert versions(mate) == [1]
    number = len(mlflow_runs(mate))
    again = run_module(mate, "flows.run").stdout
    assert "nothing to do: every stage is up to date, and MLflow holds the results" in again
    assert "Registered: tiny version 1" in again
    assert "dvc pull" not in again and "from DVC's cache" not in again
    assert git(mate, "status", "--porcelain") == ""

    # Another clone, of the same MLflow.
    third = tmp_path / "third"
    git(project, "clone", "-q", str(project), str(third))
    shutil.copytree(mate / ".prefect", third / ".prefect")
    settings = yaml.safe_load((third / "params.yaml").read_text())
    settings["register"]["tracking_uri"] = f"sqlite:///{mate}/mlflow.db"
    write_params(third, settings)
    other = run_module(third, "flows.run").stdout
    assert "nothing to do: every stage is up to date, and MLflow holds the results" in other
    assert "Registered: tiny version 1" in other
    assert "Gate: version 1 is champion" in other
    assert versions(mate) == [1]
    assert len(mlflow_runs(mate)) == number


@pytest.mark.slow
def test_a_run_goes_on_where_the_remote_is_gone(project: Path, mate: Path) -> None:
    settings = tiny_params() | {"retraining": {"retries": 0}}
    write_params(mate, settings)
    run_module(mate, "dvc", "remote", "modify", "--local", "shared", "url", "/nowhere/speech")
    output = run_module(mate, "flows.run", "--until", "fetch").stdout
    (line,) = [line for line in output.splitlines() if "dvc pull from" in line]
    assert "there is no such folder; what is not here is made anew; make doctor" in line
    assert "prepare: ran" in output
    assert outputs(mate)["data/prepared"] == outputs(project)["data/prepared"]
