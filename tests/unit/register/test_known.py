"""Results that another clone has registered, in a real registry on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distillery.params.register import RegisterParams
from distillery.params.whole import Params
from distillery.register.aliases import read_aliases, set_champion
from distillery.register.gate.verdict import Verdict, read_verdict, write_verdict
from distillery.register.known import (
    NO_ALIAS,
    find_registered,
    note_registered,
    results_digest,
)
from distillery.register.registered import REGISTERED_FILE, Registered, read_registered
from distillery.tracking.store import DATABASE_FILE, Tracking
from tests.tiny import tiny_params
from tests.unit.register.test_aliases import tracking

__all__ = ["tracking"]
OUTPUTS = {"reports/evaluation": "e" * 32}
DIGEST = "d" * 64


@pytest.fixture
def clone(tracking: Tracking, tmp_path: Path) -> Callable[[], Tracking]:
    """Another workspace, of the same MLflow."""
    (tmp_path / "reports").mkdir()
    uri = f"sqlite:///{tracking.root / DATABASE_FILE}"
    return lambda: Tracking(RegisterParams(experiment="tests", tracking_uri=uri), tmp_path)


def put(connection: Tracking, digest: str = DIGEST) -> Registered:
    """Register version 2 as a run of a pipeline does, and return what came of it."""
    run = connection.create_run("a run", {})
    registered = Registered(
        "m", "2", "champion", "first", "2", "conv", 0, {"conv": "2"}, {"parent": run},
        connection.experiment_id, connection.uri, evaluation_md5="e" * 32,
    )  # fmt: skip
    (connection.root / "reports").mkdir(exist_ok=True)
    write_verdict(connection.root, "m", Verdict("2", "champion", "first", changed=True))
    connection.client.log_artifact(run, str(connection.root / "reports/gate.json"))
    note_registered(connection, run, registered, digest)
    return registered


def test_what_one_clone_registered_another_finds_with_its_verdict(
    tracking: Tracking, clone: Callable[[], Tracking]
) -> None:
    mate = clone()
    assert find_registered(mate, "m", DIGEST) is None
    registered = put(tracking)
    assert find_registered(mate, "m", DIGEST) is None  # there is no champion: the gate's business
    set_champion(tracking, "m", "2", read_aliases(tracking, "m"), "the gate", "first")
    assert find_registered(mate, "m", DIGEST) == registered == read_registered(mate.root)
    verdict = read_verdict(mate.root, "m")
    assert verdict is not None
    assert verdict.reason == "first"
    assert find_registered(mate, "m", "0" * 64) is None


def test_it_says_who_is_champion_today_and_not_what_is_gone(
    tracking: Tracking, clone: Callable[[], Tracking]
) -> None:
    registered = put(tracking, "a" * 64)
    set_champion(tracking, "m", "3", read_aliases(tracking, "m"), "me", "better")
    found = find_registered(clone(), "m", "a" * 64)
    former = read_aliases(tracking, "m").previous
    alias = "previous" if former == "2" else NO_ALIAS
    assert found == replace(registered, champion="3", alias=alias)
    gone = replace(registered, version="9")
    note_registered(tracking, registered.parent_run, gone, "a" * 64)
    assert find_registered(clone(), "m", "a" * 64) is None


def test_a_run_of_another_day_that_cannot_be_read_is_none(
    tracking: Tracking, clone: Callable[[], Tracking]
) -> None:
    registered = put(tracking, "b" * 64)
    (tracking.root / REGISTERED_FILE).write_text('{"of": "later"}')
    path = str(tracking.root / REGISTERED_FILE)
    tracking.client.log_artifact(registered.parent_run, path)
    assert find_registered(clone(), "m", "b" * 64) is None


def test_other_outputs_and_another_gate_are_other_results_and_another_place_is_not() -> None:
    first = Params.model_validate(tiny_params())
    digest = results_digest(OUTPUTS, first)
    gate = first.register.gate.model_copy(update={"max_real_time_factor": 0.5})
    stricter = first.register.model_copy(update={"gate": gate})
    elsewhere = first.register.model_copy(update={"tracking_uri": "http://mlflow"})
    assert results_digest({"reports/evaluation": "f" * 32}, first) != digest
    assert results_digest(OUTPUTS, first.model_copy(update={"register": stricter})) != digest
    assert results_digest(OUTPUTS, first.model_copy(update={"register": elsewhere})) == digest
