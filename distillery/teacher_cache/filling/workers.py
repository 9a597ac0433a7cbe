"""Who runs a teacher pass: this process, some processes here, or a Dask cluster.

Dask is the scheduler that Prefect's own integration (prefect-dask) uses. A stage runs without
Prefect, so it talks to Dask directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from distillery.errors import CacheError
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.forward import run_partition
from distillery.teacher_cache.filling.plan import Partition, PartitionReport
from distillery.teacher_cache.filling.reach import ADVICE, look

CONNECT_SECONDS = 20
TCP_TIMEOUT = "distributed.comm.timeouts.tcp"
LINK_SECONDS = 300
"""For so long a cut link is waited for; Dask's own time, 30 s, is for links that hold."""
MAX_DEATHS = 3  # of workers that were at one partition, before the pass gives up

logger = logging.getLogger(__name__)


class Workers:
    """A context in which partitions can be run."""

    def __init__(self, where: int | str, device: str = "auto") -> None:
        """Prepare to run partitions.

        Args:
            where: 0 for this process, N for local processes, tcp:// or tls://HOST:PORT for a
                cluster whose workers share the folders under the same paths, see `check`. Whoever
                reaches a tcp:// one can run code in it.
            device: of the settings; local workers share the GPUs, the others have their hosts'.
        """
        self.where, self.device = where, device
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Workers:
        """Start or find the workers.

        Raises:
            CacheError: the cluster does not answer, or has no workers.
        """
        if self.where:
            self._client = self._stack.enter_context(self._connect())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def count(self) -> int:
        """Processes besides this one."""
        if self._client is None:
            return 0
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def check(self, places: Places, folder: Path, of_pass: str) -> None:
        """Make sure that the workers of a cluster work in these folders, and not in others there.

        Args:
            places: prepared data, teacher and cache.
            folder: of the namespace.
            of_pass: name of the pass's file.

        Raises:
            CacheError: some do not; the message names their hosts and what they lack.
        """
        if self._client is None or isinstance(self.where, int):
            return
        faults = list(self._faults(self._client, places, folder, of_pass))
        if faults:
            raise CacheError(
                f"cache.workers: {len(faults)} of {self.count} workers at {self.where} cannot work "
                f"in the folders of this pass. {'; '.join(dict.fromkeys(faults))}. {ADVICE}"
            )

    @staticmethod
    def _faults(client: Any, places: Places, folder: Path, of_pass: str) -> Iterator[str]:
        answers = client.run(look, places, folder, of_pass, on_error="return")
        for address, seen in answers.items():
            if isinstance(seen, BaseException):
                yield f"{address}: {type(seen).__name__}: {seen}"
            elif seen.fault is not None:
                yield f"host {seen.host}: {seen.fault}"
            elif not (folder / seen.written).exists():
                yield f"host {seen.host}: what it writes into {folder} is not seen here"

    def run(
        self, partitions: Sequence[Partition], progress: Callable[[float], object]
    ) -> Iterator[PartitionReport]:
        """Yield each partition's report as it ends.

        Args:
            partitions: the jobs.
            progress: called with the audio done since the last call, in seconds.

        Raises:
            CacheError: a partition failed, or too many workers died; finished shards stay.
        """
        if self._client is None:
            for partition in partitions:
                yield run_partition(partition, progress)
            return
        yield from self._run_on_cluster(self._client, partitions, progress)

    def _run_on_cluster(
        self,
        client: Any,
        partitions: Sequence[Partition],
        progress: Callable[[float], object],
    ) -> Iterator[PartitionReport]:
        from distributed import KilledWorker, as_completed
        from distributed.client import FutureCancelledError

        # Not pure: an equal partition of a later pass must run again, not be looked up.
        futures = client.map(run_partition, partitions, pure=False)
        sizes = {
            future.key: partition.audio_seconds
            for future, partition in zip(futures, partitions, strict=True)
        }
        try:
            for future in as_completed(futures, loop=client.loop):
                try:
                    yield future.result()
                except KilledWorker as error:
                    raise CacheError(
                        f"cache.workers: {MAX_DEATHS + 1} workers died at one partition, for want "
                        "of memory perhaps, or of a link that holds; finished shards stay. Lower "
                        "cache.batch_seconds and run make cache"
                    ) from error
                except FutureCancelledError as error:
                    raise CacheError(
                        f"cache.workers: the Dask scheduler at {self.where} went away; finished "
                        "shards stay. Start it again and run make cache"
                    ) from error
                progress(sizes[future.key])
        finally:
            client.cancel(futures)

    def _connect(self) -> Any:
        import dask
        from distributed import Client, LocalCluster

        from distillery.teacher_cache.filling.gpus import OneGPU, gpus_of

        dask.config.set({"distributed.scheduler.allowed-failures": MAX_DEATHS})
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures are raised
        if isinstance(self.where, int):
            cluster = LocalCluster(
                n_workers=self.where,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=None,
                # Messages are pickles. With certificates of its own it takes them from nobody else
                # on this machine.
                security=True,
            )
            client = Client(self._stack.enter_context(cluster))
            if gpus := gpus_of(self.device):
                client.register_plugin(OneGPU(gpus))
            return client
        dask.config.set({TCP_TIMEOUT: f"{LINK_SECONDS}s"})
        try:
            client = Client(self.where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise CacheError(
                f"cache.workers: no Dask scheduler answers at {self.where} within "
                f"{CONNECT_SECONDS} s; start it, or set cache.workers to 0"
            ) from error
        if not client.scheduler_info(n_workers=-1)["workers"]:
            client.close()
            raise CacheError(
                f"cache.workers: the Dask scheduler at {self.where} has no workers; start some "
                "with `dask worker`, or set cache.workers to 0"
            )
        _warn_of_links(client)
        return client


def _warn_of_links(client: Any) -> None:
    """Say where a cut link, which may come back, ends a worker, which does not."""
    import dask
    from dask.utils import parse_timedelta

    asked = [client.run_on_scheduler(dask.config.get, TCP_TIMEOUT)]
    asked += client.run(dask.config.get, TCP_TIMEOUT, on_error="ignore").values()
    shortest = min(parse_timedelta(answer) or 0.0 for answer in asked)
    if shortest < LINK_SECONDS:
        logger.warning(
            "cache.workers: a worker whose link is cut for more than %g s ends, and another takes "
            "its part; where links may be cut, start scheduler and workers with "
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=%ds",
            shortest,
            LINK_SECONDS,
        )
