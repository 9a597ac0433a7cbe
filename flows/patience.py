"""Patience with what may not answer for minutes, and cannot be interrupted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

STORE_SECONDS = 30.0
"""With a store whose library would wait for minutes."""


def within(seconds: float, action: Callable[[], None]) -> None:
    """Do something that cannot be interrupted, and go on without it after some seconds.

    Raises:
        TimeoutError: it had not ended; its thread dies with this process.
    """
    outcome: queue.Queue[BaseException | None] = queue.Queue()

    def do() -> None:
        try:
            action()
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=do, daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
