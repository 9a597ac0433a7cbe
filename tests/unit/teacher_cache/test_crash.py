"""Writers that die at any moment: what was finished stays, what was not is never seen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from distillery.errors import CacheError
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry, Hypothesis, leftovers, remove_leftovers
from distillery.teacher_cache.store import TeacherCache

ROOT = Path(__file__).resolve().parents[3]
PER_SHARD = 4
NAMESPACE = Namespace(
    teacher={"weights": "w1"},
    tokens=("<blank>", "|", "a"),
    frame_shift_seconds=0.04,
    payload={"kind": "f32"},
    hidden={"layer": 2},
)


class PowerCut(BaseException):
    """Nothing catches it, so nothing is tidied up."""


def key_of(number: int) -> str:
    return f"{number:08x}" + 56 * "0"


def entry(number: int) -> Entry:
    """Return outputs that the number alone decides."""
    random = np.random.default_rng(number)
    frames = number % 7
    return Entry(
        key_of(number),
        random.normal(-3, 1, (frames, 3)).astype(np.float32),
        f"text {number}",
        0.5,
        [Hypothesis(f"text {number}", -1.5)],
        {"layer": random.normal(0, 1, (frames, 2)).astype(np.float16)},
    )


def write_shard(cache: TeacherCache, numbers: Iterable[int]) -> None:
    with cache.writing() as writer:
        for number in numbers:
            writer.add(entry(number))


def write_many(folder: Path, first: int, num_shards: int, per_shard: int) -> None:
    """Write what is missing of so many shards: what a child process does."""
    cache = TeacherCache(folder)
    for start in range(first, first + num_shards * per_shard, per_shard):
        numbers = range(start, start + per_shard)
        if cache.missing(map(key_of, numbers)):
            write_shard(cache, numbers)


def start_writer(folder: Path, *arguments: int) -> "subprocess.Popen[bytes]":
    """Start a process that writes as soon as it is told to `go`."""
    code = (
        "import sys; from pathlib import Path\n"
        "import pandas  # pyarrow does so at the first shard, which takes a second\n"
        "from tests.unit.teacher_cache.test_crash import write_many\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "write_many(Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: "subprocess.Popen[bytes]") -> None:
    """Let a writer begin."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def check_content(cache: TeacherCache) -> set[int]:
    """Make sure that every visible utterance is what was written; return their numbers."""
    keys = cache.keys(cache.all_rows)
    numbers = [int(key[:8], 16) for key in keys]
    rows = cache.rows(keys)
    values, hidden = cache.log_probs(rows), cache.hidden(rows, "layer")
    texts, hypotheses = cache.greedy_texts(rows), cache.hypotheses(rows)
    for row, number in enumerate(numbers):
        wanted = entry(number)
        frames = int(values.num_frames[row])
        assert (keys[row], frames) == (wanted.key, len(wanted.log_probs))
        np.testing.assert_array_equal(values.values[row, :frames], wanted.log_probs)
        np.testing.assert_array_equal(hidden.values[row, :frames], wanted.hidden["layer"])
        assert (texts[row], hypotheses[row]) == (wanted.greedy_text, wanted.hypotheses)
    assert len(set(numbers)) == len(numbers)
    return set(numbers)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all finished shards, by name."""
    shards = [
        path.with_suffix(end) for path in folder.glob("*.arrow") for end in (".arrow", ".bin")
    ]
    return {path.name: path.read_bytes() for path in shards}


# --- killed at a random moment --------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_writer_costs_its_open_shard_alone(tmp_path: Path, rounds: int) -> None:
    """Each round's writer goes on where the one before was killed, without an end."""
    folder = TeacherCache.create(tmp_path, NAMESPACE).folder
    random = np.random.default_rng()
    for _ in range(rounds):
        before = content_of(folder)
        writer = start_writer(folder, 0, 10**6, PER_SHARD)
        go(writer)
        while len(content_of(folder)) == len(before):
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        numbers = check_content(TeacherCache(folder))
        assert len(numbers) == PER_SHARD * len(list(folder.glob("*.arrow")))
        assert numbers == set(range(len(numbers)))
        assert before.items() <= content_of(folder).items()
    before, reached = content_of(folder), len(numbers)
    remove_leftovers(folder)
    write_many(folder, 0, reached // PER_SHARD + 2, PER_SHARD)
    assert check_content(TeacherCache(folder)) == set(range(reached + 2 * PER_SHARD))
    assert before.items() <= content_of(folder).items()
    assert not leftovers(folder)


# --- killed between any two steps -----------------------------------------------------------------

STEPS = ["fsync", "replace", "fsync", "fsync", "replace", "fsync"]
"""Data synced, data named, that name synced; index synced, index named, that name synced."""


def cut_power(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Let `after` steps on the file system happen and the next one not; return those asked for."""
    asked: list[str] = []

    def counted(name: str, step):
        def call(*arguments):
            asked.append(name)
            if len(asked) > after:
                raise PowerCut
            return step(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return asked


def test_the_index_gets_its_name_when_all_else_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    asked = cut_power(monkeypatch, after=100)
    write_shard(cache, range(4))
    assert asked == STEPS


@pytest.mark.parametrize("after", range(len(STEPS)))
def test_a_kill_between_two_steps_leaves_a_whole_shard_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    write_shard(cache, range(4))
    before = content_of(cache.folder)
    writer = cache.new_writer()  # outside of `writing`, which would tidy up
    for number in range(4, 8):
        writer.add(entry(number))
    with monkeypatch.context() as patch:
        cut_power(patch, after)
        with pytest.raises(PowerCut):
            writer.finish()
    index_is_named = after == len(STEPS) - 1
    numbers = check_content(TeacherCache(cache.folder))
    assert numbers == set(range(8 if index_is_named else 4))
    remove_leftovers(cache.folder)
    assert not leftovers(cache.folder)
    write_many(cache.folder, 0, 3, PER_SHARD)
    assert check_content(TeacherCache(cache.folder)) == set(range(12))
    assert before.items() <= content_of(cache.folder).items()
    assert len(content_of(cache.folder)) == 6  # three shards of two files


def test_a_write_that_fails_inside_the_block_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    cut_power(monkeypatch, after=0)
    with pytest.raises(PowerCut):
        write_shard(cache, range(4))
    assert [path.name for path in cache.folder.iterdir()] == ["namespace.json"]


def test_the_half_written_files_of_a_dead_writer_are_never_read(tmp_path: Path) -> None:
    """Whatever the length at which they were cut."""
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    write_shard(cache, range(4))
    (index,) = cache.folder.glob("*.arrow")
    (data,) = cache.folder.glob("*.bin")
    for source, temporary in [(data, ".open-dead.tmp"), (index, ".index-dead.tmp")]:
        content = source.read_bytes()
        for length in range(0, len(content), 7):
            (cache.folder / temporary).write_bytes(content[:length])
            assert len(TeacherCache(cache.folder)) == 4
    assert len(leftovers(cache.folder)) == 2
    remove_leftovers(cache.folder)
    assert not leftovers(cache.folder)
    assert check_content(TeacherCache(cache.folder)) == set(range(4))


@pytest.mark.parametrize("suffix", [".bin", ".arrow"])
def test_a_file_cut_at_any_byte_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    """As on a disk that claims to have synced and has not."""
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    write_shard(cache, range(1, 4))
    (path,) = cache.folder.glob(f"*{suffix}")
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        with pytest.raises(CacheError, match=rf"{path.name}: .* verify --repair`, then make cache"):
            TeacherCache(cache.folder)


def test_leftovers_stay_while_somebody_writes(tmp_path: Path) -> None:
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    with cache.writing() as writer:
        writer.add(entry(1))
        remove_leftovers(cache.folder)
        assert len(leftovers(cache.folder)) == 1
    assert check_content(TeacherCache(cache.folder)) == {1}


def test_a_namespace_whose_description_was_never_finished_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        cut_power(patch, after=1)  # synced, not named
        with pytest.raises(PowerCut):
            TeacherCache.create(tmp_path, NAMESPACE)
    cache = TeacherCache.create(tmp_path, NAMESPACE)
    write_shard(cache, range(4))
    assert check_content(TeacherCache(cache.folder)) == set(range(4))
