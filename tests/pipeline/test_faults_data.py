"""New data that is broken, files that were damaged, a champion that is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import doctor
from flows.looking_back import history
from tests.pipeline.conftest import environment, run_module
from tests.pipeline.test_flow import lock, outputs, versions
from tests.pipeline.test_retraining import add_recording, settings
from tests.stores import mlflow_of


def test_one_broken_recording_is_left_out_by_name_and_all_else_goes_on(copy: Path) -> None:
    settings(copy)
    add_recording(copy, "whole")
    whole = (copy / "corpus/whole.wav").read_bytes()
    (copy / "corpus/cut.wav").write_bytes(whole[: len(whole) // 2])
    with open(copy / "corpus/manifest.csv", "a", encoding="utf-8") as file:
        file.write("cut.wav,,s05,train\n")
    run_module(copy, "flows.run", "--retrain")
    (record,) = history.read_history(copy)
    assert (record.status, record.num_utterances, record.teacher_forwards) == ("finished", 49, 1)
    dropped = (copy / "data/prepared/dropped.csv").read_text()
    assert "cut.wav" in dropped
    assert "whole" not in dropped


@pytest.mark.slow
def test_new_data_that_is_all_broken_changes_nothing_and_is_taken_when_it_is_mended(
    copy: Path,
) -> None:
    settings(copy)
    run_module(copy, "flows.run", "--retrain")  # registers
    champion, before = versions(copy), (copy / "dvc.lock").read_bytes()
    good = {path: path.read_bytes() for path in (copy / "corpus").glob("*.wav")}
    for path in good:
        path.write_bytes(b"no audio")
    failed = run_module(copy, "flows.run", "--retrain", check=False)
    assert failed.returncode == 1
    assert "max_dropped_fraction" in failed.stdout
    assert "Traceback" not in failed.stdout
    record = history.read_history(copy)[-1]
    assert (record.status, record.step) == ("failed", "prepare")
    page = (copy / f"reports/retraining/{record.run}.md").read_text()
    assert "max_dropped_fraction" in page
    assert "ended at the step `prepare`" in page
    assert (copy / "dvc.lock").read_bytes() == before
    assert versions(copy) == champion
    for path, content in good.items():
        path.write_bytes(content)
    run_module(copy, "flows.run", "--retrain")
    last = history.read_history(copy)[-1]
    assert (last.status, last.why) == ("finished", ["the last run failed at prepare"])
    assert set(last.stages.values()) <= {"unchanged", "restored"}
    assert (copy / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        pytest.param("flipped", marks=pytest.mark.slow),
        pytest.param("deleted", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_student_is_noticed_and_made_whole(copy: Path, damage: str) -> None:
    before, stage = outputs(copy), lock(copy)["distill@conv-0"]
    weights = copy / "models/students/conv/seed-0/model.safetensors"
    content = weights.read_bytes()
    if damage == "flipped":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    else:
        weights.unlink()
    output = run_module(copy, "flows.run", "--only", "distill").stdout
    assert "distill@conv-0: restored" in output or "distill@conv-0: ran" in output
    assert weights.read_bytes() == content
    assert outputs(copy) == before
    assert lock(copy)["distill@conv-0"] == stage


STUDENT = "models/students/conv/seed-0"


def flip(path: Path) -> bytes:
    """Flip one bit, as a disk does: size and permissions stay. Return the former content."""
    mode, content = path.stat().st_mode, path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    path.chmod(mode)
    return content


def objects_of(root: Path, output: str, base: str = ".dvc/cache") -> dict[str, Path]:
    """Return the objects of an output that is a folder: `.` is the list of its files."""
    (md5,) = (out["md5"] for spec in lock(root).values() for out in spec["outs"]
              if out["path"] == output)  # fmt: skip
    folder = root / base / "files/md5"
    listed = folder / md5[:2] / md5[2:]
    files = json.loads((root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes())
    found = {item["relpath"]: folder / item["md5"][:2] / item["md5"][2:] for item in files}
    return {".": listed, **found}


@pytest.mark.parametrize(
    ("remote", "outcome"),
    [
        ("none", "ran"),
        pytest.param("whole", "restored", marks=pytest.mark.slow),
        pytest.param("damaged", "ran", marks=pytest.mark.slow),
    ],
)
def test_what_comes_from_a_damaged_cache_is_noticed_before_it_is_used(
    copy: Path, remote: str, outcome: str
) -> None:
    """DVC by itself hands it out and says that all is well."""
    before, kept = outputs(copy), objects_of(copy, STUDENT)["model.safetensors"]
    if remote == "none":
        shutil.rmtree(copy / "dvc-remote")
    if remote == "damaged":
        flip(objects_of(copy, STUDENT, "dvc-remote")["model.safetensors"])
    good = flip(kept)
    assert kept.stat().st_mode & 0o777 == 0o444
    shutil.rmtree(copy / STUDENT)
    output = run_module(copy, "flows.run", "--only", "distill").stdout
    assert f"damaged in DVC's cache, and dropped: {STUDENT}/model.safetensors" in output
    assert f"distill@conv-0: {outcome}" in output
    assert (copy / STUDENT / "model.safetensors").read_bytes() == good == kept.read_bytes()
    assert outputs(copy) == before
    assert "unchanged" in run_module(copy, "flows.run", "--only", "distill").stdout


@pytest.mark.slow
def test_a_damaged_list_of_a_folders_files_is_dropped_and_the_stage_goes_on(copy: Path) -> None:
    """DVC by itself ends with `unexpected error - 'relpath'`."""
    before, kept = outputs(copy), objects_of(copy, STUDENT)["."]
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes().replace(b"relpath", b"relpatj"))
    kept.chmod(0o444)
    (copy / STUDENT / "model.safetensors").unlink()
    output = run_module(copy, "flows.run", "--only", "distill").stdout
    assert f"damaged in DVC's cache, and dropped: {kept}" in output
    assert "Traceback" not in output
    assert outputs(copy) == before
    assert kept.exists()


def test_the_whole_of_dvcs_cache_is_verified_and_repaired_on_demand(copy: Path) -> None:
    here = objects_of(copy, "models/controls/conv/seed-0")["model.safetensors"]
    lost = objects_of(copy, STUDENT)["model.safetensors"]
    listed = objects_of(copy, "data/prepared")["."]
    remote = objects_of(copy, "models/teacher")["model.safetensors"]
    damaged = (here, lost, listed, remote)
    good = {path: flip(path) for path in damaged}
    (copy / STUDENT / "model.safetensors").unlink()
    objects_of(copy, STUDENT, "dvc-remote")["model.safetensors"].unlink()
    (copy / "models/teacher/model.safetensors").write_bytes(b"")
    found = run_module(copy, "flows.stages.verify", check=False)
    assert found.returncode == 1
    assert f"damaged: {listed} (data/prepared)" in found.stdout
    assert f"damaged: {remote} (models/teacher/model.safetensors)" in found.stdout
    assert " 4 damaged\nmake dvc-verify ARGS=--repair" in found.stdout
    assert all(path.read_bytes() != content for path, content in good.items())
    lines = run_module(copy, "flows.stages.verify", "--repair").stdout.splitlines()
    for path in damaged:
        words = "dropped; the next run makes it again" if path == lost else "whole again"
        assert any(str(path) in line and words in line for line in lines), lines
    assert not lost.exists()
    assert [path.read_bytes() for path in (here, listed, remote)] == [
        good[path] for path in (here, listed, remote)
    ]
    assert " 0 damaged\n" in run_module(copy, "flows.stages.verify").stdout


@pytest.mark.slow
def test_what_is_pulled_by_way_of_a_damaged_cache_comes_from_the_remote(copy: Path) -> None:
    kept = objects_of(copy, STUDENT)["model.safetensors"]
    good = flip(kept)
    shutil.rmtree(copy / STUDENT)
    code = (
        "from pathlib import Path; from flows.stages import storage\n"
        "print(storage.pull_lacking(Path.cwd(), ['distill@conv-0'], print))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=copy,
        env=environment(copy),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"damaged in DVC's cache, and dropped: {STUDENT}/model.safetensors" in done.stdout
    assert done.stdout.endswith(f"[{STUDENT!r}]\n")
    assert (copy / STUDENT / "model.safetensors").read_bytes() == good == kept.read_bytes()


@pytest.mark.parametrize("left", ["cut short", "names a process that came later"])
def test_a_lock_that_a_killed_dvc_left_stops_nobody(copy: Path, left: str) -> None:
    """DVC by itself refuses for ever."""
    path = copy / doctor.DVC_LOCK
    info = {"pid": os.getpid(), "cmd": "dvc repro"}
    text = json.dumps({"write": {str(copy / STUDENT): info}, "read": {}})
    path.write_text(text[:-9] if left == "cut short" else text)
    os.utime(path, (10**9, 10**9))
    (copy / ".dvc/tmp/lock").write_text(f"{os.getpid()}\n")  # DVC asks the kernel, not this
    (copy / STUDENT / "model.safetensors").write_bytes(b"cut")
    by_dvc = run_module(copy, "dvc", "repro", "-s", "distill@conv-0", check=False)
    assert by_dvc.returncode
    assert "JSON structure is corrupted" in by_dvc.stdout or "is busy" in by_dvc.stdout
    os.utime(path, (10**9, 10**9))
    output = run_module(copy, "flows.run", "--only", "distill").stdout
    assert f"{path} " in output
    assert "no DVC runs here, so it was deleted" in output
    assert "distill@conv-0: restored" in output


@pytest.mark.slow
def test_a_champion_that_was_deleted_is_said_so_and_the_next_run_sets_another(
    copy: Path,
) -> None:
    settings(copy)
    run_module(copy, "flows.run", "--retrain")
    mlflow_of(copy).delete_model_version("tiny", "1")
    gone = run_module(
        copy, "distillery.commands.main", "transcribe", "corpus/s00-0.wav", check=False
    )
    assert gone.returncode != 0
    assert "models:/tiny@champion: not in the registry" in gone.stdout
    assert "Traceback" not in gone.stdout
    run_module(copy, "flows.run", "--retrain", "--force")
    record = history.read_history(copy)[-1]
    assert (record.why, record.former_champion) == (["forced"], None)
    assert record.version is not None
    assert record.champion == record.version
    assert json.loads((copy / "reports/registered.json").read_text())["alias"] == "champion"
    run_module(copy, "distillery.commands.main", "transcribe", "corpus/s00-0.wav")
