"""What Prefect's pages call flow runs: what was run, on which data, why and when."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.types import KeyValueLabels

from distillery.errors import DistilleryError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from flows.origin import origin


def flow_run_name() -> str:
    """Return the name of the flow run that begins, `an4, schedule, 2026-01-31 03:00` (UTC)."""
    given = runtime.flow_run.parameters
    until = given.get("until", "register")
    parts = [
        _data(Path.cwd()),
        given.get("trigger", "schedule"),
        f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        *([f"until {until}"] if until != "register" else []),
    ]
    return ", ".join(parts)


def _data(root: Path) -> str:
    try:
        return Params.load(root / PARAMS_FILE).prepare.title
    except DistilleryError:  # the flow says what is wrong with it
        return root.name


def label_run(root: Path) -> None:
    """Say of the present flow run which workspace it works in."""
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        # Prefect is only a view.
        labels: KeyValueLabels = {**origin(root)}
        client.update_flow_run_labels(runtime.flow_run.id, labels)


def add_reason(why: Sequence[str]) -> None:
    """Say in the name of the present flow run why it has something to do, or that it has not.

    Args:
        why: as in the history; of each reason what stands before its colon.
    """
    reasons = "; ".join(reason.partition(":")[0] for reason in why) or "nothing new"
    name = f"{runtime.flow_run.name}: {reasons}"
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        client.update_flow_run(runtime.flow_run.id, name=name)  # Prefect is only a view
