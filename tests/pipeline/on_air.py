"""A workspace whose champion `make serve` serves, for tests to ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.servers import server
from tests.pipeline.conftest import ROOT, environment

START_SECONDS = 120
END_SECONDS = 15


@dataclass
class OnAir:
    """A workspace whose champion is on the air."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        """What the command has written."""
        return (self.root / "out.log").read_text()

    def ask(self, body: Any, content_type: str = "application/json") -> tuple[int, str]:
        """Return status and body of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations", content, {"Content-Type": content_type}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def on_air(root: Path) -> Iterator[OnAir]:
    """Serve a workspace's champion until the block ends."""
    port = server.free_port()
    with open(root / "out.log", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.servers.serve", "--port", str(port)],
            cwd=root,
            # As make starts it for somebody who has not activated the venv.
            env={**environment(root), "PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = OnAir(root, port, process)
    try:
        end = time.monotonic() + START_SECONDS
        while "answers until Ctrl-C" not in found.said:
            assert process.poll() is None and time.monotonic() < end, found.said
            time.sleep(0.1)
        yield found
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(END_SECONDS)
