"""Recordings that grow while they are transcribed: files another process writes, and pipes."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.commands import main as cli
from distillery.data.audio import to_int16
from distillery.errors import AudioError, EmptyAudio
from distillery.serve.following import follow
from distillery.serve.streaming import StreamingRecogniser
from tests.tiny import RATE_HZ, speak
from tests.tiny_students import streaming_student, talking_student

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = to_int16(speak("abc cab ab ba cc bca", 5))
WRITER = """
import sys, wave
path, kind, samples = *sys.argv[1:3], open(sys.argv[3], "rb").read()
if kind == "wav":
    file = wave.open(path, "wb")
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
    write = file.writeframesraw
else:
    file = open(path, "wb", buffering=0)
    write = file.write
for start in range(0, len(samples), 3999):  # odd: samples arrive in halves
    write(samples[start : start + 3999])
    (file._file if kind == "wav" else file).flush()
    print(start, flush=True)
    sys.stdin.readline()  # the reader has it
file.close()
"""


def text_of(samples: np.ndarray) -> str:
    recognition = StreamingRecogniser(streaming_student())
    recognition.push(samples.astype(np.float32) / np.float32(32768), last=True)
    assert recognition.text
    return recognition.text


def heard(source: Path, raw_rate_hz: int | None = None, idle_seconds: float = 0.1) -> np.ndarray:
    """Return all that comes of a source, as int16 `(samples,)`."""
    with follow(str(source), RATE_HZ, raw_rate_hz, idle_seconds) as chunks:
        pieces = list(chunks)
    assert [is_last for _, is_last in pieces] == [False] * (len(pieces) - 1) + [True]
    return to_int16(np.concatenate([piece for piece, _ in pieces]))


@pytest.mark.parametrize("kind", ["wav", "raw"])
def test_a_file_that_another_process_writes_is_followed_to_its_end(
    tmp_path: Path, kind: str
) -> None:
    path, samples = tmp_path / f"growing.{kind}", tmp_path / "samples"
    samples.write_bytes(SAMPLES.tobytes())
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), kind, str(samples)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdout.readline()
    recognition = StreamingRecogniser(streaming_student())
    texts, pieces = [], []
    with follow(str(path), RATE_HZ, RATE_HZ if kind == "raw" else None, 1.0) as chunks:
        for chunk, is_last in chunks:
            recognition.push(chunk, last=is_last)
            texts.append(recognition.text)
            pieces.append(chunk)
            with contextlib.suppress(BrokenPipeError):  # it wrote all
                writer.stdin.write(b"next\n")
                writer.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        writer.stdin.close()
    assert writer.wait() == 0
    writer.stdout.close()
    np.testing.assert_array_equal(to_int16(np.concatenate(pieces)), SAMPLES)
    assert recognition.text == text_of(SAMPLES)
    assert len(set(texts)) > 3  # it grew
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))


def test_a_named_pipe_ends_when_its_writer_closes_it(tmp_path: Path) -> None:
    path, wav = tmp_path / "pipe", io.BytesIO()
    soundfile.write(wav, SAMPLES, RATE_HZ, format="WAV")
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[wav.getvalue()])
    writer.start()
    start = time.monotonic()
    np.testing.assert_array_equal(heard(path, idle_seconds=60.0), SAMPLES)
    assert time.monotonic() - start < 30
    writer.join()


def test_the_command_prints_partial_text_of_standard_input_and_the_rest_at_its_end(
    tmp_path: Path,
) -> None:
    streaming_student().save(tmp_path)
    command = ["transcribe", "--model", str(tmp_path), "--stream", "-", "--rate", str(RATE_HZ)]
    process = subprocess.Popen(
        [sys.executable, "-m", "distillery.commands.main", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    half = len(SAMPLES) // 2
    process.stdin.write(SAMPLES[:half].tobytes())
    process.stdin.flush()
    partial = b""
    while select.select([process.stdout], [], [], 60 if not partial else 0.5)[0]:
        partial += os.read(process.stdout.fileno(), 1000)
    final = text_of(SAMPLES)
    assert partial and b"\n" not in partial
    assert final.startswith(partial.decode()) and partial.decode() != final
    process.stdin.write(SAMPLES[half:].tobytes())
    process.stdin.close()
    assert (partial + process.stdout.read()).decode() == f"{final}\n"
    assert process.wait() == 0
    process.stdout.close()


def test_a_finished_file_is_heard_without_what_follows_its_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "a.wav", tmp_path / "model"
    soundfile.write(path, SAMPLES, RATE_HZ)
    content = bytearray(path.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    content[4:8] = struct.pack("<I", len(content) - 8)
    path.write_bytes(content)
    np.testing.assert_array_equal(heard(path), SAMPLES)
    model.mkdir()
    streaming_student().save(model)
    arguments = ["transcribe", "--model", str(model), "--stream", str(path), "--idle", "0.1"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{text_of(SAMPLES)}\n"


@pytest.mark.parametrize("size", [0, 1998, 0x7FFFFFC4, 0xFFFFFFFF])
def test_a_header_that_does_not_know_its_size_is_no_end(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, RATE_HZ)
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", min(36 + size, 0xFFFFFFFF))
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    np.testing.assert_array_equal(heard(path), SAMPLES)


def test_chunks_before_the_samples_and_several_channels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([SAMPLES, SAMPLES], axis=1), RATE_HZ, format="WAVEX")
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"junk" + struct.pack("<I", 3) + b"odd\0" + content[12:])
    np.testing.assert_array_equal(heard(path), SAMPLES)


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(AudioError, match="a.wav: cannot be read: No such file"):
        heard(path)
    path.write_bytes(b"RIF")
    with pytest.raises(AudioError, match="a.wav: ends within its header; expected a WAV file, or"):
        heard(path)
    path.write_bytes(SAMPLES.tobytes())
    with pytest.raises(AudioError, match="expected a WAV file; give --rate HZ if these are raw"):
        heard(path)
    with pytest.raises(AudioError, match="a.wav: at 16000 Hz, expected 8000 Hz, the student's"):
        heard(path, 16000)
    soundfile.write(path, SAMPLES, RATE_HZ, subtype="PCM_24")
    with pytest.raises(AudioError, match="format 1 with 24 bits in 1 channels, expected 16-bit"):
        heard(path)
    soundfile.write(path, SAMPLES[:0], RATE_HZ)
    with pytest.raises(EmptyAudio, match="a.wav: ended without a sample"):
        heard(path)
    path.write_bytes(b"RIFF\0\0\0\0WAVEdata\0\0\0\0")
    with pytest.raises(AudioError, match="does not say how samples are stored"):
        heard(path)
    path.write_bytes(b"RIFF\0\0\0\0WAVEfmt \2\0\0\0\1\0data\0\0\0\0")
    with pytest.raises(AudioError, match="its header is damaged"):
        heard(path)


def test_a_file_that_shrinks_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(SAMPLES.tobytes())
    with (
        pytest.raises(AudioError, match="a.raw: became shorter while it was read; start again"),
        follow(str(path), RATE_HZ, RATE_HZ, 5.0) as chunks,
    ):
        for number, _ in enumerate(chunks):
            if number == 1:
                os.truncate(path, 100)


def test_ctrl_c_ends_the_recording_and_what_was_heard_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(SAMPLES.tobytes())
    former = signal.getsignal(signal.SIGINT)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    np.testing.assert_array_equal(heard(path, idle_seconds=30.0), SAMPLES)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGINT) is former


def test_a_student_that_does_not_stream_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talking_student().save(tmp_path)
    assert cli.main(["transcribe", "--model", str(tmp_path), "--stream", "a.wav"]) == 2
    assert (
        "waits for the end of an utterance; expected a student such as" in capsys.readouterr().err
    )
