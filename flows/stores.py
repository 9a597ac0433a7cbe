"""The stores that a run writes into, asked before hours of work: drivers, servers, buckets.

None of them is needed before the end, so what is wrong is said and the run goes on.
"""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from distillery.credentials import without_credentials
from distillery.errors import DistilleryError
from distillery.params.register import RegisterParams
from distillery.tracking.drivers import in_a_line
from flows.findings import Finding
from flows.patience import STORE_SECONDS, within
from flows.stages.remote import default_remote, fault_of, read_remotes

API_SECONDS = 5.0
REMOTE = "DVC remote"
FOR_A_TEAM = "make remote URL=… sets one for a team"
DATABASE_VARIABLES = (
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
)
PREFECT_DRIVERS = {"postgresql+asyncpg": 5432}
"""By how the URLs begin: the port that is meant where none stands. SQLite's are files."""


def warn_of_stores(root: Path, settings: RegisterParams, warn: Callable[[str], object]) -> None:
    """Say what of the stores that a run writes into at its end is missing or dead.

    Args:
        root: the workspace.
        settings: where MLflow is; a database in the workspace is not asked.
        warn: takes a line for each.
    """
    findings = [check_remote(root)]
    if settings.tracking_uri is not None:
        findings.append(check_mlflow(settings, root))
    for finding in findings:
        if not finding.ok:
            found = finding.found.removeprefix(f"{finding.check} at ")
            warn(f"{finding.check}: {found}; {finding.advice}")


def check_mlflow(settings: RegisterParams, root: Path) -> Finding:
    """Check that runs can be written, and their files."""
    from distillery.tracking.store import Tracking, tracking_uri

    uri = tracking_uri(settings, root)
    try:
        tracking = Tracking(settings, root)
        within(STORE_SECONDS, tracking.check_artifacts)
    except TimeoutError:
        found = f"its artifacts at {without_credentials(tracking.artifacts)} gave no answer within"
        advice = "start that store; training works without, make register later"
        return Finding("MLflow", False, f"{found} {STORE_SECONDS:g} s", advice)
    except DistilleryError as error:
        return Finding("MLflow", False, str(error), "training works without; make register later")
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not os.access(database, os.W_OK):
        return Finding("MLflow", False, f"{database} is read-only", "chmod u+w on it")
    return Finding("MLflow", True, without_credentials(uri))


def check_remotes(root: Path) -> Iterator[Finding]:
    """Check that DVC's remote answers, and that what comes from any of them is hashed."""
    if not (root / ".dvc").is_dir():
        return
    for remote in read_remotes(root):
        if not remote.is_verified:
            found = f"{remote.shown}: what comes from there is not hashed"
            yield Finding(REMOTE, False, found, f"dvc remote modify {remote.name} verify true")
    yield check_remote(root)


def check_remote(root: Path) -> Finding:
    """Check that DVC's default remote can be reached."""
    remote = default_remote(root)
    if remote is None:
        return Finding(REMOTE, True, f"none is set; {FOR_A_TEAM}")
    if remote.is_inside(root):
        return Finding(REMOTE, True, f"{remote.shown}, of this clone alone; {FOR_A_TEAM}")
    fault = fault_of(root, remote)
    found = f"{remote.shown}: {fault or 'can be reached'}"
    advice = "mount or start it, or set another: make remote URL=…; runs go on without"
    return Finding(REMOTE, fault is None, found, advice)


def check_prefect(url: str | None) -> Finding:
    """Check that the Prefect API answers, if one is set."""
    if url is None:
        fault = prefect_database_fault()
        found = fault or "no server set: each run brings its own"
        return Finding("Prefect", fault is None, found, prefect_database_advice())
    shown = without_credentials(url)
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=API_SECONDS) as answer:
            ok, found = answer.status == 200, f"{shown} answers {answer.status}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        ok, found = False, f"{shown}: {error}"
    return Finding("Prefect", ok, found, "start the server (make ui), or unset PREFECT_API_URL")


def prefect_database_fault() -> str | None:
    """Return why a Prefect server of ours would not come up with the database that is set.

    None: that is not known, or none is set, and it keeps a file in the workspace.
    """
    variable = _database_variable()
    if variable is None:
        return None
    url = os.environ[variable]
    shown = f"{variable}={without_credentials(url)}"
    kind = url.partition("://")[0]
    if kind.startswith("sqlite"):
        return None
    if kind not in PREFECT_DRIVERS:
        return f"{shown}: Prefect takes postgresql+asyncpg:// and sqlite+aiosqlite:// alone"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or PREFECT_DRIVERS[kind]
        if host is not None:
            socket.create_connection((host, port), API_SECONDS).close()
    except (OSError, ValueError) as error:
        return f"{shown}: {in_a_line(error)}"
    return None


def prefect_database_advice() -> str:
    """Return what to do about a database that Prefect cannot use."""
    return f"start it, or unset {_database_variable()}: Prefect then keeps a file in the workspace"


def _database_variable() -> str | None:
    return next((name for name in DATABASE_VARIABLES if os.environ.get(name)), None)
