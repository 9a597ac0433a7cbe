"""Folders into lines of JSON: in order, once each, whatever is broken or killed."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distillery.commands import main as cli
from distillery.data.audio import load_audio, to_int16
from distillery.errors import AudioError, TranscriptsError
from distillery.files import digest_of_file
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.served import choose_format
from distillery.serve.torch_transcriber import TorchTranscriber
from distillery.serve.transcription import (
    MAX_BATCH_FILES,
    Counts,
    by_length,
    find_recordings,
    transcribe_folder,
)
from distillery.tracking.bundle import write_bundle
from tests.recordings import mp3, written
from tests.tiny import RATE_HZ, WORDS, speak
from tests.tiny_students import talking_student

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def student() -> TorchTranscriber:
    return TorchTranscriber(talking_student(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six recordings in two folders, and a file that is none."""
    folder = tmp_path / "recordings"
    (folder / "more").mkdir(parents=True)
    for number, word in enumerate(WORDS):
        name = f"{number}.wav" if number % 2 else f"more/{number}.FLAC"
        soundfile.write(
            folder / name, speak(word * (number + 1), number), RATE_HZ, format=name[-4:].strip(".")
        )
    (folder / "notes.txt").write_text("no recording")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def names(found: Iterable[dict[str, Any]]) -> list[str]:
    return [row["path"] for row in found]


def test_every_recording_gets_one_line_in_the_order_of_paths(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert transcribe_folder(student, folder, out) == Counts(6, 0, 0)
    found = rows(out)
    expected = ["1.wav", "3.wav", "5.wav", "more/0.FLAC", "more/2.FLAC", "more/4.FLAC"]
    assert names(found) == expected
    assert any(row["text"] for row in found)
    for row in found:
        audio = load_audio(folder / row["path"], RATE_HZ)
        assert row["text"] == student.transcribe([audio])[0]
        assert row["duration_seconds"] == pytest.approx(len(audio) / RATE_HZ, abs=5e-4)
        assert row["model"] == student.weights_digest[:12]


def test_a_registered_student_is_run_in_the_format_that_it_is_served_in(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    saved, exported, bundle = (tmp_path / name for name in ("saved", "exported", "bundle"))
    saved.mkdir()
    exported.mkdir()
    student.recogniser.save(saved)
    (exported / MODEL_FILES["onnx"]).write_bytes(to_onnx(student.recogniser.network, 16))
    served = choose_format("onnx", 0.0, {"onnx": 0.0}, exported, 0.0)
    write_bundle(saved, bundle, served.contents)
    script = (
        "import sys; from distillery.commands import main as cli\n"
        "status = cli.main(sys.argv[1:]); sys.exit(status or 'torch' in sys.modules)\n"
    )
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ["transcribe", "--model", str(bundle), str(folder), "--out", str(out)]
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=True)
    transcribe_folder(student, folder, whole)
    texts = [row["text"] for row in rows(out)]
    assert any(texts)
    assert texts == [row["text"] for row in rows(whole)]
    digest = digest_of_file(bundle / MODEL_FILES["onnx"])
    assert {row["model"] for row in rows(out)} == {digest[:12]}
    with pytest.raises(TranscriptsError, match="line 1 is of model"):  # texts may differ
        transcribe_folder(student, folder, out)
    before = out.read_bytes()
    assert cli.main(arguments) == 0
    assert out.read_bytes() == before


def test_batches_hold_like_lengths_and_no_more_than_asked_for() -> None:
    files = {"a": 1.0, "b": 5.0, "c": 1.0, "d": 2.0, "e": 30.0}
    assert list(by_length(files, 6.0)) == [["e"], ["b"], ["d", "a", "c"]]
    many = {f"{number:03d}": 0.0 for number in range(MAX_BATCH_FILES + 1)}
    assert [len(batch) for batch in by_length(many, 6.0)] == [MAX_BATCH_FILES, 1]


def test_a_second_run_reads_nothing_again(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    transcribe_folder(student, folder, out)
    before = out.read_bytes(), out.stat().st_ino
    for path in folder.rglob("*.*"):
        path.write_bytes(b"broken since") if path.suffix != ".txt" else None
    assert transcribe_folder(student, folder, out) == Counts(0, 0, 6)
    assert (out.read_bytes(), out.stat().st_ino) == before


def test_broken_recordings_get_their_error_and_are_tried_again(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    transcribe_folder(student, folder, whole, 2.0)
    content = (folder / "3.wav").read_bytes()
    (folder / "3.wav").write_bytes(content[:1000])
    (folder / "1.wav").rename(tmp_path / "kept.wav")
    (folder / "1.wav").symlink_to("nowhere")
    assert transcribe_folder(student, folder, out, 2.0) == Counts(4, 2, 0)
    found = {row["path"]: row for row in rows(out)}
    assert "1.wav: no such file" in found["1.wav"]["error"]
    assert "3.wav: ends after" in found["3.wav"]["error"]
    assert "text" not in found["3.wav"]
    assert transcribe_folder(student, folder, out, 2.0) == Counts(0, 2, 4)
    assert len(rows(out)) == 6
    (folder / "3.wav").write_bytes(content)
    (folder / "1.wav").unlink()
    (tmp_path / "kept.wav").rename(folder / "1.wav")
    assert transcribe_folder(student, folder, out, 2.0) == Counts(2, 0, 4)
    assert out.read_bytes() == whole.read_bytes()


def test_long_recordings_are_heard_in_blocks_and_broken_ones_are_told(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    said = np.concatenate([speak("ab cab b", seed) for seed in range(12)])
    samples = np.resize(to_int16(said), round(61.5 * RATE_HZ))
    soundfile.write(folder / "long.wav", samples, RATE_HZ)
    soundfile.write(folder / "broken.flac", samples, RATE_HZ)
    whole = (folder / "broken.flac").read_bytes()
    (folder / "broken.flac").write_bytes(whole[:-1000])  # what is missing is told at its end
    out = tmp_path / "out.jsonl"
    assert transcribe_folder(student, folder, out) == Counts(7, 1, 0)
    found = {row["path"]: row for row in rows(out)}
    assert found["long.wav"]["text"] == student.transcribe([samples])[0] != ""
    assert found["long.wav"]["duration_seconds"] == 61.5
    assert found["broken.flac"]["error"].startswith("broken.flac: ")


def test_half_a_line_and_lines_out_of_order_are_gone_on_with(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    transcribe_folder(student, folder, whole, 2.0)
    lines = whole.read_bytes().splitlines(keepends=True)
    for left in range(len(lines)):
        out.write_bytes(b"".join(reversed(lines[:left])) + lines[left][:-3])
        assert transcribe_folder(student, folder, out, 2.0) == Counts(6 - left, 0, left)
        assert out.read_bytes() == whole.read_bytes()


def test_a_killed_run_is_gone_on_with_to_the_same_bytes(
    student: TorchTranscriber, tmp_path: Path
) -> None:
    folder, model = tmp_path / "recordings", tmp_path / "model"
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    folder.mkdir()
    model.mkdir()
    student.recogniser.save(model)
    random = np.random.default_rng(0)
    for number in range(150):
        word = " ".join(random.choice(WORDS, random.integers(1, 8)))
        soundfile.write(folder / f"{number}.wav", speak(word, number), RATE_HZ)
    (folder / "broken.wav").write_bytes(b"no sound")
    transcribe_folder(student, folder, whole, 5.0)
    script = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from distillery.models.recogniser import Recogniser\n"
        "from distillery.serve.torch_transcriber import TorchTranscriber\n"
        "from distillery.architectures.known import STUDENTS\n"
        "from distillery.serve.transcription import transcribe_folder\n"
        "model, folder, out = map(Path, sys.argv[1:])\n"
        "transcribe_folder(TorchTranscriber(Recogniser.load(model, STUDENTS)), folder, out, 5.0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(model), str(folder), str(out)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size > 2000):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = len(out.read_bytes().splitlines())
    assert 0 < left < 151
    counts = transcribe_folder(student, folder, out, 5.0)
    assert counts.num_kept >= left - 1  # the last line may have been half a one
    assert counts.num_transcribed + counts.num_kept == 150
    assert counts.num_failed == 1
    assert out.read_bytes() == whole.read_bytes()


def test_a_file_of_another_model_or_kind_is_left_alone(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    transcribe_folder(TorchTranscriber(talking_student(1)), folder, out)
    before = out.read_bytes()
    with pytest.raises(
        TranscriptsError, match=r"line 1 is of model \w{12}, this one is \w{12}; ch"
    ):
        transcribe_folder(student, folder, out)
    assert out.read_bytes() == before
    strange = (
        b"my notes\n",
        b"[]\n",
        b"{}\n",
        b'{"path": 3, "text": "", "duration_seconds": 1.0, "model": "a"}\n',
        b'{"path": "a.wav", "text": "", "model": "a"}\n',
        b'{"path": "a.wav", "text": "", "duration_seconds": 1.0, "model": "a", "by": "b"}\n',
    )
    for content in strange:
        out.write_bytes(content)
        with pytest.raises(TranscriptsError, match="line 1 was not written by transcribe"):
            transcribe_folder(student, folder, out)
        assert out.read_bytes() == content


def test_two_at_once_do_not_mix(student: TorchTranscriber, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with open(out, "a+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TranscriptsError, match="out.jsonl: another process is writing it"):
            transcribe_folder(student, folder, out)


def test_what_cannot_be_written_is_named(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(TranscriptsError, match=r"cannot be written \(No such file or directory\)"):
        transcribe_folder(student, folder, tmp_path / "nowhere/out.jsonl")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    transcribe_folder(student, folder, whole, 2.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # as if the disk were full then
    try:
        with pytest.raises(TranscriptsError, match=r"be written \(File too large\); fix that"):
            transcribe_folder(student, folder, out, 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.stat().st_size == 500
    assert transcribe_folder(student, folder, out, 2.0).num_kept > 0
    assert out.read_bytes() == whole.read_bytes()


def test_names_that_are_no_text_survive(
    student: TorchTranscriber, folder: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (folder / "1.wav").rename(folder / name)
    (folder / "3.wav").rename(folder / "día.wav")
    out = tmp_path / "out.jsonl"
    transcribe_folder(student, folder, out)
    assert {name, "día.wav"} < set(names(rows(out)))
    assert "día.wav" in out.read_text("utf-8")
    assert transcribe_folder(student, folder, out) == Counts(0, 0, 6)


def test_a_folder_is_done_whatever_stands_in_it(student: TorchTranscriber, tmp_path: Path) -> None:
    folder, out = tmp_path / "recordings", tmp_path / "out.jsonl"
    folder.mkdir()
    samples = speak("ab cab", 3)
    good = {
        "vbr.mp3": mp3(samples, with_count=False, rate_hz=RATE_HZ, bitrate_mode="VARIABLE"),
        "gsm.wav": written(samples, "WAV", RATE_HZ, subtype="GSM610"),
        "live.w64": written(samples, "W64", RATE_HZ),
        "NIST.SPH": written(samples, "NIST", RATE_HZ),
        "apple.aiff": written(samples, "AIFF", RATE_HZ),
        "note.opus": written(samples, "OGG", RATE_HZ, subtype="OPUS"),
        "odd.au": written(samples, "AU", RATE_HZ - 1),
    }
    bad = {"words.au": b"words " * 99, "cut.opus": good["note.opus"][:-50], "words.m4a": b"words "}
    hidden = {"._apple.aiff": b"notes", ".DS_Store.wav": b"notes", "words.txt": b"words"}
    for name, content in (good | bad | hidden).items():
        (folder / name).write_bytes(content)
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    assert transcribe_folder(student, folder, out) == Counts(len(good), len(bad) + 1, 0)
    found = {row["path"]: row for row in rows(out)}
    assert set(found) == set(good | bad) | {"pipe.wav"}
    assert {name for name, row in found.items() if "text" in row} == set(good)


def test_a_channel_is_chosen_and_channels_that_do_not_mix_are_told(
    student: TorchTranscriber, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model, out = (tmp_path / name for name in ("recordings", "model", "out.jsonl"))
    folder.mkdir()
    model.mkdir()
    student.recogniser.save(model)
    samples = speak("ab cab", 3)
    stereo = written(np.stack([samples, -samples], axis=1), "WAV", RATE_HZ)
    (folder / "call.wav").write_bytes(stereo)
    plain = ["transcribe", "--model", str(model)]
    text = student.transcribe([load_audio(written(samples, "WAV", RATE_HZ), RATE_HZ)])[0]
    assert cli.main([*plain, "--channel", "0", str(folder / "call.wav")]) == 0
    assert capsys.readouterr() == (f"{folder / 'call.wav'}\t{text}\n", "")
    assert cli.main([*plain, str(folder / "call.wav")]) == 0
    assert "its 2 channels cancel: " in capsys.readouterr().err
    assert cli.main([*plain, str(folder), "--out", str(out)]) == 0
    assert "1 recordings have channels that do not mix well, such as call.wav: its 2 ch" in (
        capsys.readouterr().err
    )
    assert cli.main([*plain, "--channel", "0", str(folder), "--out", str(out)]) == 2
    assert "is of model" in capsys.readouterr().err
    out.unlink()
    assert cli.main([*plain, "--channel", "0", str(folder), "--out", str(out)]) == 0
    (row,) = rows(out)
    assert (row["text"], row["model"]) == (text, f"{student.weights_digest[:12]}/0")


def test_a_folder_without_recordings_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(AudioError, match="holds no recording, expected WAV, FLAC, "):
        find_recordings(tmp_path)


def test_the_command_counts_and_says_what_goes_with_what(
    student: TorchTranscriber, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out.jsonl"
    model.mkdir()
    student.recogniser.save(model)
    plain = ["transcribe", "--model", str(model)]
    assert cli.main([*plain, str(folder), "--out", str(out)]) == 0
    assert f"{out}: 6 transcribed, 0 were there already, 0 failed" in capsys.readouterr().err
    (folder / "bad.wav").write_bytes(b"no sound")
    assert cli.main([*plain, str(folder), "--out", str(out)]) == 1
    assert f"{out}: 0 transcribed, 6 were there already, 1 failed" in capsys.readouterr().err
    for arguments, message in (
        ([str(folder)], "is a folder: give it alone, with --out FILE.jsonl"),
        ([str(folder), "a.wav", "--out", str(out)], "is a folder: give it alone, with --out"),
        (["a.wav", "--out", str(out)], "--out needs a folder, a.wav is not one"),
        (["a.wav", "--rate", "8000"], "--rate goes with --stream"),
        (["--stream", "a.wav", "b.wav"], "--stream follows one file, or - for standard input"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*plain, *arguments])
        assert message in " ".join(capsys.readouterr().err.split())
