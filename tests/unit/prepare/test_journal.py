"""A preparation that was killed, and the next one: what is decoded again, and equal bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from distillery.params.prepare import PrepareParams
from distillery.prepare import decoding, journal, prepare
from distillery.prepare.decoding import measure
from tests.unit.prepare.test_prepare import Corpus, contents, params

NUMBER = 24


@pytest.fixture
def corpus(tmp_path: Path, write_recording: Callable[..., np.ndarray]) -> Corpus:
    """Recordings of all splits, of which some are dropped and some are copies of others."""
    corpus = Corpus(tmp_path / "here", write_recording)
    for index in range(NUMBER):
        split = ("train", "train", "valid", "test")[index % 4]
        seconds = 0.01 if index == 5 else 0.5 + index % 3 / 4
        corpus.add(f"r{index:02d}", split, text=f"word {'abc'[index % 3]}", seconds=seconds)
    corpus.add("r99", "train", seed=3)  # also in test
    corpus.prepare()
    shutil.rmtree(corpus.prepared)
    return corpus


def clean(corpus: Corpus, folder: Path, **changes: object) -> dict[str, bytes]:
    """Return what a preparation gives that nobody killed."""
    whole = folder / "whole"
    prepare.prepare(params(shard_seconds=2.0, **changes), corpus.source, whole, folder)
    return contents(whole)


def killed(corpus: Corpus, at: int) -> None:
    """Prepare in a process that is killed while it decodes a recording, the first being 1."""
    count = 0

    def die(audio: decoding.Audio, settings: PrepareParams) -> decoding.Decoded:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(audio, settings)

    child = os.fork()  # a process like this one, at once
    if child == 0:
        try:
            decoding.measure, journal.SAVE_SECONDS = die, 0.0
            settings = params(shard_seconds=2.0)
            prepare.prepare(settings, corpus.source, corpus.prepared, corpus.reports, 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not corpus.prepared.exists()


def finished(corpus: Corpus, patch: pytest.MonkeyPatch, **changes: object) -> int:
    """Prepare again, and return how many recordings were decoded for that."""
    asked: list[int] = []

    def counted(audio: decoding.Audio, settings: PrepareParams) -> decoding.Decoded:
        asked.append(1)
        return measure(audio, settings)

    with patch.context() as patched:
        patched.setattr(decoding, "measure", counted)
        settings = params(**{"shard_seconds": 2.0} | changes)
        prepare.prepare(settings, corpus.source, corpus.prepared, corpus.reports)
    return len(asked)


def test_a_killed_preparation_goes_on_to_the_same_bytes(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = decoding.LOOK_AHEAD_PER_WORKER
    killed(corpus, 20)
    assert finished(corpus, monkeypatch) <= NUMBER + 1 - 20 + 1 + ahead
    assert contents(corpus.prepared) == clean(corpus, tmp_path)
    assert not list(corpus.prepared.parent.glob(".*"))


def test_it_may_be_killed_again_and_the_journal_be_cut_short(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(corpus, 16)
    left = corpus.prepared.parent / ".prepared.tmp"
    lines = (left / journal.JOURNAL_FILE).read_bytes()
    (left / journal.JOURNAL_FILE).write_bytes(lines[:-9])
    (left / "dropped.csv").write_text("of a run that came further")
    killed(corpus, 6)
    assert (left / journal.JOURNAL_FILE).read_bytes().startswith(lines[:-500])
    assert finished(corpus, monkeypatch) < NUMBER
    assert contents(corpus.prepared) == clean(corpus, tmp_path)


@pytest.mark.parametrize("change", ["added", "replaced", "settings", "text", "lost", "code"])
def test_what_changed_since_is_decoded_anew(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    killed(corpus, 23)
    left, changes = corpus.prepared.parent / ".prepared.tmp", {}
    if change == "added":
        corpus.add("r03a", "test", seed=77)
        corpus.prepare_table()
    elif change == "replaced":
        shutil.copy(corpus.source / "r04.wav", corpus.source / "r15.wav")
    elif change == "settings":
        changes = {"sample_rate_hz": 16000}
    elif change == "text":
        corpus.rows[7]["text"] = "other words"
        corpus.prepare_table()
    elif change == "lost":
        (left / "audio-00001.pcm").unlink()
    else:
        monkeypatch.setattr(prepare, "made_by", lambda _: "other libraries")
    num_decoded = finished(corpus, monkeypatch, **changes)
    if change in ("settings", "lost", "code"):
        assert num_decoded == len(corpus.rows)
    else:
        assert num_decoded > NUMBER + 1 - 23 + 1
        assert num_decoded < len(corpus.rows)
    assert contents(corpus.prepared) == clean(corpus, tmp_path, **changes)


def test_ctrl_c_keeps_what_was_done_and_an_error_does_not(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = corpus.prepared.parent / ".prepared.tmp"
    count = 0

    def stop(audio: decoding.Audio, settings: PrepareParams) -> decoding.Decoded:
        nonlocal count
        count += 1
        if count == 21:
            raise KeyboardInterrupt
        return measure(audio, settings)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            settings = params(shard_seconds=2.0)
            # One worker: of several, the one that is told to stop may be recordings behind.
            prepare.prepare(settings, corpus.source, corpus.prepared, corpus.reports, 1)
    assert left.exists()
    assert finished(corpus, monkeypatch) <= 5
    assert contents(corpus.prepared) == clean(corpus, tmp_path)
    with pytest.raises(prepare.CorpusError, match="were dropped"):
        finished(corpus, monkeypatch, max_dropped_fraction=0.0)
    assert not left.exists()


PROCESSES = """
import sys, time
from pathlib import Path
from distillery.prepare import decoding, prepare
from tests.unit.prepare.test_prepare import params

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    decoding.PROCESSES_FROM = 0
    pack = prepare.Packing.add
    def slowly(*arguments):
        print("here", flush=True)
        time.sleep(float(sys.argv[2]))
        pack(*arguments)
    prepare.Packing.add = slowly
    prepare.prepare(params(shard_seconds=2.0), folder / "corpus", folder / "data/prepared",
                    folder / "reports", 3)
"""


def test_processes_give_the_bytes_of_threads_and_die_with_the_stage(
    corpus: Corpus, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    command = [sys.executable, str(script), str(corpus.folder)]
    where = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([*command, "60"], env=where, stdout=subprocess.PIPE) as stage:
        assert stage.stdout is not None and stage.stdout.readline() == b"here\n"
        workers = [
            process
            for process in psutil.Process(stage.pid).children()
            if "resource_tracker" not in " ".join(process.cmdline())
        ]
        assert len(workers) == 3
        stage.kill()
    assert not psutil.wait_procs(workers, timeout=30)[1]
    subprocess.run([*command, "0"], check=True, env=where, stdout=subprocess.DEVNULL)
    assert contents(corpus.prepared) == clean(corpus, tmp_path)
