"""Workspaces with everything that a clone has, on a corpus that takes seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.servers import server
from flows.stages.side_by_side import JOBS
from tests import shared
from tests.pipeline import warm
from tests.stores import put_mlflow, put_prefect
from tests.tiny import tiny_params, write_corpus, write_params

ROOT = Path(__file__).resolve().parents[2]
CLONED = ("distillery", "tasks", "flows", "dvc.yaml", ".dvcignore", ".gitignore")
RUN_SECONDS = 300
CANARY = "c4nary-in-the-mine"
"""Must turn up nowhere: test_security.py looks for it in all that a run leaves."""
PASSWORD = "what-the-servers-of-these-tests-ask-for"
SECRETS = dict.fromkeys(
    (
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "PGPASSWORD",
    ),
    CANARY,
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def make_workspace(root: Path) -> Path:
    """Make a workspace in which nothing has run, but for the databases of MLflow and Prefect."""
    return put_prefect(put_mlflow(make_clone(root)))


def make_clone(root: Path) -> Path:
    """Copy what a clone holds into `root`, with the tiny corpus and settings, in git."""
    return Path(shutil.copytree(shared.once("clone", _make_clone), root, symlinks=True))


def _make_clone(root: Path) -> None:
    for name in CLONED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    write_corpus(root / "corpus")
    write_params(root, tiny_params())
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"],
        # Copies keep the times of the code, and so the bytecode that belongs to it.
        [sys.executable, "-m", "compileall", "-q", "distillery", "tasks", "flows"],
    ):
        subprocess.run(command, cwd=root, check=True)


def environment(root: Path) -> dict[str, str]:
    """Return the environment of a user who activated .venv: no settings of ours leak in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_", "PYTEST_"))
        and name != "PYTHONDONTWRITEBYTECODE"  # or hundreds of processes would compile all anew
    }
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    kept |= {
        "DVC_SITE_CACHE_DIR": str(root / ".dvc/tmp/site"),
        "OMP_NUM_THREADS": "1",
        JOBS: "1",  # or every training of a few steps would import PyTorch once more
    }
    return kept


def run_module(
    root: Path, *arguments: str, check: bool = True, secrets: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` in the workspace and return what it wrote."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        variables = {**environment(root), **(SECRETS if secrets else {})}
        command = warm.Command(str(root), list(arguments), output.name, variables)
        status = warm.run(command, RUN_SECONDS)
        written = output.read()
    if check and status:
        raise AssertionError(f"{arguments} ended with {status}:\n{written}")
    return subprocess.CompletedProcess(list(arguments), status, written)


def start_module(root: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start `python -m …` in the workspace, in a session of its own, with some more variables."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=environment(root) | variables,
        stdin=subprocess.DEVNULL,
        stdout=open(root / "out.log", "ab"),  # the child keeps it
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End one process as a power cut would, and wait for it."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A fresh workspace in which nothing has run."""
    return make_workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def finished() -> Path:
    """A workspace in which the flow has run once; tests add MLflow runs to it and no more.

    All workers share it, so what runs a flow in it belongs into test_flow.py, which one worker has.
    """
    return shared.once("finished", _finish) / "workspace"


@pytest.fixture(scope="session")
def untouched(finished: Path) -> Path:
    """The finished workspace as the flow left it, moved elsewhere: to be read and copied alone."""
    return finished.with_name("untouched")


def _finish(folder: Path) -> None:
    root = make_clone(folder / "workspace")
    (root / "first.log").write_text(run_module(root, "flows.run", secrets=True).stdout)
    shutil.copytree(root, folder / "untouched", symlinks=True)


def copy_of(untouched: Path, target: Path) -> Path:
    """Return a copy of a workspace without its MLflow runs, for a test to change."""
    left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "registered.json")
    return put_mlflow(Path(shutil.copytree(untouched, target, symlinks=True, ignore=left_out)))


@pytest.fixture(scope="session")
def prefect_of_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server such as a run starts for itself, which takes it 3 s of CPU."""
    root, port = put_prefect(tmp_path_factory.mktemp("prefect")), server.free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(root / ".prefect"))
        process = server._start(port, root / "server.log", PASSWORD)
    try:
        server.wait_until_healthy(server.api_on(port), RUN_SECONDS)
        yield server.api_on(port)
    finally:
        server.stop(process)


@pytest.fixture
def copy(untouched: Path, tmp_path: Path, prefect_of_copies: str) -> Path:
    """A copy of the finished workspace that a test may change, with a Prefect server at hand."""
    from tests.pipeline import prefect_api  # which needs this module

    root = copy_of(untouched, tmp_path / "copy")
    prefect_api.use(root, prefect_of_copies)
    return root


def retry_at_once(root: Path) -> None:
    """Let the flow of a workspace try again as often as ever, but without 40 s of waiting."""
    flow = root / "flows/distillation.py"
    text, waits = flow.read_text(), "RETRY_SECONDS = [10, 30]"
    assert waits in text
    flow.write_text(text.replace(waits, "RETRY_SECONDS = [0, 0]"))
