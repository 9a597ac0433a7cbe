"""The data against the champion's, in a real registry on SQLite."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from distillery.params.register import RegisterParams
from distillery.prepare.profile import Profile, read_profile, write_profile
from distillery.register.drift import drift_from_champion, log_drift
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION
from tests.stores import put_mlflow
from tests.unit.prepare.test_profile import profile_of

QUIETER = "data moved since version 1 was trained: train: level_dbfs -3"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = put_mlflow(tmp_path_factory.mktemp("registry"))
    return Tracking(RegisterParams(experiment="tests"), root)


def workspace(root: Path, profile: Profile | None) -> Path:
    folder = root / "data/prepared"
    folder.mkdir(parents=True)
    if profile is not None:
        write_profile(folder, profile)
    return root


def champion_of(tracking: Tracking, name: str, run: str) -> None:
    """Make a run's model the champion; nothing of it but the run is looked at."""
    tracking.client.create_registered_model(name)
    version = tracking.client.create_model_version(name, f"runs:/{run}/model", run)
    tracking.client.set_registered_model_alias(name, CHAMPION, version.version)


def test_data_that_moved_are_said_in_log_tags_and_metrics(
    tracking: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = workspace(tmp_path / "first", profile_of(0))
    parent, student = (tracking.create_run(name, {}) for name in ("parent", "student"))
    nothing = drift_from_champion(tracking, "moving", first)
    assert (nothing.champion, nothing.warnings) == (None, [])
    log_drift(tracking, parent, [student], nothing, first)
    tags = tracking.client.get_run(student).data.tags
    assert tags["data.moved"] == "unknown"
    assert tags["data.moved.what"] == "there is no champion yet"
    champion_of(tracking, "moving", student)

    same = drift_from_champion(tracking, "moving", first)
    assert same.tags == {
        "data.moved": "false",
        "data.moved.what": "nothing",
        "data.compared_with": "1",
    }

    second = workspace(tmp_path / "second", profile_of(1, level_db=-8.0))
    moved = drift_from_champion(tracking, "moving", second)
    (line,) = moved.warnings
    assert line.startswith(QUIETER)
    parent, student = (tracking.create_run(name, {}) for name in ("parent", "student"))
    with caplog.at_level(logging.WARNING):
        log_drift(tracking, parent, [student], moved, second)
    assert line in caplog.messages
    for run in (parent, student):
        data = tracking.client.get_run(run).data
        assert data.tags["data.moved"] == "true"
        assert data.tags["data.moved.what"] in line
        assert ("data/psi/train/level_dbfs" in data.metrics) == (run == parent)
        path = tracking.client.download_artifacts(run, "data/profile.json", str(tmp_path))
        assert read_profile(Path(path)) == profile_of(1, level_db=-8.0)
    psi = tracking.client.get_run(parent).data.metrics["data/psi/train/level_dbfs"]
    assert psi > 0.25


def test_who_became_champion_meanwhile_is_not_compared_with_its_own_data(
    tracking: Tracking, tmp_path: Path
) -> None:
    former = workspace(tmp_path / "former", profile_of(0))
    present = workspace(tmp_path / "present", profile_of(1, level_db=-8.0))
    for number, root in (("1", former), ("2", present)):
        run = tracking.create_run("student", {})
        first = drift_from_champion(tracking, "again", root)
        log_drift(tracking, run, [], first, root)
        if number == "1":
            champion_of(tracking, "again", run)
        else:
            tracking.client.create_model_version("again", f"runs:/{run}/model", run)
            tracking.client.set_registered_model_alias("again", CHAMPION, number)
        repeated = drift_from_champion(tracking, "again", root, own=[number])
        assert repeated == first
    assert repeated.warnings[0].startswith(QUIETER)
    assert drift_from_champion(tracking, "again", present).tags["data.moved"] == "false"
    tracking.client.delete_model_version("again", "1")
    gone = drift_from_champion(tracking, "again", present, own=["2"])
    assert gone.tags["data.moved"] == "unknown"
    assert gone.note == "version 1 is not in the registry any more"


def test_what_cannot_be_compared_is_a_note(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.create_run("student", {})
    champion_of(tracking, "bare", run)
    ready = workspace(tmp_path / "ready", profile_of(0))
    found = drift_from_champion(tracking, "bare", ready)
    assert (found.champion, found.note) == (
        "1",
        "the run of version 1 keeps no profile of its data",
    )
    found = drift_from_champion(tracking, "bare", workspace(tmp_path / "bare", None))
    assert "profile.json: cannot be read" in found.note
    assert found.tags["data.moved"] == "unknown"
    log_drift(tracking, run, [], found, tmp_path / "bare")  # logs no profile, and does not fail
    (tmp_path / "profile.json").write_text('{"version": 0}')
    tracking.client.log_artifact(run, str(tmp_path / "profile.json"), "data")
    found = drift_from_champion(tracking, "bare", ready)
    assert "version 0, expected 1" in found.note
