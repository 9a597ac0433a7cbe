"""What a whole run leaves and what the servers answer, seen by an attacker; docs/security.md."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import StageError
from flows.looking_back import audit
from flows.servers import server
from flows.servers.password import PASSWORD_FILE, USER, check_ours, password
from tasks.lineage import uncommitted_patch
from tests.pipeline.conftest import CANARY, ROOT, make_clone, run_module, start_module
from tests.pipeline.test_serve import own_address
from tests.tiny import tiny_params, write_params

START_SECONDS = 120
END_SECONDS = 30
STRANGER = "http://evil.example"


def holding(root: Path, word: str) -> list[str]:
    """Return the files below a folder that hold a word, whatever kind they are of."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path.relative_to(root)) for path in files if word.encode() in path.read_bytes()]


# --- secrets -----------------------------------------------------------------------------------


def test_no_secret_of_the_environment_is_in_anything_that_a_run_leaves(untouched: Path) -> None:
    kept = {path.name for path in untouched.rglob("*") if path.is_file()}
    assert {"mlflow.db", "params.yaml", "registered.json", "first.log", "prefect.db"} <= kept
    assert holding(untouched, "distillery")  # the search finds what is there
    assert holding(untouched, CANARY) == []
    secret = (untouched / PASSWORD_FILE).read_text().strip()
    assert holding(untouched, secret) == [PASSWORD_FILE]


def test_a_password_in_params_ends_a_run_before_it_is_repeated(workspace: Path) -> None:
    uri = f"http://me:{CANARY}@127.0.0.1:9"
    write_params(workspace, tiny_params(register={"tracking_uri": uri}))
    for command in (
        "flows.run",
        "flows.servers.ui",
        "flows.servers.serve",
        "flows.looking_back.compare",
        "flows.doctor",
    ):
        done = run_module(workspace, command, check=False)
        assert done.returncode, command
        assert "a URL holds a user, password or key" in done.stdout, command
        assert CANARY not in done.stdout, command
    assert holding(workspace, CANARY) == ["params.yaml"]


def test_a_patch_of_the_code_takes_no_keys_along(workspace: Path) -> None:
    for name in (".env", "distillery/.env", "flows/key.pem", "tasks/notes.txt"):
        (workspace / name).write_text(CANARY)
    (workspace / "distillery/new.py").write_text(f"URL = 'https://me:{CANARY}@host/simple'\n")
    (workspace / "requirements.txt").write_text(f"--index-url https://{CANARY}@host/simple\n")
    with open(workspace / "tasks/stage.py", "a") as file:
        file.write("CHANGED = True\n")
    patch = uncommitted_patch(workspace)
    assert "+CHANGED = True" in patch
    assert "+URL = 'https://host/simple'" in patch
    assert "+--index-url https://host/simple" in patch
    assert CANARY not in patch
    path = workspace / "made.patch"
    path.write_text(patch)
    subprocess.run(
        ["git", "stash", "-qu", "--", "tasks", "distillery", "requirements.txt"],
        cwd=workspace,
        check=True,
    )
    subprocess.run(["git", "apply", "--check", path.name], cwd=workspace, check=True)


# --- servers -----------------------------------------------------------------------------------


NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")


def as_another_user(act: Callable[[], Any]) -> Any:
    """Return what a function returns, as JSON has it, in a process of the user `nobody`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            found = json.dumps(act())
        except BaseException as error:
            found = json.dumps(type(error).__name__)
        os.write(writer, found.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.load(file)
    os.waitpid(child, 0)
    return answer


def basic(password: str, user: str = "") -> dict[str, str]:
    """Return the header by which a client names itself; Prefect knows no users."""
    named = f"{user}:{password}" if user else password
    return {"Authorization": f"Basic {base64.b64encode(named.encode()).decode()}"}


def status_of(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """Return status and headers of an answer."""
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def test_make_ui_listens_here_alone_and_serves_no_strangers_page(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    ports = server.free_port(), server.free_port()
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    for name in ("distillery", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)
    arguments = ["--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1])]
    process = start_module(tmp_path, "flows.servers.ui", *arguments)
    try:
        end = time.monotonic() + START_SECONDS
        while "Ctrl-C stops both" not in (said := (tmp_path / "out.log").read_text()):
            assert process.poll() is None and time.monotonic() < end, said
            time.sleep(0.2)
        runs = "#/experiments/1/runs?workflowType=machine_learning"
        assert f"MLflow   http://127.0.0.1:{ports[0]}/{runs}\n" in said
        for port in ports:
            with socket.socket() as outside:
                outside.settimeout(2)
                assert outside.connect_ex((own_address(), port)) != 0
        mlflow = f"http://127.0.0.1:{ports[0]}/api/2.0/mlflow/experiments"
        search = f"{mlflow}/search?max_results=1"
        assert PASSWORD_FILE in said
        secret = (tmp_path / PASSWORD_FILE).read_text().strip()
        assert secret not in said
        us = basic(secret, USER)
        assert status_of(search, **us)[0] == 200
        assert status_of(search, Host="evil.example", **us)[0] == 403  # a name that points here now
        kind = {"Content-Type": "application/json"}
        assert status_of(search)[0] == 401
        assert status_of(search, **basic("guessed", USER))[0] == 401
        kind |= us
        assert status_of(f"{mlflow}/create", "POST", Origin=STRANGER, **kind)[0] == 403
        prefect = f"http://127.0.0.1:{ports[1]}/api"
        assert status_of(f"{prefect}/flows/filter", "POST", **kind)[0] == 401  # with a user's name
        kind |= basic(secret)
        for origin, allowed in (
            (STRANGER, None),
            (f"http://127.0.0.1:{ports[1]}", f"http://127.0.0.1:{ports[1]}"),
            (f"http://localhost:{ports[1]}", f"http://localhost:{ports[1]}"),
        ):
            _, headers = status_of(f"{prefect}/flows/filter", "POST", Origin=origin, **kind)
            assert headers.get("access-control-allow-origin") == allowed
        # What a page may send unasked, without that permission, is not taken for JSON.
        simple = {"Origin": STRANGER, "Content-Type": "text/plain"}
        assert status_of(f"{prefect}/flows/", "POST", **simple)[0] == 401
        simple |= basic(secret)
        assert status_of(f"{prefect}/flows/", "POST", **simple)[0] == 422
        settings = urllib.request.Request(f"{prefect}/admin/settings", headers=basic(secret))
        with urllib.request.urlopen(settings, timeout=30) as answer:  # and these say what is off
            assert json.load(answer)["server"]["analytics_enabled"] is False
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)


@needs_root
def test_another_user_of_the_machine_starts_no_code_through_a_schedule() -> None:
    # Below /tmp itself: pytest's folders let no other user in, whatever lies in them.
    with tempfile.TemporaryDirectory() as folder:
        root = make_clone(Path(folder) / "workspace")
        Path(folder).chmod(0o755)
        port = server.free_port()
        process = start_module(root, "flows.servers.schedule", "--prefect-port", str(port))
        try:
            end = time.monotonic() + START_SECONDS
            while "Ctrl-C ends the schedule" not in (said := (root / "out.log").read_text()):
                assert process.poll() is None and time.monotonic() < end, said
                time.sleep(0.2)
            api = server.api_on(port)
            kind = {"Content-Type": "application/json"}
            assert status_of(f"{api}/health")[0] == 200  # loads what `nobody` may not read

            def attack() -> list[Any]:
                found: list[Any] = [[path.name for path in root.iterdir()]]  # this hides nothing
                for path in (PASSWORD_FILE, f"/proc/{process.pid}/environ"):
                    try:
                        found.append((root / path).read_text())
                    except OSError as error:
                        found.append(type(error).__name__)
                for path in ("deployments/filter", "flows/filter", "flow_runs/filter"):
                    found.append(status_of(f"{api}/{path}", "POST", **kind)[0])
                return found

            listed, *refused = as_another_user(attack)
            assert "params.yaml" in listed
            assert refused == ["PermissionError", "PermissionError", 401, 401, 401]

            headers = kind | basic((root / PASSWORD_FILE).read_text().strip())
            request = urllib.request.Request(f"{api}/deployments/filter", b"{}", headers)
            deployments: list[dict[str, Any]] = []
            while not deployments:  # it says so a moment before its deployment is there
                assert process.poll() is None and time.monotonic() < end
                with urllib.request.urlopen(request, timeout=30) as answer:
                    deployments = json.load(answer)
            (deployment,) = deployments
            # Nor could its owner be made to run another folder's code.
            assert set(deployment["parameter_openapi_schema"]["properties"]) == {"trigger", "force"}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(END_SECONDS)


@needs_root
def test_a_server_that_another_user_put_on_our_port_is_told_no_password(tmp_path: Path) -> None:
    def listen() -> int:
        with socket.socket() as trap:
            trap.bind(("127.0.0.1", 0))
            trap.listen()
            port = int(trap.getsockname()[1])
            os.write(ready, str(port).encode())
            os.read(done, 1)
            return port

    told, ready = os.pipe()
    done, end = os.pipe()
    with ThreadPoolExecutor() as pool:
        trap = pool.submit(as_another_user, listen)
        port = int(os.read(told, 16))
        (tmp_path / ".prefect").mkdir()
        (tmp_path / server.UI_FILE).write_text(json.dumps({"prefect_api": server.api_on(port)}))
        assert server.ui_server(tmp_path) is None
        with pytest.raises(
            StageError, match=f"port {port} of 127.0.0.1: a process of another user"
        ):
            check_ours(port)
        os.write(end, b".")
        assert trap.result() == port
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        check_ours(own.getsockname()[1])


def test_a_password_that_others_may_read_is_refused(tmp_path: Path) -> None:
    first = password(tmp_path)
    assert password(tmp_path) == first != password(tmp_path / "other")
    path = tmp_path / PASSWORD_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(StageError, match=r"mode 640, expected \d+ and 600: others may know"):
        password(tmp_path)


# --- telemetry ---------------------------------------------------------------------------------


def test_onnx_runtime_keeps_nothing_to_tell_its_makers(tmp_path: Path) -> None:
    """It would make an id of the device, and keep what it tells until it can be sent."""
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    code = "import distillery.serve.onnx_recogniser as module; module.onnxruntime.InferenceSession"
    subprocess.run([sys.executable, "-c", code], env=home, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_the_libraries_themselves_say_that_their_telemetry_is_off(workspace: Path) -> None:
    asked = (
        "from dvc.analytics import is_enabled\n"
        "from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from prefect.analytics import is_telemetry_enabled\n"
        "print(is_enabled(), not HF_HUB_DISABLE_TELEMETRY, not is_telemetry_disabled(),"
        " is_telemetry_enabled())"
    )
    ours = "from pathlib import Path; from flows import environment; environment.apply(Path.cwd())"

    def answers(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=workspace,
            # Nothing else: some of them are silent under pytest and in CI.
            env={name: os.environ[name] for name in ("PATH", "HOME")},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    (workspace / ".dvc/config").write_text("")
    assert answers(f"{ours}\n{asked}") == "False False False False"
    assert answers(asked) == "True True True True"


# --- the audit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            404,
            b"",
            "cannot be read .*404.*nothing was audited .*is a probe.* run make audit where PyPI",
        ),
        (200, b"<html>", "cannot be read .*nothing was audited"),
        (200, b'{"info": {}}', "names no vulnerabilities, expected some, so nothing was audited"),
        (200, b'{"vulnerabilities": []}', "names no vulnerabilities, expected some"),
        (200, b'{"vulnerabilities": [{"id": "PYSEC-2020-31"}]}', None),
    ],
)
def test_an_audit_without_an_answer_is_an_error(
    status: int, body: bytes, words: str | None
) -> None:
    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Mirror) as mirror:
        threading.Thread(target=mirror.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{mirror.server_port}/pypi/pip/json"
        if words is None:
            audit.check_service(url)
            return
        with pytest.raises(StageError, match=words):
            audit.check_service(url)


def test_an_audit_takes_a_package_that_was_skipped_for_an_error() -> None:
    assert "--strict" in audit.command(ROOT / audit.REQUIREMENTS)
    with pytest.raises(StageError, match="127.0.0.1:9/x: cannot be read .*refused"):
        audit.check_service("http://127.0.0.1:9/x")
