"""What ends a process in good order, held back while something is being finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_held_back() -> Iterator[None]:
    """Hold back SIGTERM and Ctrl-C inside the block; what came is heeded when it has ended.

    Only the main thread hears signals: elsewhere there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = [(number, signal.getsignal(number)) for number in STOPS]
    try:
        for number in STOPS:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
