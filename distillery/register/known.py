"""Results that MLflow holds already, whichever clone of the project registered them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from distillery.files import write_bytes
from distillery.params.whole import Params
from distillery.register.aliases import read_aliases
from distillery.register.gate.verdict import GATE_FILE
from distillery.register.registered import REGISTERED_FILE, Registered
from distillery.tracking.store import Tracking
from distillery.tracking.versions import version_exists

RESULTS_TAG = "results.sha256"
"""Of a pipeline's run that registered everything: what it was made from."""
NO_ALIAS = "without an alias now"


def results_digest(outputs: Mapping[str, str], params: Params) -> str:
    """Return the SHA-256 of what a registration is made from.

    Args:
        outputs: DVC's MD5 of every output by its path.
        params: of which the sections count that register reads and no stage does.
    """
    sections = {
        "register": params.register.model_dump(mode="json", exclude={"tracking_uri"}),
        "evaluate": params.evaluate.model_dump(mode="json"),
    }
    content = json.dumps([dict(outputs), sections], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def note_registered(tracking: Tracking, run: str, registered: Registered, digest: str) -> None:
    """Let a pipeline's run say what it registered, the tag last, for a kill may come between.

    Args:
        tracking: the connection to MLflow.
        run: the pipeline's.
        registered: as reports/registered.json of its workspace has it.
        digest: `results_digest` of what it was made from.
    """
    registered.write(tracking.root)
    tracking.client.log_artifact(run, str(tracking.root / REGISTERED_FILE))
    tracking.client.set_tag(run, RESULTS_TAG, digest)


def find_registered(tracking: Tracking, model_name: str, digest: str) -> Registered | None:
    """Return what was registered of these results, and write it into this workspace.

    None where MLflow has no such run, or lacks the version or any champion by now: then the gate
    has to decide.

    Args:
        tracking: the connection to MLflow.
        model_name: the registered model.
        digest: `results_digest` of the workspace.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with tracking.explained():
        run = tracking.find_run({RESULTS_TAG: digest})
        if run is None:
            return None
        registered = _parse(tracking.read_text(run, Path(REGISTERED_FILE).name))
        aliases = read_aliases(tracking, model_name)
        if registered is None or aliases.champion is None:
            return None
        if not version_exists(tracking, model_name, registered.version):
            return None
        verdict = tracking.read_text(run, Path(GATE_FILE).name)
    now = {number: alias for alias, number in vars(aliases).items()}
    registered = replace(
        registered,
        champion=aliases.champion,
        alias=now.get(registered.version, NO_ALIAS),
    )
    registered.write(tracking.root)
    if verdict is not None:
        write_bytes(tracking.root / GATE_FILE, verdict.encode())
    return registered


def _parse(text: str | None) -> Registered | None:
    """Return what registered.json says; None where another version of this code wrote it."""
    try:
        return None if text is None else TypeAdapter(Registered).validate_json(text)
    except ValueError:
        return None
