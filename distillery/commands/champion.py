"""Commands for who is champion: `distillery champion | promote VERSION | rollback`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.console import as_text, new_table
from distillery.data.units import Unit
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import RegistryParams

if TYPE_CHECKING:
    from distillery.register.aliases import Move
    from distillery.tracking.store import Tracking

NUM_MOVES = 5
NUM_VERSIONS = 10
"""The newest, beside those that have an alias."""
UNKNOWN = "-"


def add_commands(commands: Any) -> None:
    """Add the commands to a parser's list of them."""
    command = commands.add_parser(
        "champion", help="the versions: which one is champion, since when, and why"
    )
    command.set_defaults(run=lambda _: _with_registry(_show, "make champion"))
    command = commands.add_parser("promote", help="make a version champion by hand")
    command.add_argument("version", metavar="VERSION", help="its number")
    command.set_defaults(
        run=lambda options: _with_registry(
            lambda tracking, name: _promote(tracking, name, options.version),
            f"make promote VERSION={options.version}",
        )
    )
    command = commands.add_parser("rollback", help="swap champion and previous champion")
    command.set_defaults(run=lambda _: _with_registry(_rollback, "make rollback"))


def champion_report(tracking: Tracking, model_name: str) -> str:
    """Return the versions, with who is champion, and the latest changes of that, for a terminal.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    from distillery.register.aliases import moves, read_aliases
    from distillery.tracking.versions import versions

    with tracking.explained():
        found = versions(tracking, model_name)
        if not found:
            return f"{model_name}: no version is registered yet; run make run"
        aliases = read_aliases(tracking, model_name)
        roles = {version: role for role, version in asdict(aliases).items() if version}
        shown = [
            version
            for number, version in enumerate(found)
            if number < NUM_VERSIONS or str(version.version) in roles
        ]
        past = [_line(move) for move in moves(tracking, model_name)]
    lines = [model_name, _version_table(shown, roles)]
    if left := len(found) - len(shown):
        lines.append(f"  and {left} older ones: make ui shows them")
    if aliases.champion is None:
        back = "make rollback or " if aliases.previous else ""
        lines += ["", f"There is no champion: {back}make promote VERSION=… names one."]
    return "\n".join(
        [*lines, *(["", "Changes, the latest first:"] if past else []), *past[:NUM_MOVES]]
    )


def _version_table(versions: Sequence[Any], roles: Mapping[str, str]) -> str:
    from distillery.register.aliases import BY_TAG, SINCE_TAG
    from distillery.tracking.store import UNIT_TAG
    from distillery.tracking.versions import CHAMPION

    units = {version.tags.get(UNIT_TAG, Unit.WORD) for version in versions}
    rate = " or ".join(unit.rate for unit in Unit if unit in units)
    headers = ("version", "", "student", f"test {rate}", "champion since", "by", "the gate said")
    table = new_table()
    for header in headers:
        table.add_column(header, overflow="fold")
    for version in versions:
        tags, number = version.tags, str(version.version)
        role = roles.get(number, "")
        is_champion = role == CHAMPION
        table.add_row(
            number,
            role,
            f"{tags.get('student', UNKNOWN)}, seed {tags.get('seed', UNKNOWN)}",
            _rate(tags, named=len(units) > 1),
            _time(tags[SINCE_TAG]) if is_champion and SINCE_TAG in tags else UNKNOWN,
            tags.get(BY_TAG, UNKNOWN) if is_champion else UNKNOWN,
            tags.get("gate.reason", UNKNOWN),
        )
    return as_text(table)


def _rate(tags: Mapping[str, str], *, named: bool) -> str:
    """Return a version's rate of errors, with its name where others have another."""
    from distillery.tracking.store import UNIT_TAG
    from distillery.tracking.versions import WER_TAG

    if WER_TAG not in tags:
        return UNKNOWN
    name = f" {Unit(tags.get(UNIT_TAG, Unit.WORD)).rate}" if named else ""
    return f"{float(tags[WER_TAG]):.2%}{name}"


def _show(tracking: Tracking, model_name: str) -> str:
    return champion_report(tracking, model_name)


def _promote(tracking: Tracking, model_name: str, version: str) -> str:
    from distillery.register.aliases import promote

    return _line(promote(tracking, model_name, version))


def _rollback(tracking: Tracking, model_name: str) -> str:
    from distillery.register.aliases import rollback

    return _line(rollback(tracking, model_name))


def _with_registry(action: Callable[[Tracking, str], str], again: str) -> int:
    from distillery.tracking.store import Tracking

    root = Path.cwd()
    settings = RegistryParams.load(root / PARAMS_FILE).register
    sys.stdout.write(f"{action(Tracking(settings, root, again), settings.model_name)}\n")
    return 0


def _line(move: Move) -> str:
    instead = f" in place of version {move.former}" if move.former else ""
    return f"  {_time(move.time)}  version {move.version}{instead}, by {move.by}: {move.reason}"


def _time(stamp: str) -> str:
    """Return a tag's time, such as 20260131T093000.123456Z, for people."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]} UTC"
