"""The real flow on a tiny corpus: real DVC, real MLflow, real Prefect, real kills."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile
import yaml

from distillery.register.gate.verdict import read_verdict, render
from distillery.register.registered import read_registered
from flows.looking_back import results
from flows.servers import server
from tests.pipeline import prefect_api
from tests.pipeline.conftest import (
    copy_of,
    environment,
    kill,
    make_workspace,
    retry_at_once,
    run_module,
    start_module,
)
from tests.stores import mlflow_of
from tests.tiny import RATE_HZ, speak, tiny_params, write_params

if TYPE_CHECKING:
    from mlflow.entities import Run

SECONDS_TO_DIE = 5.0


def lock(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]


def outputs(root: Path) -> dict[str, str]:
    """Return the MD5 of every versioned output that is a function of its inputs alone."""
    return {
        out["path"]: out["md5"]
        for stage in lock(root).values()
        for out in stage["outs"]
        if not out["path"].startswith(("reports", "curves"))
    }


def mlflow_runs(root: Path, filters: str = "") -> list[Run]:
    """Return the runs of a workspace's experiment, the newest first."""
    client = mlflow_of(root)
    experiment = client.get_experiment_by_name("tiny")
    return list(client.search_runs([experiment.experiment_id], filters))


def versions(root: Path) -> list[int]:
    found = mlflow_of(root).search_model_versions("name='tiny'")
    return sorted(int(version.version) for version in found)


def left_behind(root: Path) -> list[str]:
    """Return the commands of our processes that still run in the workspace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            inside = (process / "cwd").resolve() == root
        except OSError:
            continue
        if inside and ("tasks." in command or "dvc" in command or "flows." in command):
            found.append(command)
    return found


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def wait_until_nothing_is_left(root: Path) -> None:
    end = time.monotonic() + SECONDS_TO_DIE
    while left_behind(root):
        assert time.monotonic() < end, left_behind(root)
        time.sleep(0.1)


def test_the_first_run_ends_with_a_table_a_model_and_the_next_commands(finished: Path) -> None:
    text = (finished / "first.log").read_text()
    for word in ("teacher", "control", "WER", "gap", "tiny", "version 1", "champion"):
        assert word in text, word
    assert text.count("Test split:") == 1
    assert "make sample" in text
    assert "make transcribe FILES=sample.wav" in text
    assert "View at http" not in text  # that server ends with the run
    registered = json.loads((finished / "reports/registered.json").read_text())
    assert (registered["name"], registered["alias"]) == ("tiny", "champion")


def test_commands_that_need_a_champion_are_not_offered_without_one(finished: Path) -> None:
    registered = read_registered(finished)
    assert registered is not None
    assert registered.champion == "1"
    nobody = replace(registered, champion=None)
    text = results.text(results.read_summary(finished), nobody, read_verdict(finished))
    assert "make promote VERSION=1 " in text
    assert "make transcribe" not in text
    assert "make serve" not in text


def test_every_promised_file_is_there(finished: Path) -> None:
    for path in (
        "data/prepared/manifest.parquet",
        "data/prepared/profile.json",
        "data/prepared/summary.json",
        "models/teacher/model.safetensors",
        "models/teacher/fingerprint.json",
        "models/students/conv/seed-0/model.safetensors",
        "models/controls/conv/seed-0/model.safetensors",
        "curves/students/conv/seed-0.jsonl",
        "reports/evaluation/summary.json",
        "reports/evaluation/predictions.parquet",
        "reports/evaluation/plots/learning_curves.png",
        "reports/metrics.json",
        "reports/registered.json",
    ):
        assert (finished / path).stat().st_size > 0, path


def test_mlflow_holds_a_parent_and_a_run_per_student_and_control(finished: Path) -> None:
    runs = mlflow_runs(finished)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3
    assert parent.info.status == "FINISHED"
    assert parent.data.params["distill.objective.teacher_share"] == "0.5"
    metrics, tags = parent.data.metrics, parent.data.tags
    summary = json.loads((finished / "reports/evaluation/summary.json").read_text())
    by_model = {row["model"]: row for row in summary["models"]}
    assert metrics["teacher/wer"] == pytest.approx(by_model["teacher"]["wer"])
    assert metrics["cache/num_teacher_forwards"] == 32
    assert metrics["cache/teacher_seconds"] > 0
    for tag in ("git.commit", "dvc.lock.md5", "teacher.fingerprint", "cache.manifest_sha256"):
        assert tags[tag], tag
    assert tags["data.moved.what"] == "there is no champion yet"
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    wers = sorted(run.data.metrics["test/wer"] for run in children)
    assert wers == sorted(by_model[name]["wer"] for name in ("students/conv", "controls/conv"))
    client = mlflow_of(finished)
    curves = [client.get_metric_history(run.info.run_id, "valid/wer") for run in children]
    assert [len(points) for points in curves] == [3, 3]  # one point an epoch


def test_mlflows_pages_tell_runs_apart_and_say_first_what_came_of_them(finished: Path) -> None:
    registered = json.loads((finished / "reports/registered.json").read_text())
    client = mlflow_of(finished)
    runs = {model: client.get_run(run).data for model, run in registered["runs"].items()}
    experiment = client.get_experiment(registered["experiment_id"])
    version = client.get_model_version("tiny", registered["version"]).description
    md5 = lock(finished)["prepare"]["outs"][0]["md5"][:6]
    names = {model: data.tags["mlflow.runName"] for model, data in runs.items()}
    assert names == {
        "parent": f"conv-T2-teachertexts-share0.5 on corpus@{md5}",
        "students/conv/seed-0": f"conv@{md5}-T2-teachertexts-share0.5",
        "controls/conv/seed-0": f"conv@{md5}-control",
    }
    settings = runs["students/conv/seed-0"].params
    assert settings["objective.name"] == "T2-teachertexts-share0.5"
    assert (settings["data.corpus"], settings["data.md5"]) == ("corpus", md5)
    descriptions = {model: data.tags["mlflow.note.content"] for model, data in runs.items()}
    assert descriptions["parent"].startswith("Student `conv` from seed 0, WER ")
    assert descriptions["controls/conv/seed-0"].startswith("Control `conv` from seed 0: WER ")
    assert version.startswith("Gate: version 1 is champion: the first champion.")
    for text in (*descriptions.values(), version, experiment.tags["mlflow.note.content"]):
        assert "student conv |" in text
        assert f"data `{md5}" in text
    assert "#/experiments/" in experiment.tags["mlflow.note.content"].splitlines()[0]


def test_the_registered_model_answers_in_a_fresh_process(finished: Path) -> None:
    audio = base64.b64encode((finished / "corpus/s00-0.wav").read_bytes()).decode()
    script = (
        f"import json, mlflow; mlflow.set_tracking_uri('sqlite:///{finished}/mlflow.db')\n"
        f"model = mlflow.pyfunc.load_model('models:/tiny@champion')\n"
        f"print(json.dumps(list(model.predict([{{'audio_b64': {audio!r}}}]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=finished.parent,
        env=environment(finished),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert len(answer) == 1
    assert isinstance(answer[0], str)
    kept = [path.suffix for path in (finished / "mlartifacts").rglob("*") if path.is_file()]
    assert ".safetensors" in kept
    assert not {".pkl", ".pickle", ".pt", ".pth", ".bin"} & set(kept)


def test_transcribe_uses_the_champion(finished: Path) -> None:
    done = run_module(finished, "distillery.commands.main", "transcribe", "corpus/s00-0.wav")
    assert "corpus/s00-0.wav\t" in done.stdout
    bad = run_module(
        finished,
        "distillery.commands.main",
        "transcribe",
        "params.yaml",
        "corpus/s00-1.wav",
        check=False,
    )
    assert bad.returncode == 1
    assert "params.yaml" in bad.stdout
    assert "cannot be decoded" in bad.stdout
    assert "corpus/s00-1.wav\t" in bad.stdout


def test_a_run_says_nothing_twice(finished: Path) -> None:
    lines = (finished / "first.log").read_text().splitlines()
    told = [line.partition("' - ")[2] for line in lines if " | " in line]
    assert len(told) > 30
    counts = Counter(line for line in told if line != "Finished in state Completed()")
    assert [line for line, count in counts.items() if count > 1] == []
    assert "lock file" not in "".join(told)  # DVC's, in every stage


def test_a_second_run_runs_no_stage_and_registers_nothing_new(
    finished: Path, prefect_of_copies: str
) -> None:
    prefect_api.use(finished, prefect_of_copies)
    before, known = (finished / "dvc.lock").read_bytes(), versions(finished)
    verdict, runs = read_verdict(finished), len(mlflow_runs(finished))
    assert verdict is not None
    output = run_module(finished, "flows.run").stdout
    assert "nothing to do: every stage is up to date, and MLflow holds the results" in output
    assert read_verdict(finished) == verdict
    assert render(verdict) in output
    for target in ("prepare", "teacher", "cache", "distill@conv-0", "evaluate"):
        assert f"{target}: unchanged" in output
    assert (finished / "dvc.lock").read_bytes() == before
    assert versions(finished) == known
    assert len(mlflow_runs(finished)) == runs


def test_dvc_repro_agrees_with_the_flow(finished: Path, tmp_path: Path) -> None:
    assert "up to date" in run_module(finished, "dvc", "repro").stdout
    other = make_workspace(tmp_path / "by-dvc")
    run_module(other, "dvc", "repro")
    assert outputs(other) == outputs(finished)
    with_flow, with_dvc = lock(finished), lock(other)
    assert with_flow.keys() == with_dvc.keys()
    for stage in with_flow:
        assert with_flow[stage]["cmd"] == with_dvc[stage]["cmd"]
        assert with_flow[stage].get("params") == with_dvc[stage].get("params")


def test_one_new_recording_costs_one_teacher_forward_and_one_shard_to_push_and_pull(
    copy: Path, tmp_path: Path
) -> None:
    def pushed() -> set[str]:
        return {f"{p.parent.name}{p.name}" for p in (copy / "dvc-remote").rglob("*") if p.is_file()}

    def contents() -> dict[str, str]:
        """Return the cache's files by the MD5 under which DVC keeps them."""
        files = (p for p in (copy / "data/teacher_cache").rglob("*") if p.is_file())
        return {hashlib.md5(p.read_bytes()).hexdigest(): p.name for p in files}

    def report(root: Path) -> dict[str, Any]:
        return json.loads((root / "reports/cache.json").read_text())

    run_module(copy, "dvc", "push", "-q")
    first, known, before = pushed(), contents(), report(copy)
    assert known.keys() <= first
    assert before["num_teacher_forwards"] == before["num_utterances"] == 32
    soundfile.write(copy / "corpus/new.wav", speak("cab ab", 999), RATE_HZ)
    with open(copy / "corpus/manifest.csv", "a", encoding="utf-8") as file:
        file.write("new.wav,,s05,train\n")  # not transcribed: the same teacher comes of it
    run_module(copy, "flows.run", "--until", "cache")
    after = report(copy)
    assert (after["num_utterances"], after["num_teacher_forwards"]) == (33, 1)
    run_module(copy, "dvc", "push", "-q", "cache")
    added = {name for md5, name in contents().items() if md5 in pushed() - first}
    assert sorted(Path(name).suffix for name in added) == [".arrow", ".bin"]
    assert contents().keys() >= known.keys()

    mate = make_workspace(tmp_path / "mate")
    shutil.copy(copy / "dvc.lock", mate)
    shutil.copytree(copy / "dvc-remote", mate / "dvc-remote")
    run_module(mate, "dvc", "pull", "-q", "data/prepared", "models/teacher", "data/teacher_cache")
    run_module(mate, "tasks.cache")
    pulled = report(mate)
    assert (pulled["num_teacher_forwards"], pulled["num_hits"]) == (0, 33)


def test_data_that_moved_away_from_the_champions_are_said_before_any_training(
    finished: Path, copy: Path
) -> None:
    settings = tiny_params()
    settings["register"]["tracking_uri"] = f"sqlite:///{finished}/mlflow.db"
    write_params(copy, settings)
    for path in (copy / "corpus").glob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples / 10, rate)
    output = run_module(copy, "flows.run", "--only", "prepare").stdout
    assert "data moved since version 1 was trained: train: level_dbfs -" in output


def test_a_changed_student_trains_only_that_student(copy: Path) -> None:
    settings = tiny_params()
    settings["distill"]["students"]["two"] = {
        "architecture": {"type": "crnn", "conv_channels": 4, "hidden_size": 8}
    }
    write_params(copy, settings)
    output = run_module(copy, "flows.run", "--until", "distill").stdout
    assert "distill@conv-0: unchanged" in output
    assert "distill@two-0: ran" in output


def test_another_seed_trains_only_that_seed_and_shows_means(copy: Path) -> None:
    write_params(copy, tiny_params(distill={"seeds": [0, 1]}))
    before = outputs(copy)
    output = run_module(copy, "flows.run").stdout
    assert "distill@conv-0: unchanged" in output
    assert "distill@conv-1: ran" in output
    assert "means ± standard deviations over 2 seeds" in output
    assert ", mean of 2 seeds, sd " in output
    after = outputs(copy)
    assert before.items() <= after.items()
    pair = {f"models/{role}/conv/seed-1" for role in ("students", "controls")}
    assert after.keys() - before.keys() == pair
    summary = json.loads((copy / "reports/evaluation/summary.json").read_text())
    student = {row["model"]: row for row in summary["models"]}["students/conv"]
    wers = [row["wer"] for row in student["by_seed"]]
    assert student["wer"] == pytest.approx(sum(wers) / 2)
    registered = json.loads((copy / "reports/registered.json").read_text())
    valid_wers = {row["seed"]: row["valid_wer"] for row in student["by_seed"]}
    assert valid_wers[registered["seed"]] == min(valid_wers.values())
    assert list(registered["versions"]) == ["conv"]  # one version a student
    parent = registered["runs"]["parent"]
    metrics = mlflow_of(copy).get_run(parent).data.metrics
    by_model = {
        child.data.tags["distillery.model"]: child.data.metrics
        for child in mlflow_runs(copy, f"tags.`mlflow.parentRunId` = '{parent}'")
    }
    assert metrics["test/wer"] == pytest.approx(student["wer"])
    assert metrics["test/wer_sd"] == pytest.approx(student["wer_sd"])
    assert {"gain/wer", "gain/sd", "gain/low", "gain/high"} <= metrics.keys()
    assert sorted(by_model) == sorted(
        f"{role}/conv/seed-{seed}" for role in ("students", "controls") for seed in (0, 1)
    )
    for row in student["by_seed"]:
        assert by_model[row["model"]]["test/wer"] == pytest.approx(row["wer"])
    again = run_module(copy, "flows.run").stdout
    for target in ("cache", "distill@conv-0", "distill@conv-1", "evaluate"):
        assert f"{target}: unchanged" in again
    assert outputs(copy) == after


def test_a_flow_killed_while_it_trains_side_by_side_leaves_nothing_and_goes_on(
    untouched: Path, copy: Path, tmp_path: Path, prefect_of_copies: str
) -> None:
    settings = tiny_params()
    settings["distill"]["training"]["num_epochs"] = 80
    write_params(copy, settings)
    (copy / server.UI_FILE).unlink()  # its own Prefect server is to leave nothing, either
    before = (copy / "dvc.lock").read_bytes()
    process = start_module(copy, "flows.run", "--until", "distill", DISTILLERY_JOBS="2")
    for role in ("student", "control"):
        wait_for(lambda role=role: list((copy / "scratch").glob(f"{role}-conv-*.pt")))
    kill(process)
    wait_until_nothing_is_left(copy)
    assert (copy / "dvc.lock").read_bytes() == before
    prefect_api.use(copy, prefect_of_copies)
    output = run_module(copy, "flows.run", "--until", "distill").stdout
    assert "cache: unchanged" in output
    assert output.count("goes on after epoch") == 2
    unbroken = copy_of(untouched, tmp_path / "unbroken")
    write_params(unbroken, settings)
    run_module(unbroken, "flows.run", "--only", "distill")
    assert outputs(copy) == outputs(unbroken)


def test_a_cache_pass_killed_in_the_middle_redoes_at_most_a_shard(copy: Path) -> None:
    settings = tiny_params()
    settings["cache"] |= {
        "payload": {"log_probs": "f16"},
        "batch_seconds": 0.5,
        "shard_seconds": 4.0,
    }
    write_params(copy, settings)
    cache = copy / "data/teacher_cache"
    former = set(cache.glob("*/shard-*.arrow"))

    def new_shards() -> set[Path]:
        return set(cache.glob("*/shard-*.arrow")) - former

    process = start_module(copy, "flows.run", "--until", "cache")
    wait_for(new_shards)
    kill(process)
    wait_until_nothing_is_left(copy)
    kept = {path: path.read_bytes() for path in new_shards()}
    run_module(copy, "flows.run", "--only", "cache")
    report = json.loads((copy / "reports/cache.json").read_text())
    assert report["num_teacher_forwards"] < report["num_utterances"]
    for path, content in kept.items():
        assert path.read_bytes() == content


def test_a_second_run_while_one_is_on_is_refused(copy: Path) -> None:
    settings = tiny_params()
    settings["teacher"]["training"]["num_epochs"] = 1_000_000
    write_params(copy, settings)
    process = start_module(copy, "flows.run", "--until", "teacher")
    try:
        lock = copy / ".dvc/tmp/distillery.lock"  # the copied one names the finished run
        wait_for(lambda: lock.read_text() == f"{process.pid}\n")
        second = run_module(copy, "flows.run", check=False)
        assert second.returncode == 75
        assert f"already running: pid {process.pid}" in second.stdout
        assert process.poll() is None
    finally:
        kill(process)
    wait_until_nothing_is_left(copy)


def test_a_dead_mlflow_costs_no_training_and_is_made_up_for(copy: Path) -> None:
    settings = tiny_params()
    settings["register"]["tracking_uri"] = "http://127.0.0.1:9"
    settings["distill"]["training"]["learning_rate"] = 4e-3  # so that distill has work to do
    write_params(copy, settings)
    retry_at_once(copy)
    failed = run_module(copy, "flows.run", check=False)
    assert failed.returncode == 1
    assert "distill@conv-0: ran" in failed.stdout
    assert "make register" in failed.stdout
    del settings["register"]["tracking_uri"]
    write_params(copy, settings)
    run_module(copy, "flows.run", "--only", "register")
    assert json.loads((copy / "reports/registered.json").read_text())["alias"] == "champion"


def test_misspelt_settings_end_before_any_work(copy: Path) -> None:
    settings = tiny_params()
    settings["distill"]["objektive"] = {}
    write_params(copy, settings)
    done = run_module(copy, "flows.run", check=False)
    assert done.returncode == 2
    assert "distill.objektive: unknown setting; did you mean 'objective'?" in done.stdout


def test_a_stages_error_reaches_the_user_in_one_piece(copy: Path) -> None:
    for take in range(4):  # more than max_dropped_fraction allows
        (copy / f"corpus/s05-{take}.wav").write_bytes(b"")
    before = (copy / "dvc.lock").read_bytes()
    done = run_module(copy, "flows.run", check=False)
    assert done.returncode == 1
    assert "4 of 48 utterances" in done.stdout or "s05-0" in done.stdout
    assert done.stdout.count("max_dropped_fraction") == 1  # at the end, no more
    assert done.stdout.splitlines()[-1].startswith(("error: stage prepare", " "))
    assert "Traceback" not in done.stdout
    assert (copy / "dvc.lock").read_bytes() == before
    assert (copy / "reports/dropped.csv").read_text().count("s05-") >= 4
