"""Retrain on a schedule until Ctrl-C: python -m flows.servers.schedule [--prefect-port PORT]

Serves the flow `retraining` from this process: every run is a process of its own. Needs a Prefect
server that keeps schedules: the one that PREFECT_API_URL names, that of `make ui`, or one of its
own, whose pages `make ui` then shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.errors import DistilleryError, ParamsError
from distillery.params.file import PARAMS_FILE
from distillery.params.retraining import RetrainingParams
from distillery.params.whole import Params
from flows import environment
from flows.servers import server
from flows.servers.password import CLIENT_VARIABLE, PASSWORD_FILE, for_server
from flows.stages.lock import check_workspace

if TYPE_CHECKING:
    from prefect.runner import Runner

NAME = "schedule"
LOG_FILE = "scratch/prefect.log"
MAX_RUNS = 2
"""One that works and one that finds it at work, and so is skipped at once."""


def main(arguments: list[str] | None = None) -> int:
    """Serve the schedule of the current folder and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.servers.schedule", description=__doc__)
    parser.add_argument("--prefect-port", type=int, default=4200)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    server.obey_signals()
    environment.apply(root)
    try:
        settings = Params.load(root / PARAMS_FILE)
        check_workspace(root, needs_corpus=False)
        serve(root, settings.retraining, options.prefect_port)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ParamsError) else 1
    except KeyboardInterrupt:
        pass
    return 0


def serve(root: Path, settings: RetrainingParams, port: int) -> None:
    """Serve the flow on its schedule until the process is told to stop.

    Args:
        root: the workspace.
        settings: when to retrain.
        port: of a Prefect server, if there is none yet.

    Raises:
        ParamsError: the cron expression means nothing.
        StageError: no Prefect server comes up.
    """
    with contextlib.ExitStack() as stack:
        found = os.environ.get("PREFECT_API_URL")
        if not found:
            found = server.ui_server(root)
            os.environ[CLIENT_VARIABLE] = for_server(root)
        api, log = found or server.api_on(port), root / LOG_FILE
        if not found:
            own = stack.enter_context(server.whole_server(root, "schedule", port, log))
        os.environ["PREFECT_API_URL"] = api
        schedules = importlib.import_module("prefect.schedules")
        flow = importlib.import_module("flows.retraining").retraining
        try:
            schedule = schedules.Cron(settings.cron, timezone=settings.timezone)
        except ValueError as error:
            raise ParamsError(
                f"retraining.cron: {settings.cron!r} is no cron expression ({error}), expected "
                'five fields such as "0 3 * * *"'
            ) from error
        if found:
            server.wait_until_healthy(api, server.SET_SECONDS)
        else:
            server.announce(root, port, own, log)
        sys.stdout.write(
            f"retraining at {settings.cron} ({settings.timezone}); pages: "
            f"{api.removesuffix('/api')}\nThe pages ask for the password in {PASSWORD_FILE}.\n"
            "now, once: make retrain. Ctrl-C ends the schedule.\n"
        )
        sys.stdout.flush()
        runner = importlib.import_module("prefect.runner").Runner(name=NAME, limit=MAX_RUNS)
        runner.add_flow(
            flow,
            name=NAME,
            schedules=[schedule],
            parameters={"trigger": "schedule"},
        )
        asyncio.run(_run_until_told(runner))


async def _run_until_told(runner: Runner) -> None:
    """Serve until SIGTERM or Ctrl-C, then cancel what runs and wait until it has ended.

    Prefect's own way, `flow.serve`, leaves runs alone when it is told to stop, and waits for them.
    """
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # it begins, and puts a handler of its own on SIGTERM
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not serving.done() and runner.started:
        await runner.astop()
    await serving


if __name__ == "__main__":
    # No clean-up by the interpreter: its threads would wait for servers that are gone.
    status = main()
    sys.stdout.flush()
    os._exit(status)
