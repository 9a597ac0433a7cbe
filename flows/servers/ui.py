"""MLflow's and Prefect's pages on loopback until Ctrl-C: python -m flows.servers.ui."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from distillery.commands.package import PAGE
from distillery.credentials import without_credentials
from distillery.errors import StageError
from distillery.params.file import PARAMS_FILE
from distillery.params.register import RegisterParams
from distillery.params.whole import Params
from distillery.serve.browser import INDEX_FILE
from distillery.tracking.names import charts_page, runs_page
from distillery.tracking.store import Tracking, tracking_uri
from flows.servers import server
from flows.servers.password import NUM_BYTES, PASSWORD_FILE, USER, password

LOG_FOLDER = "scratch"
CHECK_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Serve the pages and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.servers.ui", description=__doc__)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--page-port", type=int, default=5002)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    return server.until_stopped(
        root, lambda: serve(root, options.mlflow_port, options.prefect_port, options.page_port)
    )


def serve(root: Path, mlflow_port: int, prefect_port: int, page_port: int) -> None:
    """Start the servers, say where they are, and stop them at the end.

    Raises:
        StageError: a port is taken, or a server does not come up or dies.
        ParamsError: params.yaml cannot be used.
        TrackingError: the MLflow store cannot be made or reached.
    """
    settings = Params.load(root / PARAMS_FILE).register
    logs = root / LOG_FOLDER
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        children = {}
        pages = []
        if tracking_uri(settings, root).startswith("http"):
            pages.append(
                f"MLflow   {without_credentials(tracking_uri(settings, root))} (its own server)"
            )
        else:
            server.check_port("ui", "MLFLOW_PORT", mlflow_port)
            # The store must exist before the server's processes meet it.
            experiment = Tracking(settings, root).experiment_id
            children["MLflow"] = _mlflow(root, settings, mlflow_port, logs / "mlflow.log")
            stack.callback(server.stop, children["MLflow"])
            address = f"http://127.0.0.1:{mlflow_port}"
            pages.append(f"MLflow   {address}/{runs_page(experiment)}")
            pages.append(f"Compare  {address}/{charts_page(experiment)}")
        if api := server.ui_server(root):
            pages.append(f"Prefect  {api.removesuffix('/api')} (of make schedule)")
        else:
            log = logs / "prefect.log"
            child = stack.enter_context(server.whole_server(root, "ui", prefect_port, log))
            children["Prefect"] = child
            pages.append(f"Prefect  http://127.0.0.1:{prefect_port}")
        if (root / PAGE / INDEX_FILE).exists():
            server.check_port("ui", "PAGE_PORT", page_port)
            children["Page"] = _page(root, page_port, logs / "page.log")
            stack.callback(server.stop, children["Page"])
            pages.append(f"Student  http://127.0.0.1:{page_port} (of make page; no password)")
        else:
            pages.append("Student  no page yet: make page writes one, with a microphone")
        sys.stdout.write("starting …\n")
        sys.stdout.flush()
        if "MLflow" in children:
            health = f"http://127.0.0.1:{mlflow_port}/health"
            server.wait_for("MLflow", health, children["MLflow"], logs / "mlflow.log")
        if "Prefect" in children:
            server.announce(root, prefect_port, children["Prefect"], logs / "prefect.log")
        asked = f"They ask for a password, which is in {PASSWORD_FILE}; MLflow's user is {USER}."
        end = f"Ctrl-C stops {'all' if 'Page' in children else 'both'}."
        sys.stdout.write("\n".join([*pages, asked, end, ""]))
        sys.stdout.flush()
        _watch(children, logs)


def _mlflow(root: Path, settings: RegisterParams, port: int, log: Path) -> subprocess.Popen[bytes]:
    return server.start_child(
        "mlflow",
        "server",
        "--app-name=basic-auth",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        "--backend-store-uri",
        tracking_uri(settings, root),
        "--default-artifact-root",
        (root / "mlartifacts").as_uri(),
        log=log,
        environment={
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **_asking_mlflow(root, log.with_name("mlflow-users.ini")),
        },
    )


def _page(root: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Serve the page, static files that ask nobody for anything, to this machine alone."""
    folder = str((root / PAGE).resolve())
    return server.start_child(
        "http.server",
        str(port),
        "--bind=127.0.0.1",
        f"--directory={folder}",
        log=log,
        environment={},
    )


def _asking_mlflow(root: Path, settings: Path) -> dict[str, str]:
    """Return the environment by which MLflow's server asks for the workspace's password.

    MLflow keeps users in a database of their own, made anew at each start: the one user's password
    is the file's.
    """
    users = settings.with_suffix(".db")
    users.unlink(missing_ok=True)
    settings.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{users.resolve()}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings.resolve()),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password(root),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(NUM_BYTES),
    }


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
