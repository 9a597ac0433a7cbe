"""What can be done with a run that ended: made again, shown as a page, compared with others."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from distillery.errors import StageError, TrackingError
from distillery.params.whole import Params
from distillery.tracking.store import Tracking
from flows.looking_back import compare, report
from flows.looking_back.reproduce import PLACE, Compared, Origin, find_origin, worktree
from tasks.lineage import locked_outputs
from tests.pipeline import prefect_api
from tests.pipeline.conftest import make_workspace, run_module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, prefect_of_copies: str) -> Path:
    """A workspace whose code was changed, its run finished, and its models gone since."""
    root = make_workspace(tmp_path_factory.mktemp("reproduce") / "workspace")
    prefect_api.use(root, prefect_of_copies)
    with open(root / "distillery/data/text.py", "a", encoding="utf-8") as file:
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
        done = run_module(root, "flows.looking_back.reproduce", "1")
    finally:
        (root / "params.yaml").write_bytes(before[root / "params.yaml"])
    assert "The student was made again, bit for bit." in done.stdout
    assert "model, MD5 by DVC" in done.stdout
    locked = locked_outputs(root / "dvc.lock")
    assert f"models/teacher ({locked['models/teacher'][:12]})" in done.stdout
    assert "Made again: students/conv/seed-3 without its control, whose training" in done.stdout
    assert "student conv seed 3: 3 epochs" in done.stdout
    assert "control conv seed 3" not in done.stdout
    assert "git add" not in done.stdout
    assert "dvc push" not in done.stdout
    assert "test/wer" in done.stdout
    assert "NO" not in done.stdout
    assert {path: path.read_bytes() for path in before} == before
    assert not list((root / "scratch/reproduce").iterdir())
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=root, capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1


@pytest.mark.slow
def test_its_teacher_and_cache_are_made_again_where_that_is_asked(root: Path) -> None:
    done = run_module(root, "flows.looking_back.reproduce", "--from", "teacher", "1")
    assert "Made again: teacher, cache, students/conv/seed-3" in done.stdout
    assert "teacher, MD5 by DVC" in done.stdout
    assert "cache, MD5 by DVC" in done.stdout
    assert "The student was made again, bit for bit." in done.stdout


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
        done = run_module(root, "flows.looking_back.reproduce", own, check=False)
    finally:
        tracking.client.set_tag(own, "git.commit", kept)
    assert done.returncode == 1
    assert "commit ffffffffffff: not in this clone" in done.stdout


@pytest.mark.parametrize("left", ["a folder that Git forgot", "a name whose folder is gone"])
def test_what_a_killed_reproduction_left_is_no_obstacle(tmp_path: Path, left: str) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    origin = Origin("run", "students/conv/seed-0", "parent", commit.stdout.strip(), "0" * 32, {})
    place = tmp_path / PLACE / "run"
    if left == "a folder that Git forgot":
        place.mkdir(parents=True)
        (place / "old.txt").write_text("of another time")
    else:
        subprocess.run([*git, "worktree", "add", "-q", "--detach", str(place)], check=True)
        shutil.rmtree(place)
    with worktree(tmp_path, origin) as found:
        assert (found / ".git").exists()
        assert not (found / "old.txt").exists()
    assert not place.exists()


def test_other_bits_are_told() -> None:
    assert Compared("test/wer", "0.1", "0.1").equal
    assert not Compared("test/wer", "0.1", "0.2").equal


# --- the page of a run ----------------------------------------------------------------------------


def test_a_page_holds_all_there_is_to_see_and_hear(root: Path, tracking: Tracking) -> None:
    done = run_module(root, "flows.looking_back.report")
    parent = json.loads((root / "reports/registered.json").read_text())["runs"]["parent"]
    path = root / report.FOLDER / parent / "report.html"
    assert f"Written: {path.relative_to(root)}" in done.stdout
    page = path.read_text()
    assert "student conv" in page
    assert "version 1 of tiny" in page
    assert page.count("data:image/png;base64,") == 5
    assert "dvc.data.md5" in page
    assert "Version 1 is champion" in page
    assert ">sanity<" in page
    assert ">Exported<" in page
    assert "max_gradient_norm" not in page.split("<details>")[0]
    assert not re.search(r"(src|href)=[\"'](?!data:)", page)  # it needs nothing beside it
    recordings = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    assert 0 < len(recordings) <= 8
    assert base64.b64decode(recordings[0]).startswith(b"fLaC")
    here = tracking.client.download_artifacts(parent, "report.html", str(root / "scratch"))
    assert Path(here).read_text() == page


def test_a_page_of_other_data_says_that_it_is_silent(root: Path, tracking: Tracking) -> None:
    assert report.recordings(root, "another") is None
    play = report.recordings(root, tracking_md5(root))
    assert play is not None
    assert play("nobody") is None


def tracking_md5(root: Path) -> str:
    """Return the MD5 of the prepared data, as runs bear it."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return str(stages["prepare"]["outs"][0]["md5"].removesuffix(".dir"))


def test_a_run_that_was_never_evaluated_has_no_page(root: Path, tracking: Tracking) -> None:
    run = tracking.create_run("empty", {})
    with pytest.raises(StageError, match=f"run {run}: holds no evaluation"):
        report.write_report(root, tracking, run)


# --- the leaderboard ------------------------------------------------------------------------------


def test_the_leaderboard_shows_every_finished_student_and_who_is_champion(
    root: Path, tracking: Tracking
) -> None:
    done = run_module(root, "flows.looking_back.compare")
    summary = json.loads((root / "reports/evaluation/summary.json").read_text())
    wers = {row["model"]: row["wer"] for row in summary["models"]}
    table = pd.read_csv(root / compare.CSV_FILE)
    (row,) = table.to_dict("records")
    assert row["student"] == "conv"
    assert row["wer"] == wers["students/conv"]
    assert row["control_wer"] == wers["controls/conv"]
    assert row["gain"] == pytest.approx(wers["controls/conv"] - wers["students/conv"])
    assert row["seeds"] == 1
    assert "(champion)" in done.stdout.replace("\n", " ")
    assert f"{100 * row['wer']:.1f}" in done.stdout


def test_rows_of_one_corpus_stand_together_and_seeds_are_averaged() -> None:
    def row(parent: str, seed: int, data: str, wer: float, day: int) -> dict[str, object]:
        return {
            "run": f"{parent}-{seed}",
            "parent": parent,
            "name": f"conv-{parent}",
            "student": "conv",
            "seed": f"seed-{seed}",
            "corpus": "an4",
            "data": data,
            "unit": "word",
            "started": pd.Timestamp(2026, 1, day, tz="UTC"),
            **dict.fromkeys(compare.METRICS.values(), 1.0),
            "wer": wer,
            "control_wer": None,
        }

    found = pd.DataFrame(
        [
            row("old", 0, "aaa", 0.10, 1),
            row("two", 0, "bbb", 0.30, 2),
            row("two", 1, "bbb", 0.20, 2),
            row("best", 0, "bbb", 0.21, 3),
        ]
    )
    table = compare.leaderboard(found)
    assert list(table["parent"]) == ["best", "two", "old"]
    assert list(table["wer"]) == pytest.approx([0.21, 0.25, 0.10])
    assert list(table["seeds"]) == [1, 2, 1]
    shown = compare.render(table, ["two-1"])  # of several seeds any may be registered
    assert list(shown.columns[0].cells) == ["conv-best", "conv-two (champion)", "conv-old"]
    assert shown.columns[3].header == "WER %"
    table["unit"] = ["character", "character", "word"]
    shown = compare.render(table)
    assert shown.columns[3].header == "WER or CER %"
    assert list(shown.columns[3].cells) == ["21.0 CER", "25.0 ± 7.1 CER", "10.0 WER"]


def test_nothing_to_compare_is_said(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert compare.main([]) == 1
    assert "holds no finished student; run make run" in capsys.readouterr().err
