"""What a stage says reaches the terminal once: as it comes, or with the error that ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.environment import UnlessSaidBefore
from flows.stages import process
from flows.stages.process import KEPT_LINES, is_noise, run_dvc, start_child


@pytest.fixture
def dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Python code runs in DVC's place, for DVC takes a second to start."""

    def start(root: Path, arguments: list[str], _variables: object) -> object:
        return start_child(root, ["-c", arguments[-1]])

    monkeypatch.setattr(process, "start_child", start)
    return tmp_path


def said_by(root: Path, code: str) -> tuple[int, list[str], str]:
    emitted: list[str] = []
    status, lines = run_dvc(root, [code], emitted.append)
    return status, emitted, process.reason(lines, status)


def test_an_error_is_left_to_whoever_ends_the_run(dvc: Path) -> None:
    code = "print('one'); print('error: no room'); print('  for it'); raise SystemExit(1)"
    assert said_by(dvc, code) == (1, ["one"], "no room\n  for it")


def test_an_error_that_ended_nothing_is_emitted(dvc: Path) -> None:
    status, emitted, _ = said_by(dvc, "print('error: of a library'); print('done')")
    assert (status, emitted) == (0, ["error: of a library", "done"])


def test_of_two_errors_the_last_one_is_left(dvc: Path) -> None:
    code = "print('error: first'); print('error: second'); raise SystemExit(1)"
    assert said_by(dvc, code) == (1, ["error: first"], "second")


def test_a_mistake_of_ours_is_shown_whole_and_once(dvc: Path) -> None:
    status, emitted, reason = said_by(dvc, "print('one', flush=True); {}['missing']")
    assert (status, emitted) == (1, ["one"])
    assert reason.startswith("failed with status 1; its last lines:\nTraceback (most recent")
    assert reason.endswith("KeyError: 'missing'")


def test_nothing_of_a_long_error_is_lost(dvc: Path) -> None:
    lines = [f"line {number}" for number in range(2 * KEPT_LINES)]
    code = f"print('Traceback (most recent call last):', *{lines}, sep='\\n'); raise SystemExit(1)"
    _, emitted, reason = said_by(dvc, code)
    assert [line for line in [*emitted, *reason.splitlines()] if line in lines] == lines


def test_a_warning_of_two_stages_is_said_once() -> None:
    import logging

    log = UnlessSaidBefore()
    records = [
        logging.LogRecord(name, level, "", 0, text, None, None)
        for name, level, text in (
            ("prepare", logging.WARNING, "the data moved"),
            ("register", logging.WARNING, "the data moved"),
            ("register", logging.WARNING, "something else"),
            ("stage", logging.INFO, "epoch"),
            ("stage", logging.INFO, "epoch"),
        )
    ]
    assert [log.filter(record) for record in records] == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        ("WARNING: 'curves/controls/conv/seed-0.jsonl' is empty.", True),  # no control was trained
        ("WARNING: 'data/prepared' is empty.", False),
        ("warning: 3 texts are long", False),
    ],
)
def test_what_dvc_says_of_a_control_that_was_not_trained_is_noise(line: str, noise: bool) -> None:
    assert is_noise(line) is noise
