"""Retrain on a schedule until Ctrl-C: python -m flows.schedule [--prefect-port PORT]

Serves the flow `retraining` from this process: every run is a process of its own. Needs a Prefect
server that keeps schedules: the one that PREFECT_API_URL names, that of `make ui`, or one of its
own, whose pages `make ui` then shows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path

from distillery import params
from distillery.errors import DistilleryError, ParamsError
from flows import environment, server, stages

NAME = "schedule"
LOG_FILE = "scratch/prefect.log"
MAX_RUNS = 2
"""One that works and one that finds it at work, and so is skipped at once."""


def main(arguments: list[str] | None = None) -> int:
    """Serve the schedule of the current folder and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flows.schedule", description=__doc__)
    parser.add_argument("--prefect-port", type=int, default=4200)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment.apply(root)
    try:
        settings = params.load(root / params.PARAMS_FILE)
        stages.check_workspace(root, needs_corpus=False)
        serve(root, settings.retraining, options.prefect_port)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ParamsError) else 1
    except KeyboardInterrupt:
        pass
    return 0


def serve(root: Path, settings: params.RetrainingParams, port: int) -> None:
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
        found = os.environ.get("PREFECT_API_URL") or server.ui_server(root)
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
            f"{api.removesuffix('/api')}\nnow, once: make retrain. Ctrl-C ends the schedule.\n"
        )
        sys.stdout.flush()
        flow.serve(
            name=NAME,
            schedules=[schedule],
            parameters={"root": str(root), "trigger": "schedule"},
            limit=MAX_RUNS,
            print_starting_message=False,
        )


if __name__ == "__main__":
    # No clean-up by the interpreter: its threads would wait for servers that are gone.
    status = main()
    sys.stdout.flush()
    os._exit(status)
