"""Starting the processes that train one network together, and ending them together.

They are children of the stage's process, which waits for them and then takes up the checkpoint that
they leave, as it takes up one of a training that was killed. Rank 0 alone writes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessException,
    start_processes,
)
from tqdm import tqdm

from distillery.errors import DistilleryError, ModelError
from distillery.training.processes import CPU, SETTING, Processes
from distillery.training.trainer import Trainer

GROUP = "cpu:gloo,cuda:nccl"
LOOPBACK = "lo"
PR_SET_PDEATHSIG = 1
END_SECONDS = 10.0
ERROR = ".error"
Rebuild = Callable[[Processes], Trainer]
"""Builds a training anew for one of several processes; it travels to them."""


def fit(trainer: Trainer, rebuild: Rebuild) -> None:
    """Train in as many processes as the trainer is for; it has the best epoch's weights then.

    Args:
        trainer: of this process, which may be the one that waits for others.
        rebuild: builds the same training in them; what it reads must be there by now.

    Raises:
        DistilleryError: as `Trainer.fit`; or one of the processes died.
    """
    if trainer.processes.waits and not trainer.is_over():
        _run(rebuild, trainer.processes.count, trainer.name)
    trainer.fit()


def _run(rebuild: Rebuild, count: int, name: str) -> None:
    logging.getLogger("torch.multiprocessing").setLevel(logging.ERROR)  # whom it ends is said below
    children: ProcessContext | None = None
    with TemporaryDirectory() as folder:
        arguments = (count, rebuild, Path(folder), os.getpid())
        try:
            # Daemons: who is stopped while it starts them takes them along.
            children = start_processes(  # type: ignore[no-untyped-call]
                _train, arguments, count, join=False, daemon=True
            )
            while not children.join():
                pass
        except ProcessException as error:
            assert children is not None
            codes = [process.exitcode or 0 for process in children.processes]
            raise _explained(error.error_index, codes, _said_in(Path(folder)), name) from None
        finally:
            _end(children)


def _explained(
    first: int, codes: Sequence[int], said: Sequence[tuple[int, Exception | str]], name: str
) -> Exception:
    """Return why processes ended: of one that fails, all others fail at nearly the same time.

    Args:
        first: rank of the process that was seen to end first.
        codes: exit statuses by rank, negative for signals.
        said: what they said before, with their ranks: errors of the training, or tracebacks.
        name: of the training.
    """
    for _, error in said:
        if isinstance(error, Exception):
            return error  # as one process would say it
    killed = [rank for rank, code in enumerate(codes) if code < 0 and code != -signal.SIGTERM]
    if said and not killed:
        rank, trace = said[0]
        return RuntimeError(f"{name}: rank {rank} of {len(codes)} processes failed:\n{trace}")
    rank = killed[0] if killed else first
    how = signal.Signals(-codes[rank]).name if codes[rank] < 0 else f"status {codes[rank]}"
    return ModelError(
        f"{name}: rank {rank} of {len(codes)} processes, counted from 0, ended with {how}, which "
        "ended the others; run again, and training goes on from its last checkpoint. Where memory "
        f"ran out, set batch_seconds or {SETTING} lower"
    )


def _say_in(folder: Path, rank: int, error: Exception | str) -> None:
    (folder / f"{rank}{ERROR}").write_bytes(pickle.dumps(error))


def _said_in(folder: Path) -> list[tuple[int, Exception | str]]:
    """Return what processes said, with their ranks, in the order of time."""
    files = sorted(folder.glob(f"*{ERROR}"), key=lambda path: path.stat().st_mtime_ns)
    return [(int(path.stem), pickle.loads(path.read_bytes())) for path in files]


def _end(children: ProcessContext | None) -> None:
    """End what is left of them."""
    for process in [] if children is None else children.processes:
        process.terminate()
    for process in [] if children is None else children.processes:
        process.join(END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _train(rank: int, count: int, rebuild: Rebuild, folder: Path, parent: int) -> None:
    """Train as one of several processes.

    Args:
        rank: its number.
        count: how many there are.
        rebuild: builds the training.
        folder: where they find each other, and leave what ends the training.
        parent: the process that waits.
    """
    _die_with(parent)
    logging.disable(logging.WARNING)  # the one that waits has said it
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that would outlive this process
    status = 0
    try:
        trainer = rebuild(Processes(count, rank))
        if rank == 0:
            logging.disable(logging.NOTSET)
        _join(trainer.device, rank, count, folder / "group")
        trainer.fit()
    except (DistilleryError, OSError) as error:
        _say_in(folder, rank, error)
        status = 1
    except Exception:
        _say_in(folder, rank, traceback.format_exc())
        status = 1
    sys.stderr.flush()
    # At once. Whoever tidies up may wait for ever: DistributedDataParallel destroys the group with
    # Python's lock held, and the group's threads may be waiting for that.
    os._exit(status)


def _join(device: str, rank: int, count: int, group: Path) -> None:
    """Find the other processes; all are on this machine, and nobody else can reach them."""
    os.environ.update(GLOO_SOCKET_IFNAME=LOOPBACK, NCCL_SOCKET_IFNAME=LOOPBACK)
    if device != CPU:
        torch.cuda.set_device(device)
    backend = "gloo" if device == CPU else GROUP
    # By a file: no port that another user could knock at.
    dist.init_process_group(backend, group.as_uri(), rank=rank, world_size=count)


def _die_with(parent: int) -> None:
    """Ask Linux to end this process when the one that waits for it dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before Linux knew
        sys.exit(1)
