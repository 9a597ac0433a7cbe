"""Workers on another host: two network namespaces, with names and, where wanted, own disks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.shards import leftovers
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tests.pipeline.conftest import ROOT, environment, kill
from tests.pipeline.far_pass import SECONDS, SMALL
from tests.pipeline.test_flow import wait_for
from tests.tiny_workspaces import put_teacher

NUM_UTTERANCES = 32
NEAR, FAR = "near", "far"
IP_OF = {NEAR: "192.0.2.1", FAR: "192.0.2.2"}  # TEST-NET-1
ADDRESS = f"tcp://{IP_OF[NEAR]}:8786"
START_SECONDS, PASS_SECONDS = 500.0, 800.0  # limits, for machines under load
START = """
hostname "$1"
[ -z "$2" ] || mount -t tmpfs none "$2"
shift 2
exec "$@"
"""


class Hosts:
    """Two hosts, and a cable between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.space = {name: f"distillery-{uuid.uuid4().hex[:8]}-{name}" for name in (NEAR, FAR)}
        self.processes: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        """Make them, which takes root and iproute2."""
        for space in self.space.values():
            ip("netns", "add", space)
        near, far = self.space.values()
        link = ["link", "add", "eth0", "netns", near, "type", "veth"]
        ip(*link, "peer", "name", "eth0", "netns", far)
        for name, space in self.space.items():
            ip("-n", space, "address", "add", f"{IP_OF[name]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", space, "link", "set", device, "up")

    def remove(self) -> None:
        """End all that runs there, and remove them."""
        for process in self.processes:
            if process.poll() is None:
                kill(process)
        for space in self.space.values():
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)

    def link(self, state: str) -> None:
        """Cut the cable, or mend it."""
        ip("-n", self.space[FAR], "link", "set", "eth0", state)

    def start(
        self, host: str, what: str, *module: str, own_disk: Path | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start `python -m …` on a host, with a disk of its own at a path."""
        command = ["unshare", "--mount", "--uts", "sh", "-ec", START, "sh"]
        command += [host, str(own_disk or ""), sys.executable, "-m", *module]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.space[host], *command],
            cwd=ROOT,
            env=environment(self.folder) | variables,
            stdin=subprocess.DEVNULL,
            stdout=open(self.log(host, what), "wb"),  # noqa: SIM115  # the child keeps it
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    def log(self, host: str, what: str) -> Path:
        """Return where a worker, the scheduler or the driver on a host writes to."""
        return self.folder / f"{host}-{what}.log"

    def start_scheduler(self, **variables: str) -> None:
        """Start Dask's scheduler on the near host."""
        place = ["--host", IP_OF[NEAR], "--port", "8786", "--no-dashboard"]
        self.start(NEAR, "scheduler", "dask", "scheduler", *place, **variables)

    def start_worker(
        self, host: str, seconds: float, own_disk: Path | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until the scheduler has it."""
        quiet = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        place = ["--local-directory", str(self.folder), "--name", host]
        variables |= {SECONDS: str(seconds)}
        worker = self.start(
            host,
            "worker",
            "dask",
            "worker",
            ADDRESS,
            *quiet,
            *place,
            own_disk=own_disk,
            **variables,
        )
        wait_for(lambda: "Registered to:" in self.log(host, "worker").read_text(), START_SECONDS)
        return worker

    def start_pass(self, root: Path, cache: Path) -> subprocess.Popen[bytes]:
        """Start a teacher pass on the near host."""
        return self.start(NEAR, "driver", "tests.pipeline.far_pass", str(root), str(cache), ADDRESS)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared audio and a teacher."""
    return put_teacher(tmp_path_factory.mktemp("hosts") / "workspace")


def wait_for_shards(cache: Path, count: int) -> None:
    wait_for(lambda: len(list(cache.glob("*/shard-*.arrow"))) >= count, START_SECONDS)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts on which nothing runs."""
    folder = tmp_path / "hosts"
    folder.mkdir()
    made = Hosts(folder)
    try:
        try:
            made.make()
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or error
            pytest.skip(f"no two network namespaces here (they take root and iproute2): {said}")
        yield made
    finally:
        made.remove()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for the cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("timeout", ["30s", "300s"])
def test_a_link_that_is_cut_for_a_minute_loses_and_doubles_nothing(
    root: Path, hosts: Hosts, cache: Path, tmp_path: Path, timeout: str
) -> None:
    """With Dask's own timeout another worker takes over, with the documented one it comes back.

    The far worker writes to the same disk all the time, also when it counts as dead.
    """
    waits = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": timeout}
    hosts.start_scheduler(**waits)
    hosts.start_worker(NEAR, 1.0, **waits)
    far = hosts.start_worker(FAR, 12.0, **waits)  # a partition takes it longer than 30 s
    driver = hosts.start_pass(root, cache)
    wait_for_shards(cache, 4)
    hosts.link("down")
    time.sleep(60)
    hosts.link("up")
    assert driver.wait(PASS_SECONDS) == 0, hosts.log(NEAR, "driver").read_text()
    filled = TeacherCache.open_current(cache)
    time.sleep(10)  # for who counts as dead and yet works
    filled.reload()
    params = CacheParams.model_validate(SMALL)
    places = replace(Places.in_workspace(root), cache=tmp_path / "by one")
    alone = fill_cache(places, load_teacher, params)
    assert filled.manifest_digest == alone.manifest_sha256
    assert sum(len(shard.table) for shard in filled.shards) == len(filled) == NUM_UTTERANCES
    forwards = json.loads((cache / "report.json").read_text())["num_teacher_forwards"]
    if timeout == "30s":
        wait_for(lambda: far.poll() is not None, START_SECONDS)
        assert NUM_UTTERANCES <= forwards < 2 * NUM_UTTERANCES
    else:
        assert far.poll() is None
        assert forwards == NUM_UTTERANCES
        assert not leftovers(filled.folder)


def test_a_worker_with_a_disk_of_its_own_is_refused_at_once_with_its_host(
    root: Path, hosts: Hosts, cache: Path
) -> None:
    hosts.start_scheduler()
    hosts.start_worker(NEAR, 0.0)
    hosts.start_worker(FAR, 0.0, own_disk=cache)
    assert hosts.start_pass(root, cache).wait(PASS_SECONDS) != 0
    said = hosts.log(NEAR, "driver").read_text()
    assert (
        f"1 of 2 workers at {ADDRESS} cannot work in the folders of this pass. host far: " in said
    )
    assert "Workers of a Dask cluster need the same folders under the same paths" in said
    assert not list(cache.glob("*/*shard-*"))


def test_a_worker_with_a_disk_of_its_own_that_comes_later_is_refused_and_spoils_nothing(
    root: Path, hosts: Hosts, cache: Path
) -> None:
    hosts.start_scheduler()
    hosts.start_worker(NEAR, 4.0)
    driver = hosts.start_pass(root, cache)
    wait_for_shards(cache, 1)
    hosts.start_worker(FAR, 0.0, own_disk=cache)
    assert driver.wait(PASS_SECONDS) != 0
    said = hosts.log(NEAR, "driver").read_text()
    assert "distillery.errors.CacheError: host far: " in said
    assert "not there, or not the one of this pass" in said
    (folder,) = cache.glob("*/")
    left = TeacherCache(folder)
    assert 0 < sum(len(shard.table) for shard in left.shards) == len(left) < NUM_UTTERANCES
