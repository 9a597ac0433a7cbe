"""A Prefect server that several tests share, and what it knows of runs."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.origin import workspace_labels
from flows.servers import server
from flows.servers.password import CLIENT_VARIABLE, PASSWORD_FILE, SERVER_VARIABLE
from tests.pipeline.conftest import PASSWORD, environment

BASIC = base64.b64encode(PASSWORD.encode()).decode()


@contextmanager
def prefect_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a whole server whose history is in `folder`, and wait until it is up."""
    settings = environment(folder) | {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        SERVER_VARIABLE: PASSWORD,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with server.whole_server(folder, "test", port, folder / "server.log") as process:
            server.wait_until_healthy(server.api_on(port), 120)
            yield process


def use(root: Path, api: str) -> None:
    """Let the commands of a workspace find a server, as they find that of `make ui`."""
    path = root / server.UI_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"prefect_api": api}))
    secret = root / PASSWORD_FILE
    secret.write_text(PASSWORD)
    secret.chmod(0o600)


def post(api: str, path: str, **body: Any) -> Any:
    """Ask Prefect's API, again while its database is busy, which it calls 503."""
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {BASIC}"}
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(), headers)
    for tries_left in reversed(range(10)):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503 or not tries_left:
                raise
            time.sleep(1)


def runs_of(api: str, root: Path) -> list[dict[str, Any]]:
    """Return the runs of a workspace's flows that have begun, newest first."""
    return [run for run in all_runs(api) if workspace_labels(root).items() <= run["labels"].items()]


def all_runs(api: str) -> list[dict[str, Any]]:
    """Return every run that a server knows, newest first."""
    found: list[dict[str, Any]] = post(
        api, "flow_runs/filter", sort="EXPECTED_START_TIME_DESC", limit=200
    )
    return found


def prefect(root: Path, api: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Prefect's own command in a workspace."""
    ended = subprocess.run(
        ["prefect", "--no-prompt", *arguments],
        cwd=root,
        env=environment(root)
        | {
            "PREFECT_API_URL": api,
            CLIENT_VARIABLE: PASSWORD,
            "PREFECT_HOME": str(root / ".prefect"),
            "DISTILLERY_ROOT": str(root),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, f"prefect {' '.join(arguments)}:\n{ended.stdout}{ended.stderr}"
    return ended
