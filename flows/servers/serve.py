"""The champion over HTTP, by MLflow's scoring server: python -m flows.servers.serve."""

from __future__ import annotations

import argparse
import ipaddress
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from distillery.errors import StageError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION, checked_folder, package_bundle, version_of
from flows.servers import app, server, streaming

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = {"0.0.0.0": LOOPBACK, "::": "::1"}
"""By what a server listens on: how this machine reaches it."""
LOG_FILE = "scratch/serve.log"
CHECK_SECONDS = 0.2
REQUEST_SECONDS = 120
ANSWER_SECONDS = 5
"""Once it is being stopped: how long requests that are there may take, before `server.stop` kills
it; those that are left are told so."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Of NumPy's and PyTorch's, for each request: more of them mostly wait for each other, and take the
cores from other requests meanwhile. docs/decisions/0036-serving-many.md has the figures."""
CURL = """\
  printf '{{"inputs": [{{"audio_b64": "%s"}}]}}' "$(base64 -w0 sample.wav)" |
    curl -sS -H 'Content-Type: application/json' -d @- {url}/invocations
"""
PAST_A_PROXY = "curl --noproxy '*'"


def main(arguments: list[str] | None = None) -> int:
    """Serve the model and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.servers.serve", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument("--model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    return server.until_stopped(
        root, lambda: serve(root, options.host, options.port, options.model)
    )


def serve(root: Path, host: str, port: int, model: str | None) -> None:
    """Check a registered model's files, serve a copy of them, and stop the server at the end.

    Args:
        root: the workspace, whose params.yaml says where the registry is.
        host: the address to listen on.
        port: the port.
        model: which version; None takes the champion.

    Raises:
        StageError: the port is taken, or the server does not come up or dies.
        ParamsError: params.yaml cannot be used.
        TrackingError: the registry cannot be reached or does not hold the model.
        ModelError: the model's files are damaged.
    """
    settings = Params.load(root / PARAMS_FILE).register
    server.check_port("serve", "SERVE_PORT", port)
    tracking = Tracking(settings, root, again="make serve")
    version = version_of(tracking, model or f"models:/{settings.model_name}@{CHAMPION}")
    name = f"{version.name} version {version.version}"
    log = root / LOG_FILE
    log.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serve-", dir=log.parent) as copy:
        fixed = f"models:/{version.name}/{version.version}"
        bundle = checked_folder(tracking, fixed, Path(copy) / "registered")
        served = Path(copy) / "served"
        package_bundle(bundle, served, settings.serve_limits)
        say(f"{name}: files as registered; starting …")
        child = _start(served, host, port, log)
        try:
            url = url_of(host, port)
            server.wait_for(name, f"{url}/ping", child, log)
            curl = CURL.format(url=url)
            if set(urllib.request.getproxies()) - {"no"}:
                curl = curl.replace("curl", PAST_A_PROXY)
            say(f"{url}/invocations answers until Ctrl-C. Try it with\n\n{curl}")
            if not is_loopback(host):
                say(
                    f"Anyone who reaches {host} can use it: it asks for no password and has no "
                    "encryption. docs/serving.md says what to put in front.",
                )
            while child.poll() is None:
                time.sleep(CHECK_SECONDS)
            raise StageError(f"{name}: the server has stopped; see {log}")
        finally:
            server.stop(child)


def _start(served: Path, host: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the server of a model in MLflow's form."""
    return server.start_child(
        "uvicorn",
        "--factory",
        "flows.servers.app:create_app",
        f"--host={host}",
        f"--port={port}",
        f"--ws-max-size={streaming.MAX_MESSAGE_BYTES}",
        "--ws-per-message-deflate=false",  # speech hardly gets smaller, and it needs memory
        f"--timeout-graceful-shutdown={ANSWER_SECONDS}",
        log=log,
        environment={
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
            **ONE_THREAD,
            app.MODEL_VARIABLE: str(served),
        },
    )


def say(text: str) -> None:
    """Tell the one who started this, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def url_of(host: str, port: int) -> str:
    """Return where this machine finds what listens on a host: a name, an IPv4 or IPv6 address."""
    address = EVERY_ADDRESS.get(host, host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
