"""Loopback past a proxy of the environment, and lines on a terminal that shows ASCII alone."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from distillery.commands.surroundings import HANDLER, LOOPBACK, STAND_INS, settle, spare_loopback

ROOT = Path(__file__).resolve().parents[3]
ASCII_ONLY = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
}
CLIENTS = """
import json, os, sys
from distillery.commands import surroundings
surroundings.settle()
import httpx, requests, urllib.request
from flows.servers import server
found = {}
for host in ("127.0.0.1", "localhost"):
    url = f"http://{host}:{sys.argv[1]}/health"
    found[host] = [
        urllib.request.urlopen(url, timeout=5).status,
        httpx.get(url, timeout=5).status_code,
        requests.get(url, timeout=5).status_code,
        server.answers(url),
    ]
found["else"] = [
    httpx.get("http://models.example/x", timeout=5).status_code,
    requests.get("http://models.example/x", timeout=5).status_code,
    httpx.get("http://inside.example/x", timeout=5).status_code if len(sys.argv) > 2 else None,
]
print(json.dumps(found))
"""


class Recording(ThreadingHTTPServer):
    """A server, or a proxy, that remembers what it was asked for."""

    status = 200

    def __init__(self) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(self.server.status)  # type: ignore[attr-defined]
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_CONNECT = do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = asked


@pytest.fixture
def recording() -> Iterator[list[Recording]]:
    servers = [Recording(), Recording()]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    yield servers
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def test_no_client_asks_a_proxy_for_loopback(recording: list[Recording]) -> None:
    ours, proxy = recording
    proxy.status = 299  # nobody else answers so
    address = f"http://127.0.0.1:{proxy.server_port}"
    names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS, str(ours.server_port)],
        env=without_proxies() | dict.fromkeys(names, address),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["127.0.0.1"] == found["localhost"] == [200, 200, 200, True]
    assert found["else"][:2] == [299, 299]
    assert proxy.asked == ["http://models.example/x"] * 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"no_proxy": "", "NO_PROXY": ""}),
        ({"NO_PROXY": "a.org, .b.org"}, {"no_proxy": "a.org,.b.org", "NO_PROXY": "a.org,.b.org"}),
        ({"no_proxy": "a.org"}, {"no_proxy": "a.org", "NO_PROXY": "a.org"}),
        ({"no_proxy": "", "NO_PROXY": "a.org"}, {"no_proxy": "a.org", "NO_PROXY": "a.org"}),
        ({"no_proxy": "a.org", "NO_PROXY": "b"}, {"no_proxy": "a.org", "NO_PROXY": "b"}),
    ],
)
def test_whom_the_user_spares_stays_spared(before: dict[str, str], after: dict[str, str]) -> None:
    environment = dict(before)
    spare_loopback(environment)
    loopback = ",".join(LOOPBACK)
    assert environment == {name: f"{v},{loopback}".lstrip(",") for name, v in after.items()}
    again = dict(environment)
    spare_loopback(again)
    assert again == environment


def test_a_star_stays_alone() -> None:
    environment = {"NO_PROXY": "*"}
    spare_loopback(environment)
    assert environment == {"NO_PROXY": "*"}


# --- terminals ------------------------------------------------------------------------------------


def printed(text: str, encoding: str) -> bytes:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors=HANDLER, newline="")
    stream.write(text)
    stream.flush()
    return stream.buffer.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_terminal_gets_what_it_can_show() -> None:
    text = "3 ± 1 … │ café 日本 \udce9.wav"
    assert printed(text, "utf-8") == text.encode("utf-8", "surrogateescape")
    assert printed(text, "ascii") == b"3 +- 1 ... | caf\\xe9 \\u65e5\\u672c \xe9.wav"
    assert printed("café …", "latin-1") == b"caf\xe9 ..."


def test_stand_ins_are_ascii() -> None:
    assert all(value.isascii() and not key.isascii() for key, value in STAND_INS.items())


def test_every_line_of_ours_has_stand_ins_for_what_draws() -> None:
    assert printed("┌─┬┐ ━ └┴┘ ├┼┤ │┃ ▁▄█", "ascii") == b"+-++ - +++ +++ || _-#"


def test_streams_that_a_caller_put_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    settle()
    assert sys.stdout is stream


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "distillery.commands.main", "--help"],
        ["-m", "flows.settings", "nowhere.yaml"],
        ["-m", "tasks.prepare"],
        ["-m", "flows.doctor", "--quick"],
    ],
)
def test_a_command_on_an_ascii_terminal_ends_as_ever(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("prepare: {corpus: é…}\n", "utf-8")
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (tmp_path / "requirements.txt").write_text("")
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | ASCII_ONLY | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert b"UnicodeEncodeError" not in output
    assert b"Traceback" not in output, output.decode()
    assert output.isascii()


def test_every_module_that_is_a_command_settles_first() -> None:
    """`settle` itself, or what calls it: a stage, the flows' environment, a server's frame."""
    calls = {"settle", "run_stage", "apply", "until_stopped", "write_rows"}
    paths = [path for name in ("distillery", "tasks", "flows") for path in (ROOT / name).rglob("*")]
    for path in [*paths, ROOT / "examples/week/__main__.py"]:
        text = path.read_text("utf-8") if path.suffix == ".py" else ""
        if '__name__ == "__main__"' not in text:
            continue
        if path.name == "child.py" or path == ROOT / "distillery/serve/package.py":
            continue  # a child becomes another module; the package's example is a text
        names = {
            getattr(node.func, "attr", getattr(node.func, "id", None))
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
        }
        assert names & calls, path.relative_to(ROOT)
