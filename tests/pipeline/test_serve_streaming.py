"""A champion that streams, on the air: `make serve`'s own process, and the documented client."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
from websockets.sync.client import connect

from distillery.data.audio import load_audio
from distillery.params.register import RegisterParams
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.served import Served, load_served
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION, register_version
from flows.servers import server
from tests.pipeline.conftest import ROOT, environment
from tests.pipeline.on_air import END_SECONDS, OnAir, on_air
from tests.pipeline.test_serve import REGISTER, candidate_of, clips, wav
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.tiny_students import put_exported, streaming_student

WAIT_SECONDS = 20


@pytest.fixture(scope="module")
def on_stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnAir]:
    root = tmp_path_factory.mktemp("streaming")
    streaming_student(3).save(_made(root / "models/students/stream/seed-0"))
    exported = put_exported(streaming_student(3), root / "exported", "onnx")
    write_params(put_mlflow(root), tiny_params(register=REGISTER))
    settings = RegisterParams.model_validate(REGISTER)
    tracking = Tracking(settings, root)
    candidate = replace(
        candidate_of(tracking, root / "models/students/stream/seed-0", seed=0),
        served=Served("onnx", files={MODEL_FILES["onnx"]: exported / MODEL_FILES["onnx"]}),
    )
    number = register_version(tracking, "tiny", candidate, settings.serve_limits)
    tracking.client.set_registered_model_alias("tiny", CHAMPION, number)
    soundfile.write(root / "sample.wav", speak("abc cab ba", 3), RATE_HZ, "PCM_16")
    with on_air(root) as found:
        yield found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def expected_text(root: Path) -> str:
    student = load_served(root / "exported")
    return student.transcribe([load_audio(root / "sample.wav", RATE_HZ)])[0]


def documented_client() -> str:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text("utf-8"), re.DOTALL
    )
    (block,) = [code for code in blocks if "/stream" in code]
    return str(block)


def test_the_documented_client_sees_the_text_grow(on_stream: OnAir) -> None:
    code = documented_client().replace("127.0.0.1:5001", f"127.0.0.1:{on_stream.port}")
    assert code != documented_client()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=on_stream.root,
        env={**environment(on_stream.root), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    *partial, final = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    text = expected_text(on_stream.root)
    assert final == {"text": text, "is_final": True} and text
    assert len(partial) > 3 and not any(item["is_final"] for item in partial)
    # The same as over HTTP, of the same process.
    samples, _ = soundfile.read(on_stream.root / "sample.wav", dtype="int16")
    status, body = on_stream.ask(clips(wav(samples)))
    assert (status, json.loads(body)) == (200, {"predictions": [text]})


def test_settings_limit_streams_as_they_do_requests(on_stream: OnAir) -> None:
    with connect(f"ws://127.0.0.1:{on_stream.port}/stream", proxy=None) as client:
        client.send(json.dumps({"sample_rate_hz": RATE_HZ}))
        client.send(bytes(2 * 6 * RATE_HZ))  # REGISTER allows 5 s
        found: Any = json.loads(client.recv(WAIT_SECONDS))
        while "text" in found:
            found = json.loads(client.recv(WAIT_SECONDS))
    assert found["error"].startswith("stream: longer than 5 s, expected that at most (register.")


def test_pytorch_is_not_loaded(on_stream: OnAir) -> None:
    test_settings_limit_streams_as_they_do_requests(on_stream)
    processes = psutil.Process(on_stream.process.pid).children(recursive=True)
    assert processes
    libraries = {Path(item.path).name for child in processes for item in child.memory_maps()}
    assert any(name.startswith("onnxruntime") for name in libraries)
    assert not [name for name in libraries if name.startswith("libtorch")]


def test_it_ends_while_somebody_speaks(on_stream: OnAir) -> None:
    with connect(f"ws://127.0.0.1:{on_stream.port}/stream", proxy=None) as client:
        client.send(json.dumps({"sample_rate_hz": RATE_HZ}))
        client.send(bytes(1600))
        os.killpg(on_stream.process.pid, signal.SIGINT)
        assert on_stream.process.wait(END_SECONDS) == 0
    assert server.is_free(on_stream.port)
