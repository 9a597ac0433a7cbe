"""The Prefect server of a run: the one that is set, the one of `make ui`, or one of our own.

Our own starts as a child before anything else is imported, so that both take their time together.
Its history stays in PREFECT_HOME, where `make ui` shows it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from distillery.credentials import without_credentials
from distillery.errors import DistilleryError, StageError
from distillery.files import write_bytes
from flows import environment
from flows.environment import UTF_8, path_with_this_python
from flows.servers.password import CLIENT_VARIABLE, SERVER_VARIABLE, check_ours, for_server, is_ours
from flows.stores import prefect_database_advice, prefect_database_fault
from tasks.stage import STARTER

UI_FILE = ".prefect/ui.json"
START_SECONDS = 120.0
SET_SECONDS = 5.0
"""Patience with a server that somebody else has started: it answers, or it is not there."""
STOP_SECONDS = 10.0
HEALTH_SECONDS = 2.0
FLUSH_SECONDS = 10.0
ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Refused\w*): .")
"""As the last line of a traceback begins."""
# What a server needs for one run: no schedules, no automations, no pages.
OWN_SETTINGS = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


def obey_signals() -> None:
    """End this process on SIGTERM and on Ctrl-C, also where a shell started it in the background.

    Shells have such processes ignore Ctrl-C, and then `kill -INT`, too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until_stopped(root: Path, serve: Callable[[], None]) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        root: the workspace.
        serve: stops what it started when it is interrupted.

    Returns:
        The exit status, after an error of ours was said.
    """
    obey_signals()
    environment.apply(root)
    try:
        serve()
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


@contextlib.contextmanager
def prefect_server(root: Path) -> Iterator[Callable[[], None]]:
    """Provide a Prefect API until the block ends, and set its address and password for Prefect.

    It may still be starting when the block begins; what the block is given waits until it answers.
    """
    found = os.environ.get("PREFECT_API_URL")
    if not found and (found := ui_server(root)):
        os.environ.update({"PREFECT_API_URL": found, CLIENT_VARIABLE: for_server(root)})
    if found:
        yield functools.partial(wait_until_healthy, found, SET_SECONDS)
        return
    if fault := prefect_database_fault():
        raise StageError(f"Prefect's database: {fault}; {prefect_database_advice()}")
    port, secret = free_port(), for_server(root)
    # No pages, so that Prefect prints no link to them; empty, for it would guess one if unset.
    ours = {"PREFECT_API_URL": api_on(port), "PREFECT_UI_URL": "", CLIENT_VARIABLE: secret}
    os.environ.update(ours)
    log = Path(os.environ["PREFECT_HOME"]) / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _start(port, log, secret)

    def wait() -> None:
        wait_for("Prefect", f"{api_on(port)}/health", process, log)
        check_ours(port)

    try:
        yield wait
    finally:
        stop(process)
        for name in ours:
            del os.environ[name]


def wait_until_healthy(url: str, seconds: float) -> None:
    """Return as soon as the Prefect API answers.

    Args:
        url: the API.
        seconds: patience.

    Raises:
        StageError: it does not within the time.
    """
    end = time.monotonic() + seconds
    while not is_healthy(url):
        if time.monotonic() > end:
            raise StageError(
                f"Prefect API at {without_credentials(url)}: gave no answer within {seconds:g} s; "
                "see .prefect/server.log, start the server, or unset PREFECT_API_URL to use one of "
                "our own"
            )
        time.sleep(0.1)


def flush_events() -> None:
    """Hand events and log lines that Prefect still holds back to its server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=FLUSH_SECONDS)


def is_healthy(url: str) -> bool:
    """Return whether a Prefect API answers at this URL."""
    return answers(f"{url}/health")


def answers(url: str) -> bool:
    """Return whether a page can be read."""
    return _answers(url, urllib.request.build_opener())


def _answers(url: str, opener: urllib.request.OpenerDirector) -> bool:
    try:
        with opener.open(url, timeout=HEALTH_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def ui_server(root: Path) -> str | None:
    """Return the API of this workspace's `make ui`, if that is up and nobody else's."""
    try:
        url = str(json.loads((root / UI_FILE).read_text("utf-8"))["prefect_api"])
        port = urllib.parse.urlsplit(url).port
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return url if port is not None and is_ours(port) and is_healthy(url) else None


def free_port() -> int:
    """Return a port on loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Return whether a port on loopback can be taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_port(target: str, variable: str, port: int) -> None:
    """Make sure that a port on loopback can be taken.

    Args:
        target: the make target that wants it.
        variable: the make variable that sets it.
        port: the port.

    Raises:
        StageError: something else has it.
    """
    if not is_free(port):
        raise StageError(
            f"port {port} of 127.0.0.1: already in use, is another make {target} running? "
            f"Stop it, or choose another: make {target} {variable}={port + 1}"
        )


def wait_for(name: str, url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Return as soon as a page of a child answers.

    Args:
        name: how errors call the child.
        url: the page.
        child: the process that serves it.
        log: where it writes.

    Raises:
        StageError: it ends, or START_SECONDS pass.
    """
    end = time.monotonic() + START_SECONDS
    # By whatever name, it is of this machine: no proxy is asked.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not _answers(url, direct):
        if child.poll() is not None or time.monotonic() > end:
            raise StageError(f"{name}: does not start{_last_words(log)}; see {log}")
        time.sleep(0.2)


def _last_words(log: Path) -> str:
    """Return the last error that a server logged, for a sentence; nothing where there is none."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    errors = [line.strip() for line in lines if ERROR_LINE.match(line)]
    return f": {without_credentials(errors[-1])}" if errors else ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child and its whole group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def start_child(
    module: str, *arguments: str, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a Python module in a group of its own that dies with this process."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.servers.child", module, *arguments],
            env={
                **os.environ,
                # MLflow starts its server by name, and nobody has to activate the venv.
                "PATH": path_with_this_python(),
                STARTER: str(os.getpid()),
                **UTF_8,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def whole_server(
    root: Path, target: str, port: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server with pages, schedules and all else until the block ends.

    It may still be starting when the block begins; `announce` waits, and lets other commands of
    the workspace use it.

    Args:
        root: the workspace.
        target: the make target that wants it.
        port: on loopback.
        log: where it writes.

    Raises:
        StageError: the port is taken.
    """
    check_port(target, "PREFECT_PORT", port)
    log.parent.mkdir(parents=True, exist_ok=True)
    url = api_on(port)
    process = start_child(
        "prefect",
        "server",
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        log=log,
        environment={
            "PREFECT_API_URL": url,
            "PREFECT_UI_API_URL": url,
            **_own_pages_only(port),
            **_asking_for(for_server(root)),
        },
    )
    try:
        yield process
    finally:
        (root / UI_FILE).unlink(missing_ok=True)
        stop(process)


def announce(root: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server of ours is up, and let other commands of the workspace find it.

    Raises:
        StageError: it does not come up.
    """
    wait_for("Prefect", f"{api_on(port)}/health", process, log)
    check_ours(port)
    (root / UI_FILE).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(root / UI_FILE, json.dumps({"prefect_api": api_on(port)}).encode())


def api_on(port: int) -> str:
    """Return the URL of Prefect's API on a port of loopback."""
    return f"http://127.0.0.1:{port}/api"


def _start(port: int, log: Path, secret: str) -> subprocess.Popen[bytes]:
    return start_child(
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--host=127.0.0.1",
        f"--port={port}",
        "--log-level=warning",
        "--lifespan=on",
        log=log,
        environment={**OWN_SETTINGS, **_own_pages_only(port), **_asking_for(secret)},
    )


def _own_pages_only(port: int) -> dict[str, str]:
    """Return settings by which a browser lets no page but Prefect's own use the API.

    Prefect's default lets every page that somebody has open anywhere read runs and start some.
    """
    origins = ",".join(f"http://{host}:{port}" for host in ("127.0.0.1", "localhost"))
    return {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins}


def _asking_for(secret: str) -> dict[str, str]:
    """Return settings by which Prefect's server asks for a password, and itself knows it."""
    return {SERVER_VARIABLE: secret, CLIENT_VARIABLE: secret}
