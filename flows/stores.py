"""The stores that a run writes into, asked before hours of work: drivers, servers, buckets.

None of them is needed before the end, so what is wrong is said and the run goes on.
"""

from __future__ import annotations

import importlib
import os
import queue
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from distillery.credentials import without_credentials
from distillery.errors import DistilleryError
from distillery.params.register import RegisterParams
from distillery.tracking.drivers import how_to_install, in_a_line, missing_driver
from flows.findings import Finding

API_SECONDS = 5.0
STORE_SECONDS = 30.0
"""Patience with a store whose library would wait for minutes."""
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
        _within(STORE_SECONDS, tracking.check_artifacts)
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


def check_remote(root: Path) -> Finding:
    """Check that DVC's default remote can be reached, if it is not a folder."""
    from dvc.config import Config, ConfigError

    advice = "runs work without; then dvc push"
    try:
        config = Config(str(root / ".dvc"), validate=False)
        name = config["core"].get("remote")
        options = config["remote"].get(name) or {} if name else {}
    except ConfigError as error:
        return Finding("DVC remote", False, in_a_line(error), "correct .dvc/config")
    url = str(options.get("url") or "")
    scheme = urllib.parse.urlsplit(url).scheme
    if not url or scheme in ("", "file"):
        return Finding("DVC remote", True, url or "none is set")
    shown = without_credentials(url)
    if (missing := _missing_scheme(scheme)) is not None:
        found = f"{shown}: the Python module {missing} is not installed"
        return Finding("DVC remote", False, found, f"{how_to_install(missing)}; {advice}")
    try:
        _within(STORE_SECONDS, lambda: _ask_remote(root))
    except TimeoutError:
        found = f"{shown}: gave no answer within {STORE_SECONDS:g} s"
        return Finding("DVC remote", False, found, f"start that store; {advice}")
    except Exception as error:  # every kind of remote has a library and errors of its own
        if (missing := missing_driver(error)) is not None:
            return Finding("DVC remote", False, f"{shown}: {missing}", advice)
        found = f"{shown}: {without_credentials(in_a_line(error))}"
        advice = f"start that store, or correct it by dvc remote modify; {advice}"
        return Finding("DVC remote", False, found, advice)
    return Finding("DVC remote", True, shown)


def _missing_scheme(scheme: str) -> str | None:
    """Return the module that DVC needs for a kind of remote, where it is not installed."""
    from dvc.fs import known_implementations

    kind = known_implementations.get(scheme)
    if kind is None:
        return None
    try:
        importlib.import_module(str(kind["class"]).rpartition(".")[0])
    except ModuleNotFoundError as error:
        return str(error.name).partition(".")[0]
    return None


def _ask_remote(root: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        remote = repo.cloud.get_remote_odb()
        remote.fs.exists(remote.path)


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


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do something that cannot be interrupted, and go on without it after some seconds.

    Raises:
        TimeoutError: it had not ended; its thread dies with this process.
    """
    outcome: queue.Queue[BaseException | None] = queue.Queue()

    def do() -> None:
        try:
            action()
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=do, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
