"""How many requests `make serve` answers, how long they wait, and where the time goes.

    python -m benchmarks.serve --workspace DIR [--recordings FOLDER] [--requests 130] [--rounds 3]

The server is that of `make serve` for the workspace's champion, on a free port. Each client sends
a recording, waits for its text and sends the next one, over one connection: those of the
workspace's test split, or of a folder. One, 8 and 32 clients take their turn in each round, and
figures are medians over rounds:

- requests answered per second;
- latency, from sending a request to having read its answer: of 50, 95 and 99 % of requests;
- CPU time of the server per second of audio, and the most memory that it ever held;
- errors: answers other than 200, broken connections, and texts other than those of `transcribe`.

The clients are threads of one process on the same machine. Then, without a server and on one
thread, the CPU time of the parts of a request; what one call of the network for several recordings
would save, padded to the longest, and how many texts that would change; and what a second thread of
NumPy's would cost. Rows go to benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import psutil
import soundfile
from threadpoolctl import threadpool_limits

from benchmarks.common import ROOT, paired_medians, report, row
from distillery.data.audio import find_audio, load_audio, to_int16
from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED
from distillery.errors import DistilleryError
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import RegistryParams
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.serve.served import load_served
from distillery.serve.texts import text_of
from distillery.tracking.store import Tracking
from distillery.tracking.versions import checked_folder, uri_of
from flows.servers import server

CLIENTS = (1, 8, 32)
START_SECONDS, ANSWER_SECONDS = 600.0, 600.0
"""Patience, on a machine with other work."""
READY = "answers until Ctrl-C"
PERCENTILES = (50, 95, 99)
BATCH_CLIPS, MAX_PART_CLIPS = 8, 24


@dataclass(frozen=True)
class Clip:
    """A request, ready to be sent, and the seconds of audio in it."""

    body: bytes
    seconds: float

    @classmethod
    def of(cls, recording: bytes) -> Clip:
        """Make a request of a recording's file."""
        seconds = float(soundfile.info(io.BytesIO(recording)).duration)
        audio = base64.b64encode(recording).decode()
        return cls(json.dumps({"inputs": [{"audio_b64": audio}]}).encode(), seconds)

    def waveform(self, sample_rate_hz: int) -> np.ndarray:
        """Return what the server makes of it, `(samples,)`."""
        audio = json.loads(self.body)["inputs"][0]["audio_b64"]
        return load_audio(base64.b64decode(audio, validate=True), sample_rate_hz)


@dataclass(frozen=True)
class Answer:
    """What a client was told of one recording."""

    clip: int
    text: str | None
    """None: there was an error."""
    seconds: float
    """From sending the request to having read the answer."""


@dataclass(frozen=True)
class Round:
    """Clients of one server, and what they cost."""

    answers: Sequence[Answer]
    audio_seconds: float
    wall_seconds: float
    server_cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests answered."""
        return len(self.answers) / self.wall_seconds

    def latency_ms(self, percent: float) -> float:
        """Return the latency that so many percent of the answers do not exceed."""
        return 1000 * float(np.percentile([answer.seconds for answer in self.answers], percent))


class Server:
    """The processes of a server that answers on loopback."""

    def __init__(self, pid: int, port: int) -> None:
        """Take a server that is up."""
        self.port = port
        self.processes = psutil.Process(pid).children(recursive=True)

    @property
    def cpu_seconds(self) -> float:
        """What its processes have used so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(item.user + item.system for item in times)

    @property
    def peak_mib(self) -> float:
        """The most that was resident, summed over its processes."""
        status = [Path(f"/proc/{process.pid}/status").read_text() for process in self.processes]
        lines = [line for text in status for line in text.splitlines() if "VmHWM" in line]
        return sum(int(line.split()[1]) for line in lines) / 1024


def clips_of(workspace: Path, folder: Path | None) -> list[Clip]:
    """Return the recordings of a folder, or without one of a workspace's test split."""
    if folder is not None:
        return [Clip.of(path.read_bytes()) for path in find_audio(folder)]
    data = PreparedData.open(workspace / PREPARED)
    clips = []
    for item in data.split("test").itertuples():
        file = io.BytesIO()
        samples = to_int16(data.waveform(item))
        soundfile.write(file, samples, data.sample_rate_hz, format="WAV", subtype="PCM_16")
        clips.append(Clip.of(file.getvalue()))
    return clips


@contextmanager
def serving(workspace: Path, *options: str) -> Iterator[Server]:
    """Run `make serve` in a workspace until the block ends."""
    port = server.free_port()
    command = [sys.executable, "-m", "flows.servers.serve", f"--port={port}", *options]
    with tempfile.TemporaryFile("w+") as said:
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            command, cwd=workspace, env=variables, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + START_SECONDS
            while not _has_said(said):
                if child.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise SystemExit(f"make serve does not start: {said.read()}")
                time.sleep(0.1)
            yield Server(child.pid, port)
        finally:
            child.terminate()
            child.wait()


def _has_said(said: Any) -> bool:
    said.seek(0)
    return READY in said.read()


def ask(connection: http.client.HTTPConnection, clip: Clip) -> str | None:
    """Return the text of a recording; None after an error."""
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/invocations", clip.body, headers)
        answer = connection.getresponse()
        content = answer.read()
        return str(json.loads(content)["predictions"][0]) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        connection.close()
        return None


def ask_all(port: int, clips: Sequence[Clip], num_clients: int, num_requests: int) -> list[Answer]:
    """Return the answers to so many requests of so many clients, which begin together."""
    numbers, together = count(), Barrier(num_clients)

    def client() -> list[Answer]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        connection.connect()
        together.wait()
        answers = []
        while (number := next(numbers)) < num_requests:
            clip, start = number % len(clips), time.perf_counter()
            text = ask(connection, clips[clip])
            answers.append(Answer(clip, text, time.perf_counter() - start))
        connection.close()
        return answers

    with ThreadPoolExecutor(num_clients) as threads:
        futures = [threads.submit(client) for _ in range(num_clients)]
        return [answer for future in futures for answer in future.result()]


def measured(served: Server, clips: Sequence[Clip], num_clients: int, num_requests: int) -> Round:
    """Return one round of requests."""
    cpu, start = served.cpu_seconds, time.perf_counter()
    answers = ask_all(served.port, clips, num_clients, num_requests)
    return Round(
        answers,
        sum(clips[answer.clip].seconds for answer in answers),
        time.perf_counter() - start,
        served.cpu_seconds - cpu,
    )


def serving_rows(
    served: Server, clips: Sequence[Clip], texts: Sequence[str], num_requests: int, num_rounds: int
) -> list[dict[str, Any]]:
    """Return the rows about a server that is up.

    Args:
        served: the server.
        clips: what is sent, in turn.
        texts: what `transcribe` says of them.
        num_requests: of all clients together, in each round.
        num_rounds: after one that warms up.
    """
    measured(served, clips, max(CLIENTS), 2 * max(CLIENTS))
    rounds = [
        {clients: measured(served, clips, clients, num_requests) for clients in CLIENTS}
        for _ in range(num_rounds)
    ]
    rows = []
    for clients in CLIENTS:
        found = [turn[clients] for turn in rounds]
        seconds = sum(item.audio_seconds for item in found) / num_rounds
        about = (
            f"medians of {num_rounds} rounds of {num_requests} requests, {seconds:.0f} s of audio; "
            f"{os.cpu_count()} cores with a load of {os.getloadavg()[0]:.0f}"
        )
        figures = [("requests", [item.per_second for item in found], "per s")]
        for percent in PERCENTILES:
            latencies = [item.latency_ms(percent) for item in found]
            figures.append((f"latency, {percent} %", latencies, "ms"))
        costs = [1000 * item.server_cpu_seconds / item.audio_seconds for item in found]
        figures.append(("CPU time of the server", costs, "ms per s of audio"))
        rows += [
            row(f"{clients} clients: {name}", statistics.median(values), unit, None, None, about)
            for name, values, unit in figures
        ]
        errors = sum(answer.text != texts[answer.clip] for item in found for answer in item.answers)
        rows.append(row(f"{clients} clients: errors", errors, "", "none", errors == 0, about))
    about = f"up to {max(CLIENTS)} clients, resident"
    rows.append(row("memory of the server, at most", served.peak_mib, "MiB", None, None, about))
    return rows


def part_rows(
    student: OnnxRecogniser, clips: Sequence[Clip], num_rounds: int
) -> list[dict[str, Any]]:
    """Return the rows about the parts of a request, and about other ways to go.

    Args:
        student: as it is served.
        clips: requests.
        num_rounds: of each part.
    """
    rate = student.sample_rate_hz
    waveforms = [clip.waveform(rate) for clip in clips]
    features = sorted(map(student.extractor, waveforms), key=len)
    heard = [student.run(item[None]) for item in features]
    batches = [features[at : at + BATCH_CLIPS] for at in range(0, len(features), BATCH_CLIPS)]
    padded = [_padded(batch) for batch in batches]
    parts: dict[str, Callable[[], object]] = {
        "JSON, base64 and samples": lambda: [clip.waveform(rate) for clip in clips],
        "features": lambda: [student.extractor(item) for item in waveforms],
        "network, one by one": lambda: [student.run(item[None]) for item in features],
        f"network, {BATCH_CLIPS} at once, padded": lambda: [student.run(item) for item in padded],
        "search": lambda: [text_of(item, student.vocabulary, student.decoder) for item in heard],
    }
    with threadpool_limits(1):
        costs = paired_medians(list(parts.values()), num_rounds)
        (alone,) = paired_medians([lambda: student.transcribe(waveforms)], num_rounds)
    with threadpool_limits(2):
        (beside,) = paired_medians([lambda: student.transcribe(waveforms)], num_rounds)
    count, about = len(clips), f"CPU time, {len(clips)} recordings, median of {num_rounds} rounds"
    named = [*zip(parts, costs, strict=True), ("samples to text", alone)]
    named.append(("samples to text, two threads of NumPy's", beside))
    rows = [row(name, 1000 * cost / count, "ms", None, None, about) for name, cost in named]
    batched = [
        text_of([scores[: len(one[0])]], student.vocabulary, student.decoder)
        for scores, one in zip(
            (scores for batch in padded for scores in student.run(batch)), heard, strict=True
        )
    ]
    texts = [text_of(item, student.vocabulary, student.decoder) for item in heard]
    changed = sum(one != other for one, other in zip(texts, batched, strict=True))
    named_changed = "texts that change where the network hears padding"
    return [*rows, row(named_changed, changed, "", None, None, f"of {count}")]


def _padded(batch: Sequence[np.ndarray]) -> np.ndarray:
    """Return features `(feature_frames, mels)` as one array, zeros behind the shorter ones."""
    longest = max(map(len, batch))
    return np.stack([np.pad(item, ((0, longest - len(item)), (0, 0))) for item in batch])


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--recordings", type=Path)
    parser.add_argument("--requests", type=int, default=130)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        settings = RegistryParams.load(options.workspace / PARAMS_FILE).register
        tracking = Tracking(settings, options.workspace.resolve())
        folder = checked_folder(tracking, uri_of(settings.model_name, None))
    except DistilleryError as error:
        print(f"no champion to serve, nothing is measured: {error}")
        return
    student = load_served(folder)
    clips = clips_of(options.workspace, options.recordings)
    texts = [student.transcribe([clip.waveform(student.sample_rate_hz)])[0] for clip in clips]
    with serving(options.workspace) as served:
        rows = serving_rows(served, clips, texts, options.requests, options.rounds)
    if isinstance(student, OnnxRecogniser):
        some = clips[:: -(-len(clips) // MAX_PART_CLIPS)]
        rows += part_rows(student, some, options.rounds)
    report("serve", rows)


if __name__ == "__main__":
    main()
