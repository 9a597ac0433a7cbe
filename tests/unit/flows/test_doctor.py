import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distillery.params.register import RegisterParams
from flows import doctor, stores
from flows.doctor import Finding
from flows.stages.lock import workspace_lock
from tests.tiny import tiny_params, write_params

ROOT = Path(__file__).resolve().parents[3]


def rwlock(root: Path, text: str) -> Path:
    path = root / doctor.DVC_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def held_by(pid: int) -> str:
    return json.dumps({"write": {"/x/data/prepared": {"pid": pid, "cmd": "dvc repro"}}, "read": {}})


def test_this_environment_is_as_pinned() -> None:
    assert doctor.check_pins(ROOT / "pyproject.toml").ok
    assert doctor.check_torch_pair().ok
    assert doctor.check_python().ok


def test_a_wrong_and_a_missing_package_are_named(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["numpy<1", "no-such-thing>=2", "pyyaml"]\n')
    finding = doctor.check_pins(project)
    assert not finding.ok
    assert "numpy 2" in finding.found
    assert "expected <1" in finding.found
    assert "no-such-thing is missing, expected >=2" in finding.found
    assert "make install" in finding.advice


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("{bad", "is damaged"),
        ('{"write": 3}', "is damaged"),
        (held_by(os.getpid()), f"names pid {os.getpid()}, which began after it was written"),
    ],
    ids=["empty", "cut short", "of another form", "reused pid"],
)
def test_a_lock_that_a_dead_dvc_left_is_deleted_by_the_next_run(
    tmp_path: Path, text: str, fault: str
) -> None:
    path = rwlock(tmp_path, text)
    os.utime(path, (10**9, 10**9))
    finding = doctor.check_dvc_lock(tmp_path)
    assert finding.ok
    assert f"{path} {fault}" in finding.found
    assert "the next run deletes it" in finding.found
    with running_dvc(tmp_path) as pid:
        finding = doctor.check_dvc_lock(tmp_path)
        assert not finding.ok
        assert f"but DVC runs here: pid {pid}" in finding.found
        assert doctor.free_dvc_lock(tmp_path) is None
        assert path.exists()
    with open(tmp_path / doctor.DVC_LOCK_GUARD, "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # DVC edits it
        assert doctor.free_dvc_lock(tmp_path) is None
    with running_dvc(ROOT):  # another workspace's
        assert str(doctor.free_dvc_lock(tmp_path)).startswith(f"{path} {fault}")
    assert not path.exists()
    assert doctor.check_dvc_lock(tmp_path).found == "free"
    assert doctor.free_dvc_lock(tmp_path) is None


def test_a_lock_that_may_be_right_stays(tmp_path: Path) -> None:
    for text in ("{}", held_by(2**22 + 1)):  # no such process: DVC removes it by itself
        path = rwlock(tmp_path, text)
        assert doctor.check_dvc_lock(tmp_path) == Finding("DVC lock", True, "free")
    rwlock(tmp_path, held_by(os.getpid()))
    finding = doctor.check_dvc_lock(tmp_path)
    assert not finding.ok
    assert "which is no DVC" in finding.found
    assert f"delete {path}" in finding.advice
    with running_dvc(tmp_path) as pid:
        rwlock(tmp_path, held_by(pid))
        assert doctor.check_dvc_lock(tmp_path) == Finding("DVC lock", True, f"DVC runs: pid {pid}")
        assert doctor.free_dvc_lock(tmp_path) is None
    assert path.exists()


@contextmanager
def running_dvc(folder: Path) -> Iterator[int]:
    """Run a process that by its command is DVC."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)", "dvc"],
        cwd=folder,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_is_on_is_told_and_no_problem(tmp_path: Path) -> None:
    assert doctor.check_pipeline_lock(tmp_path).found == "idle"
    with workspace_lock(tmp_path):
        finding = doctor.check_pipeline_lock(tmp_path)
        assert finding.ok
        assert finding.found == f"running: pid {os.getpid()}"
    assert doctor.check_pipeline_lock(tmp_path).found == "idle"


def test_a_damaged_dvc_lock_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    assert doctor.check_lock_file(path).ok
    path.write_text("stages:\n  a: {}\n")
    assert doctor.check_lock_file(path).found == "1 stages"
    for damaged in ("stages: [", "stages: 3\n", ""):
        path.write_text(damaged)
        assert not doctor.check_lock_file(path).ok


def test_little_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_disk(tmp_path).ok
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 10**18)
    assert not doctor.check_disk(tmp_path).ok


def test_settings_and_corpus_are_checked(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params("corpus"))
    settings, corpus = doctor.check_settings(tmp_path)
    assert settings.ok
    assert not corpus.ok
    assert "corpus is missing" in corpus.found
    (tmp_path / "corpus").mkdir()
    assert all(finding.ok for finding in doctor.check_settings(tmp_path))
    _, wrong, _ = doctor.check_settings(tmp_path, "commands")
    assert "names the corpus 'manifest', the demo needs 'commands'" in wrong.found
    (tmp_path / "params.yaml").write_text("prepare: 3\n")
    (broken,) = doctor.check_settings(tmp_path)
    assert not broken.ok


def test_the_generated_corpus_needs_its_voices(tmp_path: Path) -> None:
    grammar = tmp_path / "grammar.yaml"
    grammar.touch()
    write_params(tmp_path, tiny_params(prepare={"corpus": "commands", "source": "grammar.yaml"}))
    names = [finding.check for finding in doctor.check_settings(tmp_path)]
    assert names == ["settings", "corpus", "voices"]


def test_long_recordings_need_the_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    write_params(tmp_path, tiny_params(prepare={"segment": {}}))
    names = [finding.check for finding in doctor.check_settings(tmp_path)]
    assert names == ["settings", "corpus", "segments"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    *_, missing = doctor.check_settings(tmp_path)
    assert not missing.ok
    assert "pip install 'distillery[segment]'" in missing.advice


def test_stores_and_servers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # test_tracking.py waits for them
    assert doctor.check_mlflow(RegisterParams(), tmp_path).ok
    down = doctor.check_mlflow(RegisterParams(tracking_uri="http://127.0.0.1:9"), tmp_path)
    assert not down.ok
    assert "make register" in down.advice
    assert doctor.check_prefect(None).ok
    assert not doctor.check_prefect("http://127.0.0.1:9/api").ok


def test_the_quick_part_is_silent_when_all_is_well_and_loads_nothing_heavy(
    tmp_path: Path,
) -> None:
    write_params(tmp_path, tiny_params("corpus"))
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    code = (
        "import sys; from flows.doctor import main; status = main(['--quick'])\n"
        "print(status, sorted({'torch', 'mlflow', 'prefect', 'dvc', 'pandas'} & set(sys.modules)))"
    )

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    output = run()
    assert output.startswith("problem  corpus: ")
    assert output.endswith("1 []\n")
    (tmp_path / "corpus").mkdir()
    assert run() == "0 []\n"


def test_remotes_of_dvc_are_looked_at(tmp_path: Path) -> None:
    def found(config: str) -> list[tuple[bool, str]]:
        (tmp_path / ".dvc/config").write_text(f"[core]\n    analytics = false\n{config}")
        return [(item.ok, item.found) for item in stores.check_remotes(tmp_path)]

    assert list(stores.check_remotes(tmp_path)) == []  # no workspace of DVC's
    (tmp_path / ".dvc").mkdir()
    assert found("") == [(True, "none is set; make remote URL=… sets one for a team")]
    own = "    remote = r\n['remote \"r\"']\n    verify = true\n    url = ../dvc-remote\n"
    ((ok, said),) = found(own)
    assert (ok, "of this clone alone" in said) == (True, True)
    gone = tmp_path.parent / "gone"
    ((ok, said),) = found(own.replace("../dvc-remote", str(gone)))
    assert (ok, said) == (False, f"r ({gone}): there is no such folder")
    first, second = found(
        own.replace("verify = true", f"url = {tmp_path.parent}").replace(
            "    url = ../dvc-remote\n", ""
        )
    )
    assert first == (False, f"r ({tmp_path.parent}): what comes from there is not hashed")
    assert second == (True, f"r ({tmp_path.parent}): can be reached")
