"""The champion over HTTP: one real server, the documented curl line, and what it must refuse."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from benchmarks import serve as bench
from distillery.data.audio import load_audio
from distillery.errors import ModelError, StageError, TrackingError
from distillery.models.recogniser import Recogniser
from distillery.params.register import RegisterParams
from distillery.params.whole import Params
from distillery.register.aliases import promote, read_aliases, rollback
from distillery.tracking.store import Tracking
from distillery.tracking.versions import (
    BUNDLE_TAG,
    CHAMPION,
    Candidate,
    register_version,
    version_folder,
    version_of,
)
from flows.fetch import fetch_teacher
from flows.servers import serve, server
from tests.attacks import Payload
from tests.pipeline.conftest import ROOT, environment
from tests.pipeline.on_air import END_SECONDS, OnAir, on_air
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.tiny_students import talking_student

MAX_SECONDS, MAX_BYTES = 5.0, 2_000_000
NUM_CLIENTS = 32
REGISTER = {
    "experiment": "tiny",
    "model_name": "tiny",
    "serve_limits": {"max_seconds": MAX_SECONDS, "max_bytes": MAX_BYTES},
}


@dataclass
class Served(OnAir):
    """A champion on the air, and the student that it was made from."""

    student: Recogniser


def put_champion(root: Path) -> Recogniser:
    """Register a small student with random weights as the champion of a new workspace."""
    student = talking_student()
    folder = root / "models/students/crnn/seed-0"
    folder.mkdir(parents=True)
    student.save(folder)
    write_params(put_mlflow(root), tiny_params(register=REGISTER))
    settings = RegisterParams.model_validate(REGISTER)
    tracking = Tracking(settings, root)
    candidate = candidate_of(tracking, folder, seed=0)
    number = register_version(tracking, "tiny", candidate, settings.serve_limits)
    tracking.client.set_registered_model_alias("tiny", CHAMPION, number)
    return student


def candidate_of(tracking: Tracking, folder: Path, seed: int) -> Candidate:
    """Return a student that may become a version."""
    return Candidate(
        name="crnn",
        seed=seed,
        folder=folder,
        md5=f"{seed}" * 32,
        run=tracking.create_run("crnn", {}),
        description="a student",
        tags={},
        test_digest="t" * 64,
        test_wer=0.2,
        valid_wer=0.2,
        num_parameters=1000,
    )


WITNESSES = ("by-pickle", "by-code", "by-package")


def put_traps(root: Path) -> None:
    """Do what somebody may who writes into the registry: put code beside the champion's weights."""
    (mlmodel,) = (root / "mlartifacts").rglob("MLmodel")
    folder = mlmodel.parent
    by_pickle, by_code, by_package = (root / name for name in WITNESSES)
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Payload(by_pickle)))
    (folder / "artifacts/python_model.pkl").write_bytes(pickle.dumps(Payload(by_pickle)))
    make = "\nimport os; os.makedirs({!r}, exist_ok=True)\n"
    for path, witness in (
        (folder / "serving_model.py", by_code),
        (folder / "code/distillery/__init__.py", by_package),
    ):
        path.write_text(path.read_text() + make.format(str(witness)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("serve")
    student = put_champion(root)
    put_traps(root)
    soundfile.write(root / "sample.wav", speak("ab cab", 1), RATE_HZ)
    with on_air(root) as found:
        yield Served(found.root, found.port, found.process, student)


def wav(samples: np.ndarray, rate: int = RATE_HZ, kind: str = "WAV") -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return base64.b64encode(buffer.getvalue()).decode()


def clips(*audio: str) -> dict[str, Any]:
    return {"inputs": [{"audio_b64": item} for item in audio]}


def documented_block() -> str:
    (block,) = [
        code
        for code in re.findall(
            r"```bash\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL
        )
        if "/invocations" in code
    ]
    return block


def test_the_documented_curl_line_transcribes_a_real_recording(served: Served) -> None:
    block = documented_block()
    command = block.replace("127.0.0.1:5001", f"127.0.0.1:{served.port}")
    assert command != block
    done = subprocess.run(
        ["sh", "-ec", command], cwd=served.root, capture_output=True, text=True, check=True
    )
    expected = served.student.transcribe([load_audio(served.root / "sample.wav", RATE_HZ)])
    assert expected[0]
    assert json.loads(done.stdout) == {"predictions": expected}
    printed = " ".join(served.said.split())
    assert " ".join(command.split()) in printed  # make serve says the same line


def test_flac_and_other_rates_are_heard_and_order_is_kept(served: Served) -> None:
    first, second = speak("ab", 2), speak("cab cc", 3)
    status, body = served.ask(clips(wav(first, kind="FLAC"), wav(second)))
    heard = [np.rint(item * 32768).astype(np.int16) / np.float32(32768) for item in (first, second)]
    assert status == 200
    assert json.loads(body)["predictions"] == [
        served.student.transcribe([item.astype(np.float32)])[0] for item in heard
    ]
    for rate in (44100, 44101):
        assert served.ask(clips(wav(np.zeros(rate, np.int16), rate)))[0] == 200


def test_words_and_other_texts_come_where_they_are_asked_for(served: Served) -> None:
    audio = wav(speak("ab cab", 1))
    asked = {"audio_b64": audio, "words": True, "n_best": 2}
    hot = {"audio_b64": audio, "hot_words": ["cc=9"]}
    status, body = served.ask({"inputs": [{"audio_b64": audio}, asked, hot]})
    assert status == 200, body
    plain, timed, helped = json.loads(body)["predictions"]
    assert helped and isinstance(helped, str)
    assert timed["text"] == plain
    assert " ".join(word["text"] for word in timed["words"]) == plain
    assert timed["n_best"][0]["text"] == plain and len(timed["n_best"]) == 2
    assert json.loads(served.ask(clips(audio))[1]) == {"predictions": [plain]}


GOOD = wav(speak("ab", 2))
REFUSED = {
    "an empty list": (clips(), "inputs: holds no clips, expected one or more"),
    "no base64": (clips("!!"), "clip 0: audio_b64 is not base64"),
    "no recording": (clips(GOOD, base64.b64encode(b"hello").decode()), "clip 1: cannot be decoded"),
    "nothing": (clips(""), "clip 0: holds 0 bytes; expected a recording"),
    "no samples": (clips(wav(np.zeros(0, np.int16))), "clip 0: holds no samples"),
    "too long": (
        clips(wav(np.zeros(6 * RATE_HZ, np.int16), kind="FLAC")),
        "clip 0: longer than 5 s, expected that at most",
    ),
    "too long together": (
        clips(*[wav(np.zeros(3 * RATE_HZ, np.int16))] * 3),
        "inputs: 6 s of audio up to clip 1, expected 5 at most in one request; send fewer clips",
    ),
    "too many bytes": (
        clips("A" * 3_000_000),
        "inputs: recordings of 2250000 bytes, expected 2000000 at most in one request",
    ),
    "many channels": (
        clips(wav(np.zeros((80, 9), np.int16))),
        "clip 0: 9 channels, expected 8 at most",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_transcribed_is_refused_with_a_reason(served: Served, case: str) -> None:
    body, reason = REFUSED[case]
    status, answer = served.ask(body)
    assert status == 400
    assert json.loads(answer)["message"].startswith(reason)
    assert len(answer) < 1000  # the input does not come back


@pytest.mark.parametrize("num_bytes", [4_000_000, 50_000_000])
def test_a_request_that_is_too_long_is_refused(served: Served, num_bytes: int) -> None:
    status, answer = served.ask(clips("A" * num_bytes))
    assert status == 413
    assert "register.serve_limits.max_bytes" in json.loads(answer)["message"]
    assert len(answer) < 1000


def raw(served: Served, head: str, *pieces: bytes) -> tuple[str, float]:
    """Return the answer to what is sent over a plain connection, and the seconds it took."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        first = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}"
        connection.sendall(f"{first}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        return connection.recv(65536).decode(), time.monotonic() - start


def test_a_length_that_is_too_much_is_refused_before_anything_comes(served: Served) -> None:
    answer, seconds = raw(served, f"Content-Length: {10**12}")
    assert answer.startswith("HTTP/1.1 413")
    assert seconds < 5


def test_pieces_without_end_are_refused_at_the_limit(served: Served) -> None:
    piece = b"10000\r\n" + b"A" * 65536 + b"\r\n"
    answer, _ = raw(served, "Transfer-Encoding: chunked", *[piece] * 200)
    assert answer.startswith("HTTP/1.1 413")
    assert "AAAA" not in answer


NONSENSE = "AzR9" * 250_000  # a megabyte


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"RIFF....", "audio/wav", 415),
        (NONSENSE.encode(), "text/csv", 415),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (NONSENSE.encode(), "application/json", 400),
        (b"\xff\xfe" + NONSENSE.encode("utf-16"), "application/json", 400),
        ([NONSENSE], "application/json", 400),
        ({"audio_b64": NONSENSE}, "application/json", 400),
        ({NONSENSE: 1}, "application/json", 400),
        ({"clips": []}, "application/json", 400),
        ({"inputs": NONSENSE}, "application/json", 400),
        ({"inputs": [NONSENSE]}, "application/json", 400),
        ({"inputs": [[NONSENSE]]}, "application/json", 400),
        ({"inputs": [{NONSENSE: 1}]}, "application/json", 400),
        ({"inputs": [{"file": "/etc/passwd"}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": 3}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": "", "words": 1}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": "", "n_best": "3"}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": "", "hot_words": [3]}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": [NONSENSE]}]}, "application/json", 400),
        ({"inputs": [{"audio_b64": NONSENSE}]}, "application/json", 400),
        ({"dataframe_split": {"data": [NONSENSE]}}, "application/json", 400),
    ],
)
def test_other_forms_are_refused_in_a_short_answer(
    served: Served, body: Any, content_type: str, expected: int
) -> None:
    status, answer = served.ask(body, content_type)
    assert status == expected
    assert json.loads(answer)["message"]
    assert len(answer) < 1000
    assert "root:" not in answer and "AzR9" not in answer


def test_nothing_that_lies_beside_a_registered_students_weights_is_run(served: Served) -> None:
    """The server is up, on a champion whose code and pickles are an attacker's."""
    test_the_documented_curl_line_transcribes_a_real_recording(served)
    command = [sys.executable, "-m", "distillery.commands.main", "transcribe", "sample.wav"]
    settings = {"cwd": served.root, "env": {**environment(served.root), "PYTHONPATH": str(ROOT)}}
    done = subprocess.run(command, check=True, capture_output=True, text=True, **settings)
    assert done.stdout.startswith("sample.wav\t")
    values = tiny_params(register=REGISTER)
    values["teacher"] = {"kind": "registry", "model": "models:/tiny@champion"}
    params = Params.model_validate(values)
    assert "version 1, fetched" in fetch_teacher(served.root, params, served.root / "taken")[0]
    assert not [name for name in WITNESSES if (served.root / name).exists()]
    # The traps are real: MLflow by itself falls into those that it knows.
    code = "import mlflow; mlflow.pyfunc.load_model('models:/tiny@champion')"
    command = [sys.executable, "-c", code]
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{served.root}/mlflow.db"}
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd=served.root,
        env={**environment(served.root), **uri},
    )
    assert (served.root / "by-code").exists()


def test_the_benchmark_counts_what_many_clients_are_told(served: Served) -> None:
    """As `benchmarks.serve` does; sizes say nothing about speed."""
    found = bench.Server(served.process.pid, served.port)
    recordings = [base64.b64decode(wav(speak(text, 1))) for text in ("ab cab", "cab", "a")]
    asked = [bench.Clip.of(recording) for recording in recordings]
    texts = [served.student.transcribe([clip.waveform(RATE_HZ)])[0] for clip in asked]
    rows = {row["name"]: row for row in bench.serving_rows(found, asked, texts, 40, 1)}
    assert {f"{clients} clients: requests" for clients in bench.CLIENTS} <= rows.keys()
    assert all(row["value"] > 0 for name, row in rows.items() if "errors" not in name)
    assert all(row["holds"] is True for name, row in rows.items() if "errors" in name)
    wrong = [*texts[:2], "another text"]
    rows = {row["name"]: row for row in bench.serving_rows(found, asked, wrong, 9, 1)}
    assert rows["1 clients: errors"]["value"] == 3
    assert not rows["1 clients: errors"]["holds"]


def test_numpy_has_one_thread_for_a_request(served: Served) -> None:
    processes = psutil.Process(served.process.pid).children(recursive=True)
    assert {item.environ().get("OPENBLAS_NUM_THREADS") for item in processes} == {"1"}


def test_champions_may_change_under_a_server(served: Served) -> None:
    """It serves the one that it was started with; and there is a champion at any moment."""
    tracking = Tracking(RegisterParams.model_validate(REGISTER), served.root)
    settings = RegisterParams.model_validate(REGISTER)
    expected = served.ask(clips(GOOD))
    assert expected[0] == 200
    other = served.root / "models/students/crnn/seed-1"
    shutil.copytree(served.root / "models/students/crnn/seed-0", other)
    found = candidate_of(tracking, other, seed=1)
    assert register_version(tracking, "tiny", found, settings.serve_limits) == "2"
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        own = Tracking(settings, served.root)
        while not over.is_set():
            seen.append(str(version_of(own, f"models:/tiny@{CHAMPION}").version))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        promote(tracking, "tiny", "2")
        for _ in range(4):
            assert served.ask(clips(GOOD)) == expected
            rollback(tracking, "tiny")
    finally:
        over.set()
        looking.join()
    assert set(seen) == {"1", "2"}
    assert read_aliases(tracking, "tiny").champion == "2"
    promote(tracking, "tiny", "1")
    tracking.client.delete_model_version("tiny", "2")
    artifacts = served.root / "mlartifacts"
    artifacts.rename(served.root / "gone")
    try:
        assert served.ask(clips(GOOD)) == expected
    finally:
        (served.root / "gone").rename(artifacts)


def outcome(served: Served) -> int:
    """Return the status of an answer; 0: the server did not take the request."""
    try:
        return served.ask(clips(GOOD))[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_the_server_outlives_all_that_and_ends_with_its_whole_group(served: Served) -> None:
    """Also while many ask."""
    test_the_documented_curl_line_transcribes_a_real_recording(served)
    with pytest.raises(StageError, match=f"port {served.port} .*make serve SERVE_PORT="):
        serve.serve(served.root, "127.0.0.1", served.port, None)
    with socket.socket() as outside:  # on loopback alone
        outside.settimeout(2)
        assert outside.connect_ex((own_address(), served.port)) != 0
    with ThreadPoolExecutor(NUM_CLIENTS) as threads:
        asking = [threads.submit(outcome, served) for _ in range(NUM_CLIENTS)]
        asking[0].result()
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(END_SECONDS) == 0
        assert {one.result() for one in asking} <= {200, 503, 0}
    assert server.is_free(served.port)
    assert not list((served.root / "scratch").glob("serve-*"))


def own_address() -> str:
    """Return an address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


def test_a_damaged_champion_is_not_served(served: Served) -> None:
    tracking = Tracking(RegisterParams.model_validate(REGISTER), served.root)
    bundle, _ = version_folder(tracking, "models:/tiny/1")
    weights = bundle / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match="model.safetensors: SHA-256"):
            serve.serve(served.root, "127.0.0.1", server.free_port(), None)
    finally:
        weights.write_bytes(content)
    tag = tracking.client.get_model_version("tiny", "1").tags[BUNDLE_TAG]
    tracking.client.delete_model_version_tag("tiny", "1", BUNDLE_TAG)
    try:
        with pytest.raises(TrackingError, match=r"models:/tiny/1: bears no tag bundle\.sha256"):
            serve.serve(served.root, "127.0.0.1", server.free_port(), None)
    finally:
        tracking.client.set_model_version_tag("tiny", "1", BUNDLE_TAG, tag)
    with pytest.raises(TrackingError, match="models:/tiny@nobody: not in the registry"):
        serve.serve(served.root, "127.0.0.1", server.free_port(), "models:/tiny@nobody")


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(map(serve.is_loopback, ("127.0.0.1", "::1", "localhost", "127.1.2.3")))
    assert not any(map(serve.is_loopback, ("0.0.0.0", "192.168.0.1", "example.org")))


def test_addresses_of_both_kinds_make_urls_that_this_machine_reaches() -> None:
    assert serve.url_of("0.0.0.0", 5001) == "http://127.0.0.1:5001"
    assert serve.url_of("::", 5001) == serve.url_of("::1", 5001) == "http://[::1]:5001"
    assert serve.url_of("example.org", 80) == "http://example.org:80"
