"""Who is champion, in a real registry on SQLite, moved by people who do not wait for each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from distillery.commands.champion import champion_report
from distillery.errors import AliasConflict, ModelError, TrackingError
from distillery.params.register import RegisterParams
from distillery.register.aliases import (
    Aliases,
    moves,
    promote,
    read_aliases,
    rollback,
    set_challenger,
    set_champion,
    withdrawn,
)
from distillery.tracking.store import Tracking
from distillery.tracking.versions import register_version, version_folder
from tests.stores import put_mlflow
from tests.unit.tracking.test_fetched import recogniser
from tests.unit.tracking.test_versions import candidate

ROOT = Path(__file__).resolve().parents[3]
NUM_VERSIONS = 3
NUM_ROUNDS = 4
# Reads who is champion, waits until the other process has done so, too, and moves the champion:
# half of the times as everybody does, half as MLflow's own pages do, which ask for nothing.
MOVER = """
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch
from distillery.register import aliases
from distillery.errors import AliasConflict
from distillery.params.register import RegisterParams
from distillery.tracking.store import Tracking
root, version, rounds, uri = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
tracking = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), root)
free = nullcontext(lambda: None)
nothing = {"alone": lambda *_: free, "_check_champion": lambda *_: None}
for number in range(rounds):
    sys.stdin.readline()
    before = aliases.read_aliases(tracking, "m")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with patch.multiple(aliases, **nothing) if number % 2 else nullcontext():
            aliases.set_champion(tracking, "m", version, before, "me", "test")
        print("won", flush=True)
    except AliasConflict:
        print("lost", flush=True)
"""

# Promotes each version that it reads, and waits once it has read who is champion.
PROMOTER = """
import sys
from pathlib import Path
from unittest.mock import patch
from distillery.errors import AliasConflict
from distillery.params.register import RegisterParams
from distillery.register import aliases
from distillery.tracking.store import Tracking
root, uri = Path(sys.argv[1]), sys.argv[2]
tracking = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), root)
check_version = aliases.check_version
def wait(*arguments):
    print("decided", flush=True)
    sys.stdin.readline()
    return check_version(*arguments)
print("ready", flush=True)
with patch.object(aliases, "check_version", wait):
    while version := sys.stdin.readline().strip():
        try:
            print("won", aliases.promote(tracking, "m", version).version, flush=True)
        except AliasConflict as error:
            print("lost", error, flush=True)
"""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A registry that holds a model `m` with three versions, which tests give aliases."""
    root = put_mlflow(tmp_path_factory.mktemp("registry"))
    connection = Tracking(RegisterParams(experiment="tests"), root)
    register_three(connection)
    return connection


def register_three(connection: Tracking) -> None:
    """Register three students as versions of a model `m`."""
    for seed in range(1, NUM_VERSIONS + 1):
        folder = connection.root / f"student-{seed}"
        folder.mkdir()
        recogniser(seed).save(folder)
        register_version(connection, "m", candidate(connection, folder, str(seed) * 32))


@pytest.fixture
def registry(tracking: Tracking) -> Tracking:
    """The registry with version 1 as champion and nothing remembered."""
    client = tracking.client
    for alias in client.get_registered_model("m").aliases:
        client.delete_registered_model_alias("m", alias)
    for name in client.get_registered_model("m").tags:
        client.delete_registered_model_tag("m", name)
    for version in map(str, range(1, NUM_VERSIONS + 1)):
        for name in client.get_model_version("m", version).tags:
            if name.startswith("champion."):
                client.delete_model_version_tag("m", version, name)
    set_champion(tracking, "m", "1", Aliases(), "the gate", "the first champion")
    return tracking


def test_a_promoted_version_is_champion_and_the_former_one_previous(registry: Tracking) -> None:
    assert set_challenger(registry, "m", "2", read_aliases(registry, "m"))
    move = promote(registry, "m", "2")
    assert read_aliases(registry, "m") == Aliases("2", "1", None)
    assert (move.version, move.former, move.reason) == ("2", "1", "promoted by hand")
    assert [item.version for item in moves(registry, "m")] == ["2", "1"]
    with pytest.raises(
        TrackingError, match=r"m: version 2 is the champion already, since .* by .*@"
    ):
        promote(registry, "m", "2")
    with pytest.raises(TrackingError, match="models:/m/99: not in the registry"):
        promote(registry, "m", "99")
    assert read_aliases(registry, "m") == Aliases("2", "1", None)


def test_a_challenger_keeps_the_place_that_it_has(registry: Tracking) -> None:
    promote(registry, "m", "2")
    assert not set_challenger(registry, "m", "1", read_aliases(registry, "m"))
    assert not set_challenger(registry, "m", "2", read_aliases(registry, "m"))
    assert set_challenger(registry, "m", "3", read_aliases(registry, "m"))
    assert read_aliases(registry, "m") == Aliases("2", "1", "3")


def test_a_rollback_that_fails_takes_nothing_back(
    registry: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, "m", "2")

    def lost(*_: object) -> None:
        raise MlflowException("gone")

    with monkeypatch.context() as patch:
        patch.setattr(registry.client, "set_registered_model_alias", lost)
        with pytest.raises(TrackingError, match="MLflow at .*: gone"):
            rollback(registry, "m")
    assert read_aliases(registry, "m") == Aliases("2", "1", None)
    assert withdrawn(registry, "m", "2") is None


def test_two_rollbacks_at_once_leave_the_mark_of_the_first(registry: Tracking) -> None:
    promote(registry, "m", "2")
    before = read_aliases(registry, "m")
    rollback(registry, "m")
    mark = withdrawn(registry, "m", "2")
    with pytest.raises(AliasConflict, match="version 1 is the champion already, since"):
        set_champion(registry, "m", "1", before, "me", "rolled back", withdraw=True)
    assert withdrawn(registry, "m", "2") == mark is not None


def test_rolling_back_swaps_and_back_again(registry: Tracking) -> None:
    with pytest.raises(TrackingError, match="m: no version is 'previous', so there is none to go"):
        rollback(registry, "m")
    promote(registry, "m", "2")
    assert rollback(registry, "m").reason == "rolled back from version 2"
    assert read_aliases(registry, "m") == Aliases("1", "2", None)
    assert withdrawn(registry, "m", "2")
    rollback(registry, "m")
    assert read_aliases(registry, "m") == Aliases("2", "1", None)
    assert withdrawn(registry, "m", "2") is None
    assert withdrawn(registry, "m", "1")
    promote(registry, "m", "1")  # a person forgives
    assert withdrawn(registry, "m", "1") is None


def test_a_crash_between_two_moves_leaves_a_champion(
    registry: Tracking,
) -> None:
    registry.client.set_registered_model_alias("m", "previous", "1")  # promote 2, half done
    assert promote(registry, "m", "2").former == "1"
    assert read_aliases(registry, "m") == Aliases("2", "1", None)
    registry.client.set_registered_model_alias("m", "champion", "1")  # roll back, half done
    with pytest.raises(TrackingError, match="none to go back to"):
        rollback(registry, "m")
    assert read_aliases(registry, "m").champion == "1"


def test_a_damaged_version_is_refused(registry: Tracking) -> None:
    folder, _ = version_folder(registry, "models:/m/3")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    promote(registry, "m", "3")
    promote(registry, "m", "2")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        for command in (lambda: promote(registry, "m", "3"), lambda: rollback(registry, "m")):
            with pytest.raises(ModelError, match=r"model\.safetensors: SHA-256"):
                command()
    finally:
        weights.write_bytes(content)
    assert read_aliases(registry, "m") == Aliases("2", "3", None)


def test_who_decided_on_a_champion_that_is_gone_decides_again(registry: Tracking) -> None:
    before = read_aliases(registry, "m")
    promote(registry, "m", "2")
    said = (
        r"champion is version 2, since \S+ by \S+@\S+ \(promoted by hand\); a moment ago it was 1"
    )
    with pytest.raises(AliasConflict, match=said):
        set_champion(registry, "m", "3", before, "the gate", "it is better")
    with pytest.raises(AliasConflict, match="champion is version 2"):
        set_challenger(registry, "m", "3", before)
    assert read_aliases(registry, "m") == Aliases("2", "1", None)


def test_two_at_once_leave_one_champion(registry: Tracking) -> None:
    movers = {v: start_mover(registry.root, v, registry.uri) for v in ("2", "3")}
    for number, (said, found) in enumerate(race(registry, movers)):
        if number % 2 == 0:
            assert sorted(said.values()) == ["lost", "won"]
            assert found.previous == "1"
        promote(registry, "m", "1")
    assert [process.wait() for process in movers.values()] == [0, 0]


def test_the_same_version_promoted_by_two_at_once_is_recorded_once(registry: Tracking) -> None:
    both = [start_promoter(registry.root, registry.uri) for _ in range(2)]
    check_races(registry, both, rounds=2)


def check_races(registry: Tracking, promoters: list[subprocess.Popen[str]], rounds: int) -> None:
    """Let two people promote one version, or two, at the same time: one succeeds, once."""
    people = {str(number): process for number, process in enumerate(promoters)}
    assert list(heard(people).values()) == ["ready", "ready"]
    for number in range(rounds):
        before = len(moves(registry, "m"))
        wanted = ("2", "2" if number % 2 else "3")
        for process, version in zip(promoters, wanted, strict=True):
            assert process.stdin is not None
            process.stdin.write(f"{version}\n")
            process.stdin.flush()
        assert list(heard(people).values()) == ["decided", "decided"]
        (lost, won) = sorted(tell(people).values())
        champion = str(read_aliases(registry, "m").champion)
        assert won == f"won {champion}"
        assert lost.startswith("lost m: ")
        # Told whose promotion it was, by the one who saw it happen.
        assert f"version {champion}" in lost and "(promoted by hand)" in lost
        first, *_ = made = moves(registry, "m")
        assert len(made) == before + 1
        assert (first.version, first.former) == (champion, "1")
        assert read_aliases(registry, "m").previous == "1"
        promote(registry, "m", "1")
    for process in promoters:
        process.communicate()
    assert [process.returncode for process in promoters] == [0, 0]


def start_promoter(root: Path, uri: str) -> subprocess.Popen[str]:
    """Start a process that promotes each version that it reads, and says what came of it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROMOTER, str(root), uri],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def race(
    registry: Tracking, movers: dict[str, subprocess.Popen[str]]
) -> Iterator[tuple[dict[str, str], Aliases]]:
    """Yield, round by round, what the movers of two versions said, and the aliases after that."""
    for _ in range(NUM_ROUNDS):
        assert list(tell(movers).values()) == ["ready", "ready"]
        said, found = tell(movers), read_aliases(registry, "m")
        assert set(said.values()) <= {"won", "lost"}
        assert said[str(found.champion)] == "won"
        assert found.previous in {"1", "2", "3"} - {found.champion}
        yield said, found


def start_mover(root: Path, version: str, uri: str) -> subprocess.Popen[str]:
    """Start a process that makes a version champion each time that it is told to go on twice."""
    return subprocess.Popen(
        [sys.executable, "-c", MOVER, str(root), version, str(NUM_ROUNDS), uri],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tell(movers: dict[str, subprocess.Popen[str]]) -> dict[str, str]:
    """Let all go on, and return what each says then."""
    for process in movers.values():
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
    return heard(movers)


def heard(movers: dict[str, subprocess.Popen[str]]) -> dict[str, str]:
    """Return what each says next."""
    answers = {}
    for version, process in movers.items():
        assert process.stdout is not None
        answers[version] = process.stdout.readline().strip()
    return answers


def test_the_champion_is_shown_with_all_that_led_to_it(registry: Tracking) -> None:
    registry.client.set_model_version_tag("m", "2", "gate.reason", "all rules passed")
    promote(registry, "m", "2")
    text = champion_report(registry, "m")
    rows = [line.split() for line in text.splitlines() if line[:1] and line[0] in "123"]
    assert [row[:2] for row in rows] == [["3", "conv,"], ["2", "champion"], ["1", "previous"]]
    assert "20.00%" in rows[1]
    assert "all rules passed" in text
    assert "version 2 in place of version 1, by" in text
    assert text.index("promoted by hand") < text.index("the first champion")
    assert "no version is registered yet; run make run" in champion_report(registry, "nobody")
    assert "test WER" in text
    registry.client.set_model_version_tag("m", "2", "unit", "character")
    text = champion_report(registry, "m")
    assert "20.00% CER" in text and "20.00% WER" in text


def test_versions_are_shown_without_any_champion_the_newest_ten(
    tracking: Tracking, tmp_path: Path
) -> None:
    tracking.client.create_registered_model("many")
    for _ in range(12):
        tracking.client.create_model_version("many", str(tmp_path))
    text = champion_report(tracking, "many")
    numbers = [line.split()[0] for line in text.splitlines()[3:13]]
    assert numbers == [str(number) for number in range(12, 2, -1)]
    assert "and 2 older ones" in text
    assert "There is no champion: make promote VERSION=… names one." in text
    tracking.client.set_registered_model_alias("many", "previous", "1")
    text = champion_report(tracking, "many")
    assert "and 1 older ones" in text
    assert "There is no champion: make rollback or make promote" in text


def test_a_deleted_champion_leaves_no_alias_and_the_previous_one_can_return(
    tracking: Tracking, tmp_path: Path
) -> None:
    for md5 in ("a", "b"):
        folder = tmp_path / md5
        folder.mkdir()
        recogniser(ord(md5)).save(folder)
        register_version(tracking, "lost", candidate(tracking, folder, md5 * 32))
    set_champion(tracking, "lost", "1", Aliases(), "the gate", "the first champion")
    promote(tracking, "lost", "2")
    tracking.client.delete_model_version("lost", "2")
    assert read_aliases(tracking, "lost") == Aliases(None, "1", None)
    assert "There is no champion: make rollback" in champion_report(tracking, "lost")
    assert rollback(tracking, "lost").former is None
    assert read_aliases(tracking, "lost") == Aliases("1", None, None)
    assert list(tracking.client.get_registered_model("lost").aliases) == ["champion"]
