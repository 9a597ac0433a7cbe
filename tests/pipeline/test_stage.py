"""The process around a stage, and how stages are driven through DVC."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from distillery.errors import BusyError, ParamsError, StageError
from distillery.params.whole import Params
from flows import environment
from flows.looking_back.live import models_of
from flows.stages import pipeline as stages
from flows.stages.lock import check_followed_settings, is_zombie, restore_if_damaged, workspace_lock
from flows.stages.process import read_lines
from flows.stages.storage import push
from tasks.stage import check_inputs, guarded, snapshot
from tests.tiny import tiny_params

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = """
stages:
  cook:
    cmd: python -m tasks.cook
    params: [cook]
    deps: ["${cook.source}", code.py]
  bake:
    matrix:
      cake: ${bake.cakes}
      oven: ${bake.ovens}
    cmd: python -m tasks.bake ${item.cake} ${item.oven}
    params: ["bake.cakes.${item.cake}"]
    deps: ["tins/${item.cake}", "ovens/${item.oven}"]
"""
PARAMS = {
    "cook": {"source": "corpus", "heat": 1},
    "bake": {"cakes": {"a": {"g": 1}, "b": {"g": 2}}, "ovens": [0, 1]},
}


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "code.py").write_text("x = 1\n")
    for folder in ("corpus", "tins/a", "tins/b", "ovens/0", "ovens/1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text(folder)
    return tmp_path


def write_params(root: Path, section: str, **values: object) -> None:
    content = {**PARAMS, section: {**PARAMS[section], **values}}
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def test_an_undisturbed_stage_ends_well(kitchen: Path) -> None:
    seen: list[Path] = []

    def cook(root: Path) -> None:
        seen.append(root)

    guarded(cook, kitchen)
    assert seen == [kitchen]


def test_a_setting_that_changes_meanwhile_fails_the_stage(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        write_params(root, "cook", heat=2)

    with pytest.raises(StageError, match=r"params\.yaml: cook changed while it ran.*run make cook"):
        guarded(cook, kitchen)


def test_a_setting_of_another_stage_may_change_meanwhile(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        write_params(root, "bake", cakes={})

    guarded(cook, kitchen)


def test_code_that_changes_meanwhile_fails_the_stage(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        (root / "code.py").write_text("x = 2\n")

    with pytest.raises(StageError, match=r"stage cook: code\.py changed while it ran"):
        guarded(cook, kitchen)


def test_code_that_is_saved_again_unchanged_is_no_change(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        (root / "code.py").write_text("x = 1\n")

    guarded(cook, kitchen)


def test_recordings_that_come_or_go_meanwhile_fail_the_stage(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        (root / "corpus/new").write_text("")
        (root / "corpus/file").unlink()

    with pytest.raises(StageError, match="corpus/file and 1 more changed"):
        guarded(cook, kitchen)


def test_what_macos_leaves_beside_recordings_is_no_change(kitchen: Path) -> None:
    def cook(root: Path) -> None:
        (root / "corpus/.DS_Store").write_text("x")
        (root / "corpus/._file").write_text("x")

    guarded(cook, kitchen)


def test_a_matrix_stage_depends_on_its_own_items_only(kitchen: Path) -> None:
    before = snapshot(kitchen, "bake", "a", "0")
    assert before["params.yaml: bake.cakes.a"] == {"g": 1}
    assert {"tins/a/file", "ovens/0/file"} <= before.keys()
    (kitchen / "tins/b/file").write_text("changed")
    (kitchen / "ovens/1/file").write_text("changed")
    assert snapshot(kitchen, "bake", "a", "0") == before


def test_both_items_of_a_matrix_stage_are_watched(kitchen: Path) -> None:
    def bake(root: Path, _cake: str, _oven: int) -> None:
        (root / "ovens/1/file").write_text("changed meanwhile")

    with pytest.raises(StageError, match=r"stage bake: ovens/1/file changed while it ran"):
        guarded(bake, kitchen, "a", 1)


def test_an_unknown_stage_is_named(kitchen: Path) -> None:
    with pytest.raises(StageError, match=r"has no stage 'fry', only \['bake', 'cook'\]"):
        snapshot(kitchen, "fry")


FIRST = {"teacher": "prepare", "cache": "prepare", "distill": "prepare", "evaluate": "prepare"}
MADE = {
    "prepare": ["data/prepared"],
    "fetch": [
        "models/code/teacher.json",
        "models/code/students",
        "models/learnt_layers.json",
        "models/registered/teacher",
        "models/registered/students",
        "models/registered/decoder",
    ],
    "teacher": [
        "models/teacher/fingerprint.json",
        "models/teacher/validation.json",
        "curves/teacher.jsonl",
    ],
    "cache": ["data/teacher_cache"],
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A workspace in which nothing has run."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    settings = tiny_params()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_stage_that_comes_too_early_names_the_one_to_run_first(clone: Path, stage: str) -> None:
    if stage not in FIRST:
        check_inputs(clone, stage)
        return
    with pytest.raises(StageError) as caught:
        check_inputs(clone, stage)
    first = FIRST[stage]
    assert str(caught.value).startswith(f"stage {stage}: {clone}/data/prepared is not there yet")
    assert f"run make {first} first" in str(caught.value)


def test_the_first_of_all_that_is_missing_is_named(clone: Path) -> None:
    expected = ["prepare", "fetch", "teacher", "cache"]
    for first in expected:
        with pytest.raises(StageError, match=f"run make {first} first"):
            check_inputs(clone, "distill")
        for name in MADE[first]:
            (clone / name).mkdir(parents=True)
    check_inputs(clone, "distill")
    with pytest.raises(StageError, match="models/students/.*run make distill first"):
        check_inputs(clone, "evaluate")


def test_what_will_have_run_by_then_is_not_asked_for(clone: Path) -> None:
    (clone / "data/prepared").mkdir(parents=True)
    with pytest.raises(StageError, match="run make fetch first"):
        check_inputs(clone, "teacher")
    check_inputs(clone, "teacher", ["fetch"])


@pytest.mark.parametrize(
    ("command", "first"),
    [
        (["tasks.teacher"], "prepare"),
        (["tasks.distill", "conv", "0"], "prepare"),
        (["flows.run", "--only", "evaluate"], "prepare"),
    ],
)
def test_a_stage_alone_on_a_fresh_clone_says_so(
    clone: Path, command: list[str], first: str
) -> None:
    (clone / "corpus").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stage ")
    assert f"run make {first} first" in line


def script(body: str) -> str:
    return (
        "import sys, time, pathlib\n"
        "from tasks.stage import run_stage\n"
        "from distillery.errors import CorpusError\n"
        f"def cook(root):\n{body}\n"
        "run_stage(cook, pathlib.Path.cwd())\n"
    )


def child(kitchen: Path, body: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script(body)],
        cwd=kitchen,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_error_on_purpose_is_one_line_without_a_traceback(kitchen: Path) -> None:
    process = child(kitchen, "    raise CorpusError('utterance 7: no such file')")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "error: utterance 7: no such file\n"


def test_a_mistake_of_ours_keeps_its_traceback(kitchen: Path) -> None:
    process = child(kitchen, "    1 / 0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError" in errors


def test_a_full_disk_is_told_without_a_traceback_whoever_wraps_it(kitchen: Path) -> None:
    process = child(
        kitchen,
        """
    try:
        raise OSError(28, 'No space left on device', 'scratch/a.pt')
    except OSError as error:
        raise RuntimeError('the writer failed') from error
""",
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        "error: stage cook: [Errno 28] No space left on device: 'scratch/a.pt'; make room, then "
        "run again: it goes on with what is done\n"
    )


SLOW = """
    try:
        pathlib.Path('started').touch()
        time.sleep(60)
    finally:
        pathlib.Path('cleaned').touch()
"""


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_sigterm_lets_a_stage_clean_up(kitchen: Path) -> None:
    process = child(kitchen, SLOW)
    wait_for(kitchen / "started")
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert (kitchen / "cleaned").exists()


def test_a_stage_dies_with_the_dvc_that_started_it(kitchen: Path) -> None:
    (kitchen / "stage.py").write_text(script(SLOW))
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, 'stage.py'])",
        ],
        cwd=kitchen,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "cook"},
    )
    wait_for(kitchen / "started")
    parent.kill()
    parent.wait()
    wait_for(kitchen / "cleaned", 5.0)


def test_a_stage_whose_starter_died_before_it_began_does_not_begin(kitchen: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    body = "    pathlib.Path('begun').touch()"
    orphan = child(kitchen, body, DVC_STAGE="cook", DISTILLERY_STARTER=str(gone.pid))
    orphan.communicate(timeout=60)
    assert orphan.returncode == 128 + signal.SIGTERM
    assert not (kitchen / "begun").exists()
    ours = child(kitchen, body, DVC_STAGE="cook", DISTILLERY_STARTER=str(os.getpid()))
    ours.communicate(timeout=60)
    assert (ours.returncode, (kitchen / "begun").exists()) == (0, True)


def test_a_stage_whose_dvc_by_hand_died_before_it_began_does_not_begin(kitchen: Path) -> None:
    late = "import time; time.sleep(1)\n" + script("    pathlib.Path('begun').touch()")
    (kitchen / "stage.py").write_text(late)
    start = "import subprocess, sys; print(subprocess.Popen([sys.executable, 'stage.py']).pid)"
    parent = subprocess.run(
        [sys.executable, "-c", start],
        cwd=kitchen,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "cook"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    end = time.monotonic() + 60
    while Path(f"/proc/{int(parent.stdout)}/cmdline").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (kitchen / "begun").exists()


def test_bars_come_through_now_and_then_and_lines_always() -> None:
    read, write = os.pipe()
    bars = b"".join(b"%d%%\r" % percent for percent in range(100))
    os.write(write, b"first\n" + bars + b"\x1b[Adone 100%\nlast, without an end")
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = list(read_lines(stream))
    assert lines == [
        ("first", False),
        ("0%", True),
        ("done 100%", False),
        ("last, without an end", False),
    ]


@pytest.mark.parametrize(("chosen", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_threads_spin_briefly_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], spins: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert environment.for_stages().get("GOMP_SPINCOUNT") == spins
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment.for_stages()["GOMP_SPINCOUNT"] == "7"


def test_stages_keep_freed_memory_unless_the_user_says_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in environment.KEPT_MEMORY:
        monkeypatch.delenv(name, raising=False)
    assert environment.for_stages().items() >= environment.KEPT_MEMORY.items()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    assert environment.for_stages()["MALLOC_TRIM_THRESHOLD_"] == "0"


def test_students_and_seeds_have_stages_and_curves_of_their_own() -> None:
    settings = tiny_params(distill={"seeds": [0, 12]})
    settings["distill"]["students"]["conv-2"] = settings["distill"]["students"]["conv"]
    params = Params.model_validate(settings)
    names = stages.targets(params, "distill")
    assert names == ["distill@conv-0", "distill@conv-12", "distill@conv-2-0", "distill@conv-2-12"]
    assert models_of(params, "distill@conv-2-12") == [
        "students/conv-2/seed-12",
        "controls/conv-2/seed-12",
    ]
    alone = Params.model_validate(tiny_params(distill={"control": False}))
    assert models_of(alone, "distill@conv-0") == ["students/conv/seed-0"]


def test_a_second_run_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with (
        workspace_lock(tmp_path),
        pytest.raises(BusyError, match=f"already running: pid {os.getpid()}$"),
        workspace_lock(tmp_path),
    ):
        pass
    with workspace_lock(tmp_path):  # free again
        pass


def test_settings_that_dvc_follows_must_be_written_out(kitchen: Path) -> None:
    check_followed_settings(kitchen)
    (kitchen / "params.yaml").write_text("bake: {cakes: {}}\n")
    with pytest.raises(ParamsError, match=r"cook not set, but DVC follows.*write them out"):
        check_followed_settings(kitchen)


@pytest.mark.parametrize("damage", [b"", b"stages:\n  cook: [", b"just text"])
def test_a_damaged_lock_file_is_put_back(tmp_path: Path, damage: bytes) -> None:
    former = b"schema: '2.0'\nstages:\n  cook: {}\n"
    path = tmp_path / "dvc.lock"
    path.write_bytes(damage)
    restore_if_damaged(tmp_path, former)
    assert path.read_bytes() == former
    path.write_bytes(damage)
    restore_if_damaged(tmp_path, None)
    assert not path.exists()


DVC_PIPELINE = """
stages:
  good:
    cmd: echo working && cp in.txt out.txt
    deps: [in.txt]
    outs: [out.txt]
  bad:
    cmd: "echo 'error: recording 7 is empty' >&2 && exit 1"
    deps: [in.txt]
  silent:
    cmd: echo something && exit 3
    deps: [in.txt]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / "dvc.yaml").write_text(DVC_PIPELINE)
    (root / "in.txt").write_text("one")
    return root


def test_a_stage_runs_once_and_comes_back_from_the_cache(repository: Path) -> None:
    lines: list[str] = []
    assert stages.run_stage(repository, "good", lines.append).outcome == "ran"
    assert "working" in lines
    assert stages.run_stage(repository, "good", lines.append).outcome == "unchanged"
    (repository / "in.txt").write_text("two")
    assert stages.run_stage(repository, "good", lines.append).outcome == "ran"
    (repository / "in.txt").write_text("one")
    assert stages.run_stage(repository, "good", lines.append).outcome == "restored"
    assert (repository / "out.txt").read_text() == "one"
    assert (repository / ".dvc/config.local").exists()  # there is no Git here


def test_a_failed_stage_says_why(repository: Path) -> None:
    with pytest.raises(StageError, match="stage bad: recording 7 is empty$"):
        stages.run_stage(repository, "bad", lambda _: None)
    with pytest.raises(StageError, match="(?s)stage silent: failed with status 255.*something"):
        stages.run_stage(repository, "silent", lambda _: None)
    assert not (repository / "dvc.lock").exists()


def test_a_damaged_lock_file_is_reported_by_name(repository: Path) -> None:
    (repository / "dvc.lock").write_text("stages: [")
    with pytest.raises(StageError, match=r"(?s)cannot tell the state.*dvc\.lock"):
        stages.changed_targets(repository, ["good"])


def test_a_push_without_a_remote_fails_and_says_what_to_do(repository: Path) -> None:
    with pytest.raises(StageError, match="dvc push: failed; run `dvc push` when"):
        push(repository, lambda _: None)


def test_a_process_that_nobody_waited_for_is_told_from_a_living_one() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 10
    while not is_zombie(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.wait()
    assert not is_zombie(child.pid)
    assert not is_zombie(os.getpid())
