"""The command's forms: what is printed of recordings, short and long, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.light import cost_of
from distillery.commands import main as cli
from distillery.decoder.confidence import Confidence
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.reading import Recording
from distillery.serve.served import load_served
from tests.tiny import RATE_HZ, speak
from tests.tiny_students import talking_student

LONG_SECONDS = 75


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as it was exported, in floats."""
    folder = tmp_path_factory.mktemp("exported")
    student = talking_student(0)
    student.save(folder)
    (folder / "model.safetensors").unlink()
    (folder / MODEL_FILES["onnx"]).write_bytes(to_onnx(student.network, 16))
    Confidence(-0.5, 0.7, 100, 0.02).save(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for name, seed in (("a.wav", 1), ("b.wav", 2)):
        soundfile.write(folder / name, speak("ab cab", seed), RATE_HZ)
    said = np.concatenate([speak("ab cab b", seed) for seed in range(40)])
    said = np.resize(said, LONG_SECONDS * RATE_HZ)
    soundfile.write(folder / "long.wav", said, RATE_HZ)
    soundfile.write(folder / "long_fast.wav", np.repeat(said, 2), 2 * RATE_HZ)
    return folder


def printed(capsys: pytest.CaptureFixture[str], model: Path, *arguments: object) -> str:
    """Return what the command prints of recordings; it must end well."""
    assert cli.main(["transcribe", "--model", str(model), *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_lines_of_json_hold_words_with_times(
    model: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [recordings / "a.wav", recordings / "b.wav"]
    plain = [line.split("\t") for line in printed(capsys, model, *files).splitlines()]
    out = printed(capsys, model, "--format", "jsonl", "--n-best", 2, *files)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [[line["path"], line["text"]] for line in lines] == plain
    for line, file in zip(lines, files, strict=True):
        assert list(line) == ["path", "start", "end", "text", "words", "n_best"]
        assert (line["start"], line["end"]) == (0, round(soundfile.info(file).duration, 3))
        assert " ".join(word["text"] for word in line["words"]) == line["text"]
        assert all(list(w) == ["text", "start", "end", "confidence"] for w in line["words"])
        assert len(line["n_best"]) == 2 and line["n_best"][0]["text"] == line["text"]
    assert any(line["words"] for line in lines)
    without = json.loads(printed(capsys, model, "--format", "jsonl", files[0]))
    assert "n_best" not in without


@pytest.mark.parametrize("name", ["long.wav", "long_fast.wav"])
def test_a_long_recording_is_a_line_for_each_segment(
    model: Path, recordings: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, model, "--format", "jsonl", recordings / name)
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) >= 4
    assert [line["start"] for line in lines] == [0, *(line["end"] for line in lines[:-1])]
    assert lines[-1]["end"] == LONG_SECONDS
    for line in lines:
        times = [time for word in line["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert line["start"] <= min(times) and max(times) <= line["end"] + 0.05


@pytest.mark.parametrize("name", ["long.wav", "long_fast.wav"])
def test_a_long_recording_in_one_text_is_heard_as_if_it_were_held(
    model: Path, recordings: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recordings / name
    samples = np.concatenate(list(Recording(file, RATE_HZ)))
    expected = load_served(model).transcribe([samples])[0]
    assert len(expected.split()) > 20
    out = printed(capsys, model, file, recordings / "a.wav")
    assert out.splitlines()[0] == f"{file}\t{expected}"
    assert len(out.splitlines()) == 2


def test_subtitles_have_cues_in_order(
    model: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    srt = printed(capsys, model, "--format", "srt", recordings / "long.wav").split("\n\n")
    vtt = printed(capsys, model, "--format", "vtt", recordings / "long.wav").split("\n\n")
    assert vtt[0] == "WEBVTT"
    cues = [block.split("\n") for block in srt[:-1]]
    assert [cue[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    assert [cue[1].replace(",", ".") for cue in cues] == [b.split("\n")[0] for b in vtt[1:-1]]
    starts = [cue[1].split(" --> ")[0] for cue in cues]
    assert starts == sorted(starts) and len(cues) > 3


def test_a_bad_recording_is_reported_and_the_others_are_done(
    model: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    command = ["transcribe", "--model", str(model), "--format", "jsonl", str(bad)]
    assert cli.main([*command, str(recordings / "a.wav")]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["path"] == str(recordings / "a.wav")
    assert f"error: {bad}: cannot be decoded" in output.err


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_a_long_recording_that_is_cut_short_is_reported_and_the_others_are_done(
    model: Path, recordings: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.flac"
    soundfile.write(bad, *soundfile.read(recordings / "long.wav", dtype="int16"))
    bad.write_bytes(bad.read_bytes()[:-1000])  # what is missing is told at its end
    command = ["transcribe", "--model", str(model), "--format", form, str(bad)]
    assert cli.main([*command, str(recordings / "a.wav")]) == 1
    output = capsys.readouterr()
    assert str(recordings / "a.wav") in output.out.splitlines()[-1]
    assert f"error: {bad}: " in output.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--format", "srt", "a.wav", "b.wav"], "--format srt takes one recording"),
        (["--format", "jsonl", "."], "with no folder"),
        (["--format", "jsonl", "--stream", "-"], "without --stream"),
        (["--n-best", "3", "a.wav"], "goes with --format jsonl"),
        (["--n-best", "-1", "--format", "jsonl", "a.wav"], "a number from 0 on"),
        (["--format", "doc", "a.wav"], "invalid choice: 'doc'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["transcribe", *arguments])
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_the_benchmark_counts_the_memory_of_the_command_alone(
    model: Path, recordings: Path
) -> None:
    held = np.ones(400_000_000, np.uint8)
    cost = cost_of(model, str(recordings / "a.wav"))
    assert held.any()
    assert cost.cpu_seconds > 0.1 and 30 < cost.megabytes < 300


def test_a_text_waits_for_no_heavy_import(model: Path, recordings: Path) -> None:
    heavy = ["torch", "pandas", "pyarrow", "rich", "mlflow"]
    code = (
        "import sys; from distillery.commands.main import main\n"
        "status = main(sys.argv[1:])\n"
        f"found = [name for name in {heavy} if name in sys.modules]\n"
        "assert not found, found\n"
        "sys.exit(status)\n"
    )
    for form in ("txt", "jsonl", "srt"):
        command = ["transcribe", "--model", str(model), "--format", form]
        command = [sys.executable, "-c", code, *command, str(recordings / "a.wav")]
        subprocess.run(command, check=True, capture_output=True)


def test_the_list_of_commands_is_whole() -> None:
    command = [sys.executable, "-m", "distillery.commands.main", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ")]
    assert {name for name in listed if name.isalpha()} >= cli.COMMANDS.keys()
    for name in cli.COMMANDS:
        command = [sys.executable, "-m", "distillery.commands.main", name, "--help"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert f"distillery {name}" in done.stdout
