"""Who runs a teacher pass: this process, some processes here, or a Dask cluster.

Dask is the scheduler that Prefect's own integration (prefect-dask) uses. A stage runs without
Prefect, so it talks to Dask directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from distillery.errors import CacheError
from distillery.teacher_cache.filling.forward import run_partition
from distillery.teacher_cache.filling.plan import Partition, PartitionReport

CONNECT_SECONDS = 20
MAX_DEATHS = 3  # of workers that were at one partition, before the pass gives up


class Workers:
    """A context in which partitions can be run."""

    def __init__(self, where: int | str) -> None:
        """Prepare to run partitions.

        Args:
            where: 0 for this process, N for local processes, tcp:// or tls://HOST:PORT for a
                cluster whose workers see the same folders under the same paths. Whoever reaches a
                tcp:// one can run code in it.
        """
        self.where = where
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
                        "of memory perhaps; finished shards stay. Lower cache.batch_seconds and "
                        "run make cache"
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
            return Client(self._stack.enter_context(cluster))
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
        return client
