"""One teacher pass by several processes, some of which die; the content is always the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import CacheError
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling import workers as fan_out
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.plan import Partition
from distillery.teacher_cache.filling.reach import Seen
from distillery.teacher_cache.filling.report import PassReport
from distillery.teacher_cache.shards import leftovers
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests.pipeline.conftest import (
    ROOT,
    environment,
    kill,
    make_workspace,
    run_module,
    start_module,
)
from tests.tiny import tiny_params, write_corpus, write_params

NUM_UTTERANCES = 144  # 36 of 40 speakers train, with 4 takes each
SMALL = {
    "payload": {"hidden_layers": ["project"], "num_hypotheses": 2},
    "batch_seconds": 2.0,
    "shard_seconds": 2.0,
    "num_threads": 1,
    "device": "cpu",
    "audit_utterances": 0,
}
START_SECONDS = 60.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared audio and a teacher."""
    root = make_workspace(tmp_path_factory.mktemp("fan_out") / "workspace")
    shutil.rmtree(root / "corpus")
    write_corpus(root / "corpus", num_speakers=40, per_speaker=4)
    write_params(root, tiny_params(cache=SMALL))
    prepare(root)
    teacher(root)
    return root


def run_pass(root: Path, cache: Path, workers: int | str) -> PassReport:
    params = CacheParams.model_validate({**SMALL, "workers": workers})
    return fill_cache(replace(Places.in_workspace(root), cache=cache), load_teacher, params)


@pytest.fixture(scope="module")
def reference(root: Path, tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    """The cache as this process alone makes it."""
    cache = tmp_path_factory.mktemp("reference")
    assert run_pass(root, cache, 0).num_teacher_forwards == NUM_UTTERANCES
    return TeacherCache.open_current(cache)


def everything(cache: TeacherCache) -> list[Any]:
    """Return all that a cache says, in the order of its keys, as plain values."""
    keys = sorted(cache.keys(cache.all_rows))
    rows = cache.rows(keys)
    arrays = [cache.log_probs(rows).values, cache.hidden(rows, "project").values]
    numbers = [array.tobytes() for array in [*arrays, cache.confidences(rows)]]
    return [keys, *numbers, cache.greedy_texts(rows), cache.hypotheses(rows)]


def check_same(cache: TeacherCache, reference: TeacherCache) -> None:
    """Make sure that two caches hold the same bytes, and that nothing was done twice."""
    assert cache.manifest_digest == reference.manifest_digest
    assert everything(cache) == everything(reference)
    assert sum(len(shard.table) for shard in cache.shards) == NUM_UTTERANCES


def finished_shards(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of all files of finished shards, by name."""
    found = {}
    for index in folder.glob("*/shard-*.arrow"):
        for path in (index, index.with_suffix(".bin")):
            found[path.name] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def wait_for_shards(folder: Path, count: int) -> None:
    wait_for(lambda: len(list(folder.glob("*/shard-*.arrow"))) >= count)


# --- a cluster of real processes ------------------------------------------------------------------


class Cluster:
    """A Dask scheduler and two workers, each a process of its own on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        quiet = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        self.workers = [
            self._start("worker", *quiet, "--local-directory", str(folder)) for _ in range(2)
        ]

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(self.file)],
            cwd=ROOT,
            env=environment(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=open(self.folder / "dask.log", "ab"),  # the child keeps it
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> str:
        """Return the scheduler's address once both workers are there."""
        from distributed import Client

        wait_for(self._is_written)
        address = str(json.loads(self.file.read_text())["address"])
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=START_SECONDS)
        return address

    def _is_written(self) -> bool:
        """Tell whether the scheduler's file is whole; Dask writes it in place, not at once."""
        try:
            json.loads(self.file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return True

    def stop(self) -> None:
        """End every process that was started here."""
        for process in [*self.workers, self.scheduler]:
            if process.poll() is None:
                kill(process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.stop()


def test_two_local_processes_make_the_same_cache(
    root: Path, reference: TeacherCache, tmp_path: Path
) -> None:
    report = run_pass(root, tmp_path, 2)
    assert report.num_teacher_forwards == NUM_UTTERANCES
    assert report.manifest_sha256 == reference.manifest_digest
    check_same(TeacherCache.open_current(tmp_path), reference)


def test_a_cluster_makes_the_same_cache_though_a_worker_is_killed(
    root: Path, reference: TeacherCache, cluster: Cluster, tmp_path: Path
) -> None:
    address = cluster.wait()
    folder = tmp_path / "cache"
    at_the_kill: dict[str, tuple[bytes, int]] = {}

    def kill_one() -> None:
        wait_for_shards(folder, 10)
        kill(cluster.workers[0])
        at_the_kill.update(finished_shards(folder))

    killer = threading.Thread(target=kill_one)
    killer.start()
    report = run_pass(root, folder, address)
    killer.join()
    # What the killed one had heard counts, its open shard included.
    assert NUM_UTTERANCES <= report.num_teacher_forwards < NUM_UTTERANCES + 20
    assert cluster.workers[1].poll() is None
    cache = TeacherCache.open_current(folder)
    check_same(cache, reference)
    after = finished_shards(folder)
    assert 2 * 10 <= len(at_the_kill) < len(after)
    assert at_the_kill.items() <= after.items()
    assert not leftovers(cache.folder)
    assert run_pass(root, folder, 0).num_teacher_forwards == 0


def test_a_scheduler_that_dies_is_a_clear_error(
    root: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = cluster.wait()
    begun = tmp_path / "begun"

    def wait_for_ever(_partition: Partition) -> None:
        begun.touch()
        time.sleep(600)

    monkeypatch.setattr(fan_out, "run_partition", wait_for_ever)

    def kill_scheduler() -> None:
        wait_for(begun.exists)
        kill(cluster.scheduler)

    killer = threading.Thread(target=kill_scheduler)
    killer.start()
    with pytest.raises(CacheError, match=f"the Dask scheduler at {address} went away.*make cache"):
        run_pass(root, tmp_path / "cache", address)
    killer.join()


# --- what cannot work -----------------------------------------------------------------------------


def test_a_scheduler_that_does_not_answer_is_a_clear_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "CONNECT_SECONDS", 1)
    with pytest.raises(
        CacheError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 within 1 s; start it"
    ):
        run_pass(root, tmp_path, "tcp://127.0.0.1:1")


@contextmanager
def cluster_in_this_process(num_workers: int) -> Iterator[str]:
    """Yield the address of a scheduler whose workers are threads here."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=num_workers,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol="tcp",
        dashboard_address=None,
    ) as cluster:
        yield cluster.scheduler_address


def test_a_scheduler_without_workers_is_a_clear_error(root: Path, tmp_path: Path) -> None:
    with (
        cluster_in_this_process(num_workers=0) as address,
        pytest.raises(CacheError, match="has no workers; start some with `dask worker`"),
    ):
        run_pass(root, tmp_path, address)


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (Seen("b", "/x/cache is not there"), "host b: /x/cache is not there. Workers"),
        (Seen("b", None, "what-nobody-wrote"), "host b: what it writes into .* is not seen here"),
    ],
)
def test_workers_without_our_folders_are_refused_before_anything_is_heard(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen, wanted: str
) -> None:
    """In place of another host; test_hosts.py has one."""
    monkeypatch.setattr(fan_out, "look", lambda *_: seen)
    monkeypatch.setattr(fan_out, "run_partition", None)
    with (
        cluster_in_this_process(num_workers=1) as address,
        pytest.raises(CacheError, match=f"1 of 1 workers at {address} cannot work.*{wanted}"),
    ):
        run_pass(root, tmp_path, address)


def test_links_that_end_a_worker_when_they_are_cut_are_warned_of(
    root: Path, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_pass(root, tmp_path / "cache", cluster.wait())
    assert "a worker whose link is cut for more than 30 s ends" in caplog.text
    assert "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=300s" in caplog.text


def test_a_worker_error_arrives_in_its_own_words(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_partition: Partition) -> None:
        raise CacheError("utterance abc: as the worker says it")

    monkeypatch.setattr(fan_out, "run_partition", fail)
    with (
        cluster_in_this_process(num_workers=1) as address,
        pytest.raises(CacheError, match="^utterance abc: as the worker says it$"),
    ):
        run_pass(root, tmp_path, address)


def test_a_partition_that_kills_its_workers_ends_the_pass(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_partition: Partition) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(fan_out, "MAX_DEATHS", 0)
    monkeypatch.setattr(fan_out, "run_partition", die)
    with pytest.raises(CacheError, match=r"1 workers died at one partition.*batch_seconds"):
        run_pass(root, tmp_path, 1)


# --- the stage itself, killed ---------------------------------------------------------------------


def test_a_killed_stage_goes_on_with_what_is_missing(
    root: Path, tmp_path: Path, reference: TeacherCache
) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    alone = {**SMALL, "batch_seconds": 0.1}  # each in its own batch, whatever is cached already
    write_params(copy, tiny_params(cache=alone))
    cache = copy / "data/teacher_cache"
    process = start_module(copy, "tasks.cache")
    wait_for_shards(cache, 5)
    assert process.poll() is None
    kill(process)
    before = finished_shards(cache)
    (folder,) = cache.glob("*/")
    num_finished = len(TeacherCache(folder))
    assert 5 <= num_finished < NUM_UTTERANCES
    run_module(copy, "tasks.cache")
    report = json.loads((copy / "reports/cache.json").read_text())
    assert report["num_hits"] == num_finished
    assert report["num_teacher_forwards"] == NUM_UTTERANCES - num_finished
    assert before.items() <= finished_shards(cache).items()
    resumed = TeacherCache.open_current(cache)
    assert not leftovers(folder)
    params = CacheParams.model_validate(alone)
    fill_cache(replace(Places.in_workspace(copy), cache=tmp_path / "clean"), load_teacher, params)
    check_same(resumed, TeacherCache.open_current(tmp_path / "clean"))
