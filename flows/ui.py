"""MLflow's and Prefect's pages on loopback until Ctrl-C: python -m flows.ui."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from distillery import params
from distillery.errors import DistilleryError, StageError
from distillery.files import write_bytes
from distillery.tracking import Tracking, tracking_uri
from flows import environment, server

LOG_FOLDER = "scratch"
CHECK_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Serve the pages and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description=__doc__)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment.apply(root)
    try:
        serve(root, options.mlflow_port, options.prefect_port)
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def serve(root: Path, mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, say where they are, and stop both at the end.

    Raises:
        StageError: a port is taken, or a server does not come up or dies.
        ParamsError: params.yaml cannot be used.
        TrackingError: the MLflow store cannot be made or reached.
    """
    settings = params.load(root / params.PARAMS_FILE).register
    logs = root / LOG_FOLDER
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        children = {}
        pages = []
        if tracking_uri(settings, root).startswith("http"):
            pages.append(f"MLflow   {settings.tracking_uri} (its own server)")
        else:
            check_port("MLFLOW_PORT", mlflow_port)
            Tracking(settings, root)  # the store must exist before the server's processes meet it
            children["MLflow"] = _mlflow(root, settings, mlflow_port, logs / "mlflow.log")
            stack.callback(server.stop, children["MLflow"])
            pages.append(f"MLflow   http://127.0.0.1:{mlflow_port}")
        api = server.ui_server(root)
        if api:
            pages.append(f"Prefect  {api.removesuffix('/api')} (of make schedule)")
        else:
            api = stack.enter_context(prefect_pages(root, prefect_port, children))
            pages.append(f"Prefect  http://127.0.0.1:{prefect_port}")
        sys.stdout.write("starting …\n")
        sys.stdout.flush()
        if "MLflow" in children:
            _wait("MLflow", f"http://127.0.0.1:{mlflow_port}/health", children["MLflow"], logs)
        if "Prefect" in children:
            announce(root, api, children["Prefect"])
        sys.stdout.write("\n".join([*pages, "Ctrl-C stops both.", ""]))
        sys.stdout.flush()
        _watch(children, logs)


@contextlib.contextmanager
def prefect_pages(
    root: Path, port: int, children: dict[str, subprocess.Popen[bytes]]
) -> Iterator[str]:
    """Start a whole Prefect server for a workspace, and stop it when the block ends.

    It is up, and other commands find it, after `announce`.

    Args:
        root: the workspace.
        port: on loopback.
        children: where the process is put, as `Prefect`.

    Raises:
        StageError: the port is taken.
    """
    check_port("PREFECT_PORT", port)
    (root / LOG_FOLDER).mkdir(exist_ok=True)
    child = server.start_whole(port, root / LOG_FOLDER / "prefect.log")
    children["Prefect"] = child
    try:
        yield f"http://127.0.0.1:{port}/api"
    finally:
        (root / server.UI_FILE).unlink(missing_ok=True)
        server.stop(child)


def announce(root: Path, api: str, child: subprocess.Popen[bytes]) -> None:
    """Wait until a Prefect server of ours is up, and let other commands find it.

    Raises:
        StageError: it does not come up.
    """
    _wait("Prefect", f"{api}/health", child, root / LOG_FOLDER)
    (root / server.UI_FILE).parent.mkdir(exist_ok=True)
    write_bytes(root / server.UI_FILE, json.dumps({"prefect_api": api}).encode())


def _mlflow(
    root: Path, settings: params.RegisterParams, port: int, log: Path
) -> subprocess.Popen[bytes]:
    return server.start_child(
        "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        "--backend-store-uri",
        tracking_uri(settings, root),
        "--default-artifact-root",
        (root / "mlartifacts").as_uri(),
        log=log,
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )


def check_port(variable: str, port: int) -> None:
    if not server.is_free(port):
        raise StageError(
            f"port {port} of 127.0.0.1: already in use, is another make ui on? "
            f"Stop it, or choose another: make ui {variable}={port + 1}"
        )


def _wait(name: str, url: str, child: subprocess.Popen[bytes], logs: Path) -> None:
    end = time.monotonic() + server.START_SECONDS
    while not _answers(url):
        if child.poll() is not None or time.monotonic() > end:
            raise StageError(f"{name}: does not come up; see {logs / name.lower()}.log")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=server.HEALTH_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _watch(children: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    while True:
        for name, child in children.items():
            if child.poll() is not None:
                raise StageError(f"{name}: has stopped; see {logs / name.lower()}.log")
        time.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
