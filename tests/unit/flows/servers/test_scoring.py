"""The doorkeeper before MLflow's scoring server, by uvicorn on loopback: who is let in, and when.

What it refuses, and MLflow's own answers, are tested on the real server, in pipeline/test_serve.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse

import pytest
import uvicorn

from flows.servers.scoring import STOPPED, Doorkeeper, Receive, Scope, Send

BODY = json.dumps({"inputs": [{"audio_b64": ""}]}).encode()
JSON = {"Content-Type": "application/json"}
WAIT_SECONDS, STOP_SECONDS = 20, 1
NUM_CLIENTS = 32


@dataclass
class Slow:
    """An application that answers a request with its path, once it may."""

    may_answer: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == (BODY if scope["method"] == "POST" else b"")
        self.begun.append(scope["path"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while scope["method"] == "POST" and not self.may_answer.is_set():
                await asyncio.sleep(0.01)
        finally:
            self.at_once -= 1
        if scope["path"] == "/bad":
            raise RuntimeError("a fault of one request alone")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


@dataclass
class Serving:
    """A doorkeeper that lets two in at once."""

    app: Slow
    port: int
    uvicorn: uvicorn.Server
    thread: threading.Thread

    def send(self, path: str, body: bytes = BODY) -> HTTPConnection:
        """Send a request and do not wait for its answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        connection.request("POST", path, body, JSON)
        return connection

    def stop(self) -> None:
        """Tell the server to stop, as SIGTERM does."""
        self.uvicorn.should_exit = True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    app = Slow()
    with _running(app, Doorkeeper(app, 1000)) as found:
        yield found


@contextmanager
def _running(app: Slow, doorkeeper: Doorkeeper) -> Iterator[Serving]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            doorkeeper, lifespan="off", log_level="error", timeout_graceful_shutdown=STOP_SECONDS
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Serving(app, listener.getsockname()[1], server, thread)
        finally:
            app.may_answer.set()
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


def body_of(answer: HTTPResponse) -> tuple[int, str]:
    return answer.status, answer.read().decode()


def test_as_many_are_let_in_at_once_as_there_are_cores_and_all_are_answered(
    serving: Serving,
) -> None:
    sent = [serving.send(f"/{number}") for number in range(NUM_CLIENTS)]
    wait_until(lambda: serving.app.at_once == 2)
    serving.app.may_answer.set()
    answers = [body_of(connection.getresponse()) for connection in sent]
    assert answers == [(200, f"/{number}") for number in range(NUM_CLIENTS)]
    assert serving.app.most_at_once == 2


def test_whether_it_is_up_is_said_while_others_wait(serving: Serving) -> None:
    sent = [serving.send(f"/{number}") for number in range(4)]
    wait_until(lambda: serving.app.at_once == 2)
    asking = HTTPConnection("127.0.0.1", serving.port, timeout=WAIT_SECONDS)
    asking.request("GET", "/ping")
    assert body_of(asking.getresponse()) == (200, "/ping")
    serving.app.may_answer.set()
    assert [connection.getresponse().status for connection in sent] == [200] * 4


def test_a_fault_in_one_request_harms_no_other(serving: Serving) -> None:
    paths = ["/bad" if number % 2 else "/good" for number in range(8)]
    sent = [serving.send(path) for path in paths]
    serving.app.may_answer.set()
    found = [connection.getresponse().status for connection in sent]
    assert found == [500 if path == "/bad" else 200 for path in paths]


def test_nothing_is_done_for_clients_that_went_away_while_they_waited(serving: Serving) -> None:
    first = [serving.send(f"/{number}") for number in range(2)]
    wait_until(lambda: serving.app.at_once == 2)
    state = serving.uvicorn.server_state
    gone = [serving.send("/gone") for _ in range(4)]
    wait_until(lambda: len(state.tasks) == 6)
    for connection in gone:
        connection.close()
    wait_until(lambda: len(state.connections) == 2)
    serving.app.may_answer.set()
    assert [connection.getresponse().status for connection in first] == [200, 200]
    last = serving.send("/last")
    assert last.getresponse().status == 200
    assert sorted(serving.app.begun) == ["/0", "/1", "/last"]


def test_nothing_is_done_for_clients_that_went_away_in_the_midst_of_a_request(
    serving: Serving,
) -> None:
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        head = f"POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + BODY[:9])
        wait_until(lambda: len(serving.uvicorn.server_state.tasks) == 1)
    wait_until(lambda: not serving.uvicorn.server_state.tasks)
    serving.app.may_answer.set()
    assert serving.send("/last").getresponse().status == 200
    assert serving.app.begun == ["/last"]


def test_who_waits_when_it_is_stopped_is_answered(serving: Serving) -> None:
    sent = [serving.send(f"/{number}") for number in range(NUM_CLIENTS)]
    wait_until(lambda: len(serving.uvicorn.server_state.tasks) == NUM_CLIENTS)
    serving.stop()
    serving.app.may_answer.set()
    assert [connection.getresponse().status for connection in sent] == [200] * NUM_CLIENTS
    serving.thread.join(WAIT_SECONDS)
    assert not serving.thread.is_alive()


def test_who_cannot_be_answered_before_it_stops_is_told_so(serving: Serving) -> None:
    sent = [serving.send(f"/{number}") for number in range(NUM_CLIENTS)]
    with socket.create_connection(("127.0.0.1", serving.port)) as half:
        half.sendall(b"POST /half HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        wait_until(lambda: len(serving.uvicorn.server_state.tasks) == NUM_CLIENTS + 1)
        start = time.monotonic()
        serving.stop()
        with ThreadPoolExecutor(NUM_CLIENTS) as threads:
            answers = list(threads.map(lambda c: body_of(c.getresponse()), sent))
        assert half.recv(65536).startswith(b"HTTP/1.1 503")
    assert {status for status, _ in answers} == {503}
    assert {json.loads(content)["message"] for _, content in answers} == {STOPPED}
    serving.thread.join(WAIT_SECONDS)
    assert time.monotonic() - start < WAIT_SECONDS
