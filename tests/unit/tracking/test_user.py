"""Who somebody is, by servers that ask for a name and by those that do not."""

from __future__ import annotations

import base64
import getpass
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow.exceptions import MlflowException

from distillery.tracking.user import CURRENT_USER, login, person

HERE = f"{getpass.getuser()}@{socket.gethostname()}"


@contextmanager
def answers(page: bytes | None, *, asks: bool) -> Iterator[str]:
    """Run a server that has a page on the current user, or none, and lets in anna alone, or all."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = f"Basic {base64.b64encode(b'anna:secret').decode()}"
            if asks and self.headers.get("Authorization") != wanted:
                self.send_error(401)
            elif page is None or self.path != CURRENT_USER:
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")  # ~/.mlflow/credentials


def as_anna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")


def test_without_a_server_it_is_who_is_logged_in() -> None:
    assert person("sqlite:///x.db") == person("postgresql://anna@h/db") == login() == HERE


def test_a_server_that_says_who_we_are_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    as_anna(monkeypatch)
    page = json.dumps({"user": {"id": 1, "username": "anna.b", "is_admin": False}}).encode()
    with answers(page, asks=True) as uri:
        assert person(uri) == "anna.b"


def test_a_name_that_no_server_asked_for_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    as_anna(monkeypatch)
    with answers(None, asks=False) as uri:
        assert person(uri) == HERE
    for page in (b"a page of something else", b"[]", b"{}"):
        with answers(page, asks=False) as uri:
            assert person(uri) == HERE


def test_a_name_without_which_we_are_refused_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an older MLflow, or a proxy that asks for passwords."""
    as_anna(monkeypatch)
    with answers(None, asks=True) as uri:
        assert person(uri) == "anna"
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        assert person(uri) == HERE


def test_a_server_that_is_gone_is_an_error() -> None:
    with answers(None, asks=False) as uri:
        pass
    with pytest.raises(MlflowException, match="127.0.0.1"):
        person(uri)
