"""Claims on moving the champion, in a store that is treated as a server: no file is locked."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillery.errors import AliasConflict
from distillery.params.register import RegisterParams
from distillery.register import claims
from distillery.register.claims import CLAIM_TAG, alone
from distillery.tracking.store import Tracking
from tests.stores import put_mlflow

ROOT = Path(__file__).resolve().parents[3]
NUM_ROUNDS = 8
# Adds to the number in a file, slowly, so that two at once would lose some of what they add.
ADDER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch
from distillery.params.register import RegisterParams
from distillery.register import claims
from distillery.tracking.store import Tracking
root, uri, file = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
tracking = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), root)
print("ready", flush=True)
sys.stdin.readline()
nothing = {"registry_lock": lambda _: nullcontext(), "is_local": lambda _: False}
with patch.multiple(claims, LOOK_SECONDS=0.01, **nothing):
    for _ in range(int(sys.argv[4])):
        with claims.alone(tracking, "m", sys.argv[1]) as check:
            number = int(file.read_text())
            time.sleep(0.02)
            check()
            file.write_text(str(number + 1))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = put_mlflow(tmp_path_factory.mktemp("registry"))
    tracking = Tracking(RegisterParams(experiment="tests"), root)
    tracking.client.create_registered_model("m")
    return tracking


@pytest.fixture
def served(store: Tracking, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracking]:
    """The store as if it were behind a server, where there is no file to lock."""
    monkeypatch.setattr(claims, "is_local", lambda _: False)
    monkeypatch.setattr(claims, "registry_lock", lambda _: contextlib.nullcontext())
    yield store
    assert claims.claims(store, "m") == {}  # whatever happened


def test_one_process_at_a_time(served: Tracking, tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", ADDER]
    processes = []
    for name in "abc":
        (tmp_path / name).mkdir()
        arguments = [str(tmp_path / name), served.uri, str(number), str(NUM_ROUNDS)]
        processes.append(
            subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert number.read_text() == str(3 * NUM_ROUNDS)


def test_beside_a_local_database_no_claim_is_made(store: Tracking) -> None:
    with alone(store, "m", "me") as check:
        assert claims.claims(store, "m") == {}
        check()


def test_a_claim_says_whose_it_is_and_goes_with_an_error(served: Tracking) -> None:
    with pytest.raises(ValueError, match="an error"), alone(served, "m", "me"):
        assert list(claims.claims(served, "m").values()) == ["me"]
        raise ValueError("an error")


def test_a_living_claim_is_waited_for(served: Tracking) -> None:
    order = []

    def other() -> None:
        with alone(served, "m", "the other"):
            order.append("the other")

    with alone(served, "m", "me"):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.5)
        order.append("me")
    thread.join(30)
    assert order == ["me", "the other"]


@pytest.mark.parametrize("name", ["0", "z"], ids=["sorts first", "sorts last"])
def test_the_claim_of_a_dead_process_is_taken_away(
    served: Tracking,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    monkeypatch.setattr(claims, "CLAIM_SECONDS", 0.3)
    served.client.set_registered_model_tag("m", f"{CLAIM_TAG}{name}", "anna@far")
    with caplog.at_level(logging.WARNING), alone(served, "m", "me"):
        assert list(claims.claims(served, "m").values()) == ["me"]
    assert "m: anna@far was about to move the champion for 0.3 s, and counts as dead" in caplog.text


def test_a_process_that_was_taken_for_dead_moves_nothing(served: Tracking) -> None:
    with alone(served, "m", "me") as check:
        check()
        for name in claims.claims(served, "m"):
            served.client.delete_registered_model_tag("m", name)
        with pytest.raises(AliasConflict, match=r"the claim of me on moving the champion is gone"):
            check()
