"""Teacher kind `endpoint`, against a real HTTP server that fails in all usual ways."""

from __future__ import annotations

import contextlib
import email
import email.policy
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distillery.data.manifest import PreparedData, audio_key
from distillery.errors import ModelError, ParamsError
from distillery.models.fingerprint import read_fingerprint
from distillery.params.whole import Params
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.endpoint import EndpointTeacher
from distillery.teachers.endpoint_client import Asked, EndpointClient
from distillery.teachers.kinds import load_teacher
from distillery.teachers.responses import Service
from tasks.cache import cache
from tasks.teacher import teacher
from tests.tiny import ROOT, tiny_params, write_params

KEY = "sk-canary-5EC2E7"
VARIABLE = "TEST_SPEECH_KEY"
TONE = np.sin(np.arange(1600, dtype=np.float32) / 9).astype(np.float32) / 2


@dataclass
class Fault:
    """One answer that is none."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    sleep_seconds: float = 0.0
    cut: bool = False
    """Promise more bytes than come."""


@dataclass
class Speech:
    """A service that knows the texts of recordings by audio key."""

    texts: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    """Come first, one a request."""
    verbose: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    fields: list[dict[str, str]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def answer(self, form: dict[str, bytes], key: str) -> Fault:
        with self.lock:
            self.asked[key] += 1
            self.fields.append({n: v.decode() for n, v in form.items() if n != "file"})
            if self.faults:
                return self.faults.pop(0)
        time.sleep(0.01)  # so that requests overlap
        if form["response_format"] == b"verbose_json" and not self.verbose:
            said = b'{"error": {"message": "response_format verbose_json is not supported"}}'
            return Fault(400, said)
        text = self.texts.get(key, "abc")
        content: dict[str, Any] = {"text": f" {text.capitalize()}."}
        if form["response_format"] == b"verbose_json":
            content["segments"] = [{"start": 0, "end": 1, "text": text, "avg_logprob": -0.1}]
        return Fault(body=json.dumps(content).encode())


def handler_of(speech: Speech) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with speech.lock:
                speech.running += 1
                speech.most_running = max(speech.running, speech.most_running)
                speech.keys.add(self.headers["Authorization"])
                speech.paths.add(self.path)
            try:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                parts = email.message_from_bytes(head + body, policy=email.policy.HTTP)
                form = {
                    str(part.get_param("name", header="content-disposition")): part.get_payload(
                        decode=True
                    )
                    for part in parts.iter_parts()
                }
                samples, _ = soundfile.read(io.BytesIO(form["file"]), dtype="int16")
                self.give(speech.answer(form, audio_key(samples)))
            finally:
                with speech.lock:
                    speech.running -= 1

        def give(self, fault: Fault) -> None:
            time.sleep(fault.sleep_seconds)
            self.send_response(fault.status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(fault.body) + 10 * fault.cut))
            with contextlib.suppress(OSError):  # who asked has gone
                self.end_headers()
                self.wfile.write(fault.body)
            if fault.cut:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def speech(monkeypatch: pytest.MonkeyPatch) -> Iterator[Speech]:
    """A running service, and the key that it is asked with."""
    monkeypatch.setenv(VARIABLE, KEY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    served = Speech()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(served))
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()


@dataclass
class Asking:
    """A client that notes how long it would have waited."""

    client: EndpointClient
    waits: list[float]

    def __call__(self) -> Any:
        return self.client.ask(audio_key(np.zeros(1, np.int16)), TONE, 8000)


@pytest.fixture
def ask(speech: Speech) -> Callable[..., Asking]:
    def make(response_format: str = "auto", **service: Any) -> Asking:
        waits: list[float] = []
        asked = Asked(speech.url, "base", language="en", response_format=response_format)
        settings = Service(**{"key_variable": VARIABLE, "max_attempts": 3, **service})
        return Asking(EndpointClient(asked, settings, waits.append), waits)

    return make


# --- one request --------------------------------------------------------------------------------


def test_a_request_says_what_is_wanted(speech: Speech, ask: Callable[..., Asking]) -> None:
    response = ask()()
    assert response.content["text"] == " Abc."
    assert (response.seconds, response.requests) == (0.2, 1)
    assert speech.paths == {"/v1/audio/transcriptions"}
    assert speech.keys == {f"Bearer {KEY}"}
    assert speech.fields == [
        {"model": "base", "response_format": "verbose_json", "temperature": "0", "language": "en"}
    ]
    ask(key_variable=None)()
    assert speech.keys == {f"Bearer {KEY}", None}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://host", "https://host/v1/audio/transcriptions"),
        ("https://host/v1/", "https://host/v1/audio/transcriptions"),
        ("https://host/api/v1", "https://host/api/v1/audio/transcriptions"),
        ("https://host/v1/audio/transcriptions", "https://host/v1/audio/transcriptions"),
    ],
)
def test_the_address_is_found_from_any_part_of_it(url: str, address: str) -> None:
    assert Asked(url, "base").address == address


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, b"slow down"),
        Fault(500),
        Fault(503, b"<html>"),
        Fault(200, b'{"text": "a', cut=True),
        Fault(200, b"<html>gateway</html>"),
        Fault(200, sleep_seconds=0.4),
    ],
    ids=["429", "500", "503", "cut", "no-json", "slow"],
)
def test_what_may_pass_is_tried_again(
    speech: Speech, ask: Callable[..., Asking], fault: Fault
) -> None:
    speech.faults = [fault]
    asking = ask(timeout_seconds=0.2)
    assert asking().requests == 2
    assert len(asking.waits) == 1
    assert 0.5 <= asking.waits[0] <= 1.0


def test_waits_grow_and_retry_after_is_kept(speech: Speech, ask: Callable[..., Asking]) -> None:
    speech.faults = [Fault(500), Fault(500), Fault(500), Fault(429, headers={"Retry-After": "7"})]
    asking = ask(max_attempts=5)
    asking()
    low = [0.5, 1.0, 2.0]
    assert all(a <= wait <= 2 * a for a, wait in zip(low, asking.waits[:3], strict=True))
    assert asking.waits[3] == 7.0
    speech.faults = [Fault(429, headers={"Retry-After": "99999"})]
    asking()
    assert asking.waits[4] == 300.0


def test_in_the_end_it_gives_up_and_says_what_was_wrong(
    speech: Speech, ask: Callable[..., Asking]
) -> None:
    speech.faults = [Fault(500, b"out of memory")] * 3
    with pytest.raises(ModelError, match=r"failed 3 times .* status 500 \(out of memory\)"):
        ask()()
    with pytest.raises(ModelError, match="failed 1 times .* ConnectError"):
        asked = Asked("http://127.0.0.1:9", "base")
        EndpointClient(asked, Service(max_attempts=1)).ask("a", TONE, 8000)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401, f"Incorrect API key: {KEY}".encode()), f"refuses the key in {VARIABLE}"),
        (Fault(404, b"no such model"), r"refuses recording .* with status 404 \(no such model\)"),
        (Fault(413, f"too large for {KEY}".encode()), r"413 \(too large for \*\*\*\)"),
        (Fault(429, b'{"error": {"code": "insufficient_quota"}}'), "the quota is used up"),
        (Fault(302, headers={"Location": "http://127.0.0.1:9"}), "status 302"),
    ],
    ids=["401", "404", "413", "quota", "redirect"],
)
def test_what_does_not_pass_is_asked_once(
    speech: Speech, ask: Callable[..., Asking], fault: Fault, message: str
) -> None:
    speech.faults = [fault]
    asking = ask()
    with pytest.raises(ModelError, match=message) as error:
        asking()
    assert KEY not in str(error.value)
    assert asking.waits == []


def test_a_service_without_verbose_json_is_asked_for_json(
    speech: Speech, ask: Callable[..., Asking], caplog: pytest.LogCaptureFixture
) -> None:
    speech.verbose = False
    asking = ask()
    assert asking().content == {"text": " Abc."}
    asking()
    formats = [form["response_format"] for form in speech.fields]
    assert formats == ["verbose_json", "json", "json"]
    assert "gives no verbose_json, so its texts come without confidence" in caplog.text
    with pytest.raises(ModelError, match="status 400"):
        ask("verbose_json")()


@pytest.mark.parametrize("value", [None, " ", "schlüssel"])
def test_a_key_that_is_none_is_named_by_its_variable(
    ask: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ModelError, match=f"environment variable {VARIABLE} ") as error:
        ask()()
    assert "schl" not in str(error.value)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_variable": KEY}, r"teacher\.key_variable: String should match"),
        ({"url": "ftp://host"}, r"teacher\.url: String should match"),
        ({"url": "http://host.example", "key_variable": "MY_KEY"}, "would travel readable"),
        ({"api_key": KEY}, r"teacher\.api_key: unknown setting"),
    ],
)
def test_unfit_settings_are_refused_and_no_key_is_repeated(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    settings = tiny_params()
    settings["teacher"] = {"kind": "endpoint", "url": "https://host", "model": "base", **change}
    write_params(tmp_path, settings)
    with pytest.raises(ParamsError, match=message) as error:
        Params.load(tmp_path / "params.yaml")
    assert KEY not in str(error.value)


# --- the stages ---------------------------------------------------------------------------------


@pytest.fixture
def root(prepared: Path, speech: Speech) -> Path:
    """A workspace whose teacher is the service, which is always right."""
    data = PreparedData.open(prepared / "data/prepared")
    speech.texts = dict(zip(data.frame["audio_key"], data.frame["text"], strict=True))
    settings = tiny_params(cache={"speed_factors": [0.9], "audit_utterances": 3, "payload": {}})
    settings["teacher"] = {
        "kind": "endpoint",
        "url": speech.url,
        "model": "base",
        "key_variable": VARIABLE,
        "parallel": 2,
        "price_per_minute": 0.6,
    }
    settings["distill"]["objective"] = {"frame": {"weight": 0.0}}
    write_params(prepared, settings)
    return prepared


def test_each_recording_is_paid_for_once_and_the_cost_is_told(
    root: Path, speech: Speech, caplog: pytest.LogCaptureFixture
) -> None:
    data = PreparedData.open(root / "data/prepared")
    train, valid = data.split("train"), data.split("valid")
    with caplog.at_level(logging.INFO):
        teacher(root)
        assert json.loads((root / "models/teacher/validation.json").read_text()) == {"wer": 0.0}
        assert set(speech.asked) == set(valid["audio_key"])
        cache(root)  # copies at another speed, and the audit, ask for nothing more
    assert speech.asked == Counter({*train["audio_key"], *valid["audio_key"]})
    assert speech.most_running == 2
    store = TeacherCache.open_current(root / "data/teacher_cache")
    rows = store.rows(list(train["audio_key"]))
    assert store.greedy_texts(rows) == list(train["text"])
    assert np.allclose(store.confidences(rows), np.exp(-0.1))
    cost = json.loads((root / "reports/cache.json").read_text())["service"]
    seconds = float(train["duration_seconds"].sum())
    everything = seconds + float(valid["duration_seconds"].sum())
    assert cost["requests"] == len(train)
    assert cost["seconds_sent"] == pytest.approx(seconds)
    assert cost["price"] == pytest.approx(seconds / 100)
    assert cost["price_so_far"] == pytest.approx(everything / 100)
    assert f"service: {len(train)} requests, {seconds:.0f} s of audio sent" in caplog.text
    cache(root)
    assert json.loads((root / "reports/cache.json").read_text())["service"]["requests"] == 0
    held = [path for path in root.rglob("*") if path.is_file() and KEY in str(path.read_bytes())]
    assert held == []
    assert KEY not in caplog.text


def test_what_was_answered_before_a_fault_is_not_asked_again(root: Path, speech: Speech) -> None:
    teacher(root)
    before = sum(speech.asked.values())
    broken = speech.answer

    def fails_later(form: dict[str, bytes], key: str) -> Fault:
        if sum(speech.asked.values()) >= before + 3:
            return Fault(400, b"no more")
        return broken(form, key)

    speech.answer = fails_later  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"status 400 \(no more\)"):
        cache(root)
    speech.answer = broken  # type: ignore[method-assign]
    cache(root)
    assert set(speech.asked.values()) == {1}


def test_a_killed_pass_sends_nothing_again_that_was_answered(root: Path, speech: Speech) -> None:
    teacher(root)
    held, answer = threading.Event(), speech.answer
    before = sum(speech.asked.values())

    def stalls(form: dict[str, bytes], key: str) -> Fault:
        if sum(speech.asked.values()) >= before + 2:
            speech.asked[key] += 1
            held.set()
            return Fault(500, sleep_seconds=1.0)
        return answer(form, key)

    speech.answer = stalls  # type: ignore[method-assign]
    killed = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; from tasks.cache import cache; cache(Path())",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert held.wait(timeout=60)
        time.sleep(0.2)  # what was answered before is on disk
    finally:
        killed.kill()
        killed.wait()
    kept = {path.stem for path in (root / "scratch/responses").glob("*/*/*.json")}
    assert len(kept) == before + 2
    speech.answer = answer  # type: ignore[method-assign]
    cache(root)
    assert {key for key, times in speech.asked.items() if times > 1}.isdisjoint(kept)
    train = PreparedData.open(root / "data/prepared").split("train")
    assert set(train["audio_key"]) <= set(speech.asked)


def test_an_answer_of_another_kind_is_named_and_not_kept(root: Path, speech: Speech) -> None:
    for body in (b'["a"]', b'{"words": 3}', b'{"text": 3}'):
        speech.faults = [Fault(200, body)] * 20
        with pytest.raises(ModelError, match="for recording [0-9a-f]{12}.*expected"):
            teacher(root)
        speech.faults = []
    teacher(root)


def test_what_is_asked_for_is_the_fingerprint_and_how_is_not(root: Path, speech: Speech) -> None:
    def fingerprint_with(**changes: Any) -> str:
        settings = tiny_params()
        settings["teacher"] = {"kind": "endpoint", "url": speech.url, "model": "base", **changes}
        write_params(root, settings)
        teacher(root)
        return read_fingerprint(root / "models/teacher").fingerprint

    first = fingerprint_with(key_variable=VARIABLE)
    how = {"parallel": 7, "price_per_minute": 1.0, "max_attempts": 2, "timeout_seconds": 9}
    assert fingerprint_with(**how) == first
    others = [
        fingerprint_with(**{name: "x"}) for name in ("model", "language", "prompt", "version")
    ]
    assert len({first, *others}) == 5


def test_a_saved_teacher_asks_for_the_key_when_it_needs_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher(root)
    monkeypatch.delenv(VARIABLE)
    live = load_teacher(root / "models/teacher")
    assert isinstance(live, EndpointTeacher)
    assert 0 < live.real_time_factor < 10
    data = PreparedData.open(root / "data/prepared")
    row = next(data.split("valid").itertuples())
    assert live.transcribe([data.waveform(row)]) == [row.text]  # answered before
    with pytest.raises(ModelError, match=f"environment variable {VARIABLE} is not set"):
        live.transcribe([TONE])
    with pytest.raises(ModelError, match=f"environment variable {VARIABLE} is not set"):
        teacher(root)
    assert VARIABLE not in os.environ
