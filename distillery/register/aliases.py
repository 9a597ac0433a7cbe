"""Who is champion: aliases of a registered model, read and moved so that none is left dangling.

MLflow moves one alias at a time, the last writer wins, and it drops an alias without a word when
its version is deleted. So one process moves them at a time (claims.py): it compares what stands
with what the decision rests on, reads back what it wrote, and says who won. The order of writing is
such that a process that dies between two writes leaves a champion: the former one, or the one that
a rollback wanted.

A registered model bears a tag for every change of champion, `champion.20260131T093000.123456Z`; a
version bears since when and by whom it is champion, or that it was rolled back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from distillery.errors import AliasConflict, TrackingError
from distillery.register.claims import alone
from distillery.tracking.store import Tracking
from distillery.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    checked_folder,
    stored_aliases,
    version_exists,
)

MOVE_TAG = "champion."
SINCE_TAG, BY_TAG, WITHDRAWN_TAG = "champion.since", "champion.by", "champion.withdrawn"
GATE = "the gate"
NOBODY = "somebody, by MLflow or a process that was killed"


@dataclass(frozen=True)
class Aliases:
    """The versions that have an alias and exist."""

    champion: str | None = None
    """What everybody uses by default."""
    previous: str | None = None
    """The champion before, to go back to."""
    challenger: str | None = None
    """The latest that did not become champion."""


@dataclass(frozen=True)
class Move:
    """One change of champion."""

    time: str
    """In UTC, such as 20260131T093000.123456Z."""
    version: str
    """The new champion."""
    former: str | None
    """The champion before; None where there was none."""
    by: str
    """Who decided: the gate, or a person as USER@HOST."""
    reason: str
    """Why, in a sentence."""


def read_aliases(tracking: Tracking, model_name: str) -> Aliases:
    """Return who is who; nobody where the model does not exist."""
    found = stored_aliases(tracking, model_name)
    known = {
        alias: version
        for alias, version in found.items()
        if alias in (CHAMPION, PREVIOUS, CHALLENGER)
        and version_exists(tracking, model_name, version)
    }
    return Aliases(**known)


def set_champion(
    tracking: Tracking,
    model_name: str,
    version: str,
    expected: Aliases,
    by: str,
    reason: str,
    *,
    withdraw: bool = False,
) -> Move:
    """Make a version champion and the present champion previous, and record the change.

    Args:
        tracking: the connection.
        model_name: the registered model.
        version: the new champion.
        expected: the aliases on which the decision rests.
        by: who decided.
        reason: why.
        withdraw: whether the present champion is marked, so that the gate does not promote it
            again.

    Returns:
        The change, as it is recorded.

    Raises:
        AliasConflict: another champion than expected stands there, or another took the place.
        TrackingError: the version is gone, or MLflow refuses.
    """
    with tracking.explained(), alone(tracking, model_name, by) as check:
        _check_champion(tracking, model_name, expected.champion, version)
        check_exists(tracking, model_name, version)
        move = Move(_now(), version, expected.champion, by, reason)
        check()
        marked = expected.champion if withdraw else None
        if marked is not None:
            mark = f"{move.time} by {by}"
            tracking.client.set_model_version_tag(model_name, marked, WITHDRAWN_TAG, mark)
        try:
            _write_aliases(tracking, model_name, version, expected)
        except Exception:
            if marked is not None:
                _delete_version_tag(tracking, model_name, marked, WITHDRAWN_TAG)
            raise
        _record(tracking, model_name, move)
        _delete_version_tag(tracking, model_name, version, WITHDRAWN_TAG)
        return move


def _write_aliases(tracking: Tracking, model_name: str, version: str, expected: Aliases) -> None:
    client = tracking.client
    for alias, target in _champion_aliases(version, expected):
        client.set_registered_model_alias(model_name, alias, target)
    found = read_aliases(tracking, model_name)
    if found.champion != version:
        _drop_dangling(tracking, model_name)
        raise AliasConflict(
            f"{model_name}: another move won, champion is version "
            f"{found.champion or '(none)'} and not {version}; look with make champion, and "
            "decide again"
        )
    for alias, holder in ((PREVIOUS, found.previous), (CHALLENGER, found.challenger)):
        if holder == version:
            client.delete_registered_model_alias(model_name, alias)


def _champion_aliases(version: str, expected: Aliases) -> list[tuple[str, str]]:
    """Return the aliases to write for a new champion, in the order that is safe."""
    writes = [(CHAMPION, version)]
    if expected.champion is not None:
        # After a crash between the two, a promotion can be repeated, and a swap has its champion.
        first = 1 if version == expected.previous else 0
        writes.insert(first, (PREVIOUS, expected.champion))
    return writes


def set_challenger(tracking: Tracking, model_name: str, version: str, expected: Aliases) -> bool:
    """Make a version challenger, unless it has another place; return whether anything moved.

    Raises:
        AliasConflict: another champion than expected stands there.
        TrackingError: the version is gone.
    """
    with tracking.explained(), alone(tracking, model_name, GATE) as check:
        _check_champion(tracking, model_name, expected.champion, version)
        if version in (expected.champion, expected.previous, expected.challenger):
            return False
        check_exists(tracking, model_name, version)
        check()
        tracking.client.set_registered_model_alias(model_name, CHALLENGER, version)
        return True


def record_unrecorded(tracking: Tracking, model_name: str) -> None:
    """Record the present champion where whoever made it champion did not come to it."""
    with tracking.explained():
        if _unrecorded(tracking, model_name) is None:
            return
        with alone(tracking, model_name, NOBODY) as check:
            # Again, for the one who made it champion may have been about to record it.
            move = _unrecorded(tracking, model_name)
            if move is not None:
                check()
                _record(tracking, model_name, move)


def _unrecorded(tracking: Tracking, model_name: str) -> Move | None:
    champion = read_aliases(tracking, model_name).champion
    if champion is None:
        return None
    past = moves(tracking, model_name)
    former = past[0].version if past else None
    if former == champion:
        return None
    return Move(_now(), champion, former, NOBODY, "recorded afterwards")


def promote(tracking: Tracking, model_name: str, version: str) -> Move:
    """Make a version champion because a person says so, once its files are what was registered.

    Raises:
        TrackingError: there is no such version, or it is champion already.
        ModelError: its files are damaged, or make no recogniser.
        AliasConflict: somebody else moved the champion at the same time.
    """
    with tracking.explained():
        record_unrecorded(tracking, model_name)
        aliases = read_aliases(tracking, model_name)
        if version == aliases.champion:
            raise TrackingError(
                f"{model_name}: version {version} is the champion already"
                f"{_by_whom(tracking, model_name, version)}"
            )
        check_version(tracking, model_name, version)
        reason = "promoted by hand"
        return set_champion(tracking, model_name, version, aliases, tracking.person, reason)


def rollback(tracking: Tracking, model_name: str) -> Move:
    """Give the previous champion its place back; the two swap their aliases.

    The one that goes is marked: the gate does not promote it again, a person may.

    Raises:
        TrackingError: there is no previous champion to go back to.
        ModelError: its files are damaged, or make no recogniser.
        AliasConflict: somebody else moved the champion at the same time.
    """
    with tracking.explained():
        record_unrecorded(tracking, model_name)
        aliases = read_aliases(tracking, model_name)
        former, back = aliases.champion, aliases.previous
        if back is None or back == former:
            raise TrackingError(
                f"{model_name}: no version is {PREVIOUS!r}, so there is none to go back to; make "
                "promote VERSION=… names one"
            )
        check_version(tracking, model_name, back)
        reason = "rolled back" if former is None else f"rolled back from version {former}"
        by = tracking.person
        return set_champion(tracking, model_name, back, aliases, by, reason, withdraw=True)


def check_version(tracking: Tracking, model_name: str, version: str) -> Path:
    """Return where a version's files lie, fetched if they are remote, once they can be trusted.

    Raises:
        TrackingError: there is no such version, it has no digest, or its files cannot be had.
        ModelError: they are damaged, or make no recogniser.
    """
    from distillery.architectures.known import ARCHITECTURES
    from distillery.models.recogniser import Recogniser

    folder = checked_folder(tracking, f"models:/{model_name}/{version}")
    Recogniser.load(folder, ARCHITECTURES)
    return folder


def check_exists(tracking: Tracking, model_name: str, version: str) -> None:
    """Make sure that a version is there.

    Raises:
        TrackingError: it is not, or not any more.
    """
    if not version_exists(tracking, model_name, version):
        raise TrackingError(
            f"models:/{model_name}/{version}: not in the registry; look with make ui which "
            "versions there are"
        )


def withdrawn(tracking: Tracking, model_name: str, version: str) -> str | None:
    """Return when and by whom a version was rolled back; None: it was not."""
    found = tracking.client.get_model_version(model_name, version).tags.get(WITHDRAWN_TAG)
    return None if found is None else str(found)


def moves(tracking: Tracking, model_name: str) -> list[Move]:
    """Return all changes of champion, the latest first."""
    tags = tracking.client.get_registered_model(model_name).tags
    found = [json.loads(value) for name, value in tags.items() if name.startswith(MOVE_TAG)]
    return sorted((Move(**item) for item in found), key=lambda move: move.time, reverse=True)


def _check_champion(
    tracking: Tracking, model_name: str, expected: str | None, version: str
) -> None:
    found = read_aliases(tracking, model_name).champion
    if found == expected:
        return
    whose = "" if found is None else _by_whom(tracking, model_name, found)
    if found == version:
        raise AliasConflict(
            f"{model_name}: version {version} is the champion already{whose}; a moment ago it was "
            f"{expected or '(none)'}, and nothing is left to do"
        )
    raise AliasConflict(
        f"{model_name}: champion is version {found or '(none)'}{whose}; a moment ago it was "
        f"{expected or '(none)'}, so nothing was moved: look with make champion, and decide again"
    )


def _by_whom(tracking: Tracking, model_name: str, champion: str) -> str:
    """Return who made a version champion, for a sentence; nothing where the record has another."""
    past = moves(tracking, model_name)
    if not past or past[0].version != champion:
        return ""
    return f", since {past[0].time} by {past[0].by} ({past[0].reason})"


def _record(tracking: Tracking, model_name: str, move: Move) -> None:
    client = tracking.client
    for name, value in {SINCE_TAG: move.time, BY_TAG: move.by}.items():
        client.set_model_version_tag(model_name, move.version, name, value)
    client.set_registered_model_tag(model_name, f"{MOVE_TAG}{move.time}", json.dumps(asdict(move)))


def _drop_dangling(tracking: Tracking, model_name: str) -> None:
    """Remove aliases of versions that somebody deleted at the moment they were set."""
    for alias, version in stored_aliases(tracking, model_name).items():
        if not version_exists(tracking, model_name, version):
            tracking.client.delete_registered_model_alias(model_name, alias)


def _delete_version_tag(tracking: Tracking, model_name: str, version: str, name: str) -> None:
    if name in tracking.client.get_model_version(model_name, version).tags:
        tracking.client.delete_model_version_tag(model_name, version, name)


def _now() -> str:
    """Return the time in UTC, so that names sort as times do."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
