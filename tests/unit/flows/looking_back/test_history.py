"""The history of retraining: every run once, whatever was killed meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.looking_back import history
from flows.looking_back.history import Retraining

ROOT = Path(__file__).resolve().parents[4]


def record(run: str = "a", **changes: Any) -> Retraining:
    return Retraining(run=run, trigger="schedule", started="2026-01-31T03:00:00+00:00", **changes)


def test_a_run_is_open_until_it_is_closed_and_then_stands_once(tmp_path: Path) -> None:
    run = record(why=["new data"])
    history.begin(tmp_path, run)
    run.step = "distill@conv-0"
    history.update(tmp_path, run)
    assert history.unfinished(tmp_path) == run
    history.close(tmp_path, run, "finished")
    assert history.unfinished(tmp_path) is None
    history.close(tmp_path, run, "crashed", "found again by somebody else")
    (row,) = history.read_history(tmp_path)
    assert (row.run, row.status, row.step) == ("a", "finished", "distill@conv-0")


def test_closing_one_run_leaves_another_that_is_on(tmp_path: Path) -> None:
    history.begin(tmp_path, record("b"))
    history.close(tmp_path, record("a"), "crashed")
    left = history.unfinished(tmp_path)
    assert left is not None
    assert left.run == "b"


def test_a_kill_between_line_and_end_does_not_double_the_run(tmp_path: Path) -> None:
    run = record()
    history.begin(tmp_path, run)
    run.status = "finished"
    history.append(tmp_path, run)  # and here the power goes
    left = history.unfinished(tmp_path)
    assert left is not None
    history.close(tmp_path, left, "crashed")
    (row,) = history.read_history(tmp_path)
    assert row.status == "finished"
    assert history.unfinished(tmp_path) is None


def test_half_a_line_costs_itself_alone(tmp_path: Path) -> None:
    history.append(tmp_path, record("a"))
    with open(tmp_path / history.HISTORY_FILE, "ab") as file:
        file.write(b'{"run": "torn", "trig')
    history.append(tmp_path, record("b"))
    assert [row.run for row in history.read_history(tmp_path)] == ["a", "b"]


def test_lines_of_other_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / history.HISTORY_FILE
    path.parent.mkdir()
    path.write_text(
        '{"run": "a", "trigger": "t", "started": "s", "of_the_future": 1}\n{"run": 1}\n'
    )
    assert [row.run for row in history.read_history(tmp_path)] == ["a"]


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.looking_back.history import *\n"
        "for n in range(50):\n"
        "    append(Path(sys.argv[1]), Retraining(run=f'{sys.argv[2]}-{n}', trigger='t' * 500,"
        " started=''))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT)
        for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(history.read_history(tmp_path)) == 150


def test_the_last_work_is_the_last_run_that_had_something_to_do(tmp_path: Path) -> None:
    assert history.last_work(tmp_path) is None
    for run, status in (("a", "failed"), ("b", "nothing new"), ("c", "skipped")):
        history.append(tmp_path, record(run, status=status))
    last = history.last_work(tmp_path)
    assert last is not None
    assert last.run == "a"


def test_the_clock_going_back_changes_no_order(tmp_path: Path) -> None:
    late, early = "2026-03-01T03:00:00+00:00", "2026-02-28T21:00:00+00:00"
    history.append(tmp_path, Retraining("first", "schedule", late, status="failed"))
    history.append(tmp_path, Retraining("second", "schedule", early, status="finished"))
    assert [row.run for row in history.read_history(tmp_path)] == ["first", "second"]
    last = history.last_work(tmp_path)
    assert last is not None
    assert last.run == "second"


@pytest.mark.parametrize(("status", "pages"), [("finished", 1), ("skipped", 0), ("nothing new", 0)])
def test_only_runs_that_did_something_have_a_page(tmp_path: Path, status: Any, pages: int) -> None:
    history.close(tmp_path, record(), status)
    assert len(list(tmp_path.glob(f"{history.PAGES}/*.md"))) == pages


def test_a_page_says_what_happened_and_what_comes_next(tmp_path: Path) -> None:
    run = record(
        step="evaluate",
        why=["new data: corpus changed"],
        stages={"prepare": "ran", "teacher": "unchanged"},
        teacher_forwards=3,
        teacher_seconds=1.25,
        hours=1.5,
        num_utterances=900,
        data_md5="abc",
        wer=0.125,
        wer_low=0.1,
        wer_high=0.15,
        version="3",
        alias="champion",
        champion="3",
        former_champion="2",
        verdict="below | above",
        warnings=["not sent to the remote"],
    )
    history.close(tmp_path, run, "failed", "stage evaluate: no room")
    text = (tmp_path / history.PAGES / "a.md").read_text()
    for words in (
        "# Retraining a: failed\n\nstage evaluate: no room\n",
        "ended at the step `evaluate`. Nothing is lost",
        "| to do | new data: corpus changed |",
        "| stages | prepare ran, teacher unchanged |",
        "| teacher pass | 3 utterances in 1.2 s |",
        "| data | 1.50 h, 900 utterances (DVC abc) |",
        "| its WER % | 12.5 [10.0, 15.0] |",
        "| verdict | below \\| above |",
        "| champion | version 3, before that 2 |",
        "not sent to the remote",
    ):
        assert words in text, words


@pytest.mark.parametrize("line", ["[]", "null", "3", '"text"'])
def test_json_that_is_no_run_is_left_out_like_any_broken_line(tmp_path: Path, line: str) -> None:
    history.append(tmp_path, record())
    with open(tmp_path / history.HISTORY_FILE, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    assert [row.run for row in history.read_history(tmp_path)] == ["a"]
    (tmp_path / history.OPEN_FILE).parent.mkdir()
    (tmp_path / history.OPEN_FILE).write_text(line)
    assert history.unfinished(tmp_path) is None


def test_what_did_not_reach_the_remote_is_unsent_until_it_does(tmp_path: Path) -> None:
    assert not history.is_unsent(tmp_path)
    history.append(tmp_path, record("a", status="finished", pushed=False))
    history.append(tmp_path, record("b", status="skipped"))
    assert history.is_unsent(tmp_path)
    history.append(tmp_path, record("c", status="nothing new", pushed=True))
    history.append(tmp_path, record("d", status="nothing new"))
    assert not history.is_unsent(tmp_path)
