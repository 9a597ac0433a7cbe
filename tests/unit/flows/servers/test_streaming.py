"""The WebSocket of `make serve`: a real server and clients on loopback, students of any format."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from distillery.params.register import ServeLimits
from distillery.serve.served import Transcriber, load_served
from flows.servers.scoring import FAILED
from flows.servers.streaming import MAX_MESSAGE_BYTES, Streams
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import put_decoder
from tests.tiny_students import put_exported, streaming_student, talking_student

BEGIN = {"sample_rate_hz": RATE_HZ}
END = json.dumps({"end": True})
LIMITS = ServeLimits(max_seconds=20.0, max_streams=3)
START_SECONDS, WAIT_SECONDS = 20, 20


@dataclass
class Server:
    port: int
    streams: Streams

    @contextmanager
    def open(self, path: str = "/stream", **options: Any) -> Iterator[ClientConnection]:
        """Connect a client that asks no proxy."""
        url = f"ws://127.0.0.1:{self.port}{path}"
        with connect(url, proxy=None, **options) as client:
            yield client

    def wait_until_free(self) -> None:
        """Return once no stream is open."""
        end = time.monotonic() + WAIT_SECONDS
        while self.streams.num_streams:
            assert time.monotonic() < end
            time.sleep(0.02)


@contextmanager
def serving(student: Transcriber, limits: ServeLimits = LIMITS, idle: float = 20.0) -> Any:
    """Run uvicorn in a thread of its own, as `make serve` does in a process."""
    streams = Streams(student, limits, idle)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            streams, ws_max_size=MAX_MESSAGE_BYTES, lifespan="off", log_level="warning"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        end = time.monotonic() + START_SECONDS
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        try:
            yield Server(listener.getsockname()[1], streams)
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()


@pytest.fixture(scope="module", params=["onnx", "torch"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = None if request.param == "torch" else request.param
    folder = put_exported(streaming_student(3), tmp_path_factory.mktemp("model"), name)
    with serving(load_served(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = put_exported(streaming_student(3), tmp_path_factory.mktemp("model"), "onnx")
    with serving(load_served(folder)) as found:
        yield found


def pcm(waveform: np.ndarray) -> bytes:
    return np.rint(waveform * 32768).astype("<i2").tobytes()


def transcribed(server: Server, content: bytes) -> str:
    samples = np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)
    return server.streams.student.transcribe([samples])[0]


def pieces(content: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces, their sizes in turn."""
    found, start, turn = [], 0, 0
    while start < len(content):
        size = sizes[turn % len(sizes)]
        found.append(content[start : start + size])
        start, turn = start + size, turn + 1
    return found


def begin(client: ClientConnection, message: Any = BEGIN) -> None:
    client.send(json.dumps(message))


def answers(client: ClientConnection) -> list[dict[str, Any]]:
    """Return all that the server still says, until it closes."""
    found = []
    try:
        while True:
            found.append(json.loads(client.recv(WAIT_SECONDS)))
    except ConnectionClosed:
        return found


# --- what is heard --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1600], [1, 777, 3, 2048, 5], [10**6], [0, 801]])
def test_chunks_of_any_size_end_with_the_text_of_the_whole(
    served: Server, sizes: list[int]
) -> None:
    content = pcm(speak("abc cab ba", 3))
    with served.open() as client:
        begin(client)
        for piece in pieces(content, sizes):
            client.send(piece)
        client.send(END)
        *partial, final = answers(client)
        assert client.close_code == 1000
    assert final == {"text": transcribed(served, content), "is_final": True}
    assert final["text"]
    assert all(item.keys() == {"text", "is_final"} and not item["is_final"] for item in partial)
    texts = [item["text"] for item in partial]
    assert all(former != later for former, later in pairwise(["", *texts]))


def test_partial_texts_come_before_the_end(server: Server) -> None:
    content = pcm(speak("abc cab ba", 3))
    with server.open() as client:
        begin(client)
        half = len(content) // 4 * 2
        client.send(content[:half])
        first = json.loads(client.recv(WAIT_SECONDS))
        assert first["text"] and first["is_final"] is False
        client.send(content[half:])
        second = json.loads(client.recv(WAIT_SECONDS))
        assert second["text"].startswith(first["text"]) and second["is_final"] is False
        client.send(END)
        (final,) = answers(client)
    assert final == {"text": transcribed(server, content), "is_final": True}


def test_texts_of_clients_at_once_do_not_mix(server: Server) -> None:
    contents = [pcm(speak("abc cab", 1)), pcm(speak("ba ba cc", 2)), pcm(speak("cab", 3))]
    expected = [transcribed(server, content) for content in contents]
    assert len(set(expected)) == 3
    meeting = threading.Barrier(3, timeout=WAIT_SECONDS)
    finals: dict[int, Any] = {}

    def speak_to_it(index: int) -> None:
        with server.open() as client:
            begin(client)
            meeting.wait()
            for piece in pieces(contents[index], [501]):
                client.send(piece)
            client.send(END)
            finals[index] = answers(client)[-1]

    threads = [threading.Thread(target=speak_to_it, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [finals[index]["text"] for index in range(3)] == expected
    server.wait_until_free()


def test_a_decoder_and_hot_words_count(tmp_path: Path) -> None:
    put_exported(streaming_student(), tmp_path, "onnx")
    put_decoder(tmp_path)
    content = pcm(speak("abc cab ba", 3))
    with serving(load_served(tmp_path)) as server:
        texts = []
        for message in (BEGIN, {**BEGIN, "hot_words": ["cccc=90"]}):
            with server.open() as client:
                begin(client, message)
                client.send(content)
                client.send(END)
                texts.append(answers(client)[-1]["text"])
        assert texts[0] == transcribed(server, content)
        assert "cccc" in texts[1].split() and "cccc" not in texts[0].split()


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[Any], str]] = {
    "another rate": (
        [{"sample_rate_hz": 44100}],
        "sample_rate_hz: 44100, expected 8000, the student's rate; record at that rate, or",
    ),
    "a rate of many digits": (
        [{"sample_rate_hz": 10**400}],
        "sample_rate_hz: a number of ten digits or more, expected 8000",
    ),
    "a rate as text": (
        [{"sample_rate_hz": "8000"}],
        "sample_rate_hz: a text, expected a whole number: 8000",
    ),
    "no rate": ([{}], "sample_rate_hz: null, expected a whole number: 8000"),
    "no JSON at first": (
        ["hello"],
        "first message: not JSON: Expecting value: line 1 column 1 (char 0); expected "
        '{"sample_rate_hz": 16000}',
    ),
    "deep JSON": (["[" * 9000], "first message: not JSON"),
    "a list": ([[8000]], "first message: a list, expected an object"),
    "long JSON": ([{"sample_rate_hz": 8000, "hot_words": ["a" * 20_000]}], "first message: 20"),
    "unknown entries": ([{**BEGIN, "words": 1}], "first message: 1 unknown entries, expected"),
    "audio at first": ([b"\0\0"], "first message: binary, expected a text"),
    "hot words that are none": ([{**BEGIN, "hot_words": "a"}], "hot_words: expected a list of"),
    "a hot word without a token": ([{**BEGIN, "hot_words": ["zoo"]}], "hot word 'zoo': the model"),
    "no JSON later": (
        [BEGIN, b"\0\0", "stop"],
        "message: not JSON: Expecting value: line 1 column 1 (char 0); expected audio as binary "
        'messages, or {"end": true}',
    ),
    "another end": ([BEGIN, {"end": False}], "message: another object, expected audio as binary"),
    "nothing said": ([BEGIN, {"end": True}], "audio: ended without a sample, expected speech"),
    "half a sample": (
        [BEGIN, b"\0\0\0", {"end": True}],
        "audio: ends with half a sample, expected 16-bit samples, two bytes each",
    ),
    "too long": (
        [BEGIN, *[bytes(100_000)] * 4],
        "stream: longer than 20 s, expected that at most (register.serve_limits.max_seconds)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_agreed_is_refused_in_one_message(server: Server, case: str) -> None:
    messages, reason = REFUSED[case]
    with server.open() as client:
        for message in messages:
            client.send(message if isinstance(message, bytes | str) else json.dumps(message))
        found = [item for item in answers(client) if "text" not in item]
        assert client.close_code == 1008
    (error,) = found
    assert error.keys() == {"error"}
    assert error["error"].startswith(reason)
    assert len(error["error"]) < 300  # what was sent does not come back


def test_a_message_that_is_too_large_ends_the_stream(server: Server) -> None:
    with server.open() as client:
        begin(client)
        client.send(bytes(MAX_MESSAGE_BYTES + 2))
        assert answers(client) == []
        assert client.close_code == 1009
    server.wait_until_free()


@pytest.mark.parametrize("name", [None, "onnx"])
def test_a_student_that_waits_for_the_end_says_so(name: str | None, tmp_path: Path) -> None:
    folder = put_exported(talking_student(), tmp_path, name)
    with serving(load_served(folder)) as server, server.open() as client:
        (error,) = answers(client)
    assert "crnn with features normalised 'bands' waits for the end" in error["error"]
    assert "expected a student such as causal_conv" in error["error"]
    assert error["error"].endswith("this one takes whole recordings, at /invocations")


def test_pages_of_others_and_other_paths_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="403"), server.open(origin="http://other.example"):
        pass
    with pytest.raises(InvalidStatus, match="403"), server.open("/other"):
        pass
    with server.open(origin=f"http://127.0.0.1:{server.port}") as client:
        begin(client)
        client.send(END)
        assert "without a sample" in answers(client)[0]["error"]


# --- who comes and goes ---------------------------------------------------------------------------


def test_one_client_too_many_is_told_to_come_later(server: Server) -> None:
    with server.open() as first, server.open() as second, server.open() as third:
        for client in (first, second, third):
            begin(client)
            client.send(pcm(speak("abc", 1)))
            client.recv(WAIT_SECONDS)
        with server.open() as fourth:
            (error,) = answers(fourth)
            assert fourth.close_code == 1013
        assert error["error"].startswith("stream: 3 are open, expected fewer than 3 (register.")
    server.wait_until_free()
    test_partial_texts_come_before_the_end(server)


@pytest.mark.parametrize("how", ["closes", "vanishes"])
def test_a_client_that_goes_away_leaves_its_place(
    server: Server, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):  # more than there are places
        with server.open() as client:
            begin(client)
            client.send(pcm(speak("abc", 1)))
            client.recv(WAIT_SECONDS)
            client.send(bytes(8001))
            if how == "vanishes":
                client.socket.shutdown(socket.SHUT_RDWR)
        server.wait_until_free()
    of_client = "websockets.client"  # ours, whose own line was cut
    assert not [item for item in caplog.records if item.exc_info and item.name != of_client]
    test_partial_texts_come_before_the_end(server)


def test_a_silent_client_is_sent_away(tmp_path: Path) -> None:
    student = load_served(put_exported(streaming_student(), tmp_path, "onnx"))
    with serving(student, idle=0.4) as server, server.open() as client:
        begin(client)
        start = time.monotonic()
        (error,) = answers(client)
        assert 0.3 < time.monotonic() - start < 5
        expected = 'stream: nothing came for 0.4 s, expected audio or {"end": true}; connect again'
        assert error == {"error": expected}


def test_messages_without_a_sample_keep_no_place(tmp_path: Path) -> None:
    student = load_served(put_exported(streaming_student(), tmp_path, "onnx"))
    limits = LIMITS.model_copy(update={"max_seconds": 0.5})
    with serving(student, limits, idle=0.5) as server, server.open() as client:
        begin(client)
        with suppress(ConnectionClosed):
            for _ in range(100):
                client.send(b"")
                time.sleep(0.05)
        (error,) = answers(client)
        assert error["error"].startswith("stream: open for 1 s, expected its end before")
        server.wait_until_free()


def test_a_page_without_an_address_is_refused(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus, match="403"), server.open(origin="http://["):
        pass
    assert not [record for record in caplog.records if record.exc_info]


def test_a_long_hot_word_is_not_repeated(server: Server) -> None:
    with server.open() as client:
        begin(client, {**BEGIN, "hot_words": ["z" * 4000]})
        (error,) = answers(client)
        assert len(error["error"]) < 300


def test_a_failure_says_no_more_than_that(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("secret")

    monkeypatch.setattr("flows.servers.streaming._push", fail)
    with server.open() as client:
        begin(client)
        client.send(bytes(800))
        assert answers(client) == [{"error": FAILED}]
        assert client.close_code == 1011
    assert "secret" in caplog.text
    server.wait_until_free()
