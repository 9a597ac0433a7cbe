"""The command behind make's targets: python -m flows.run.

With --until STAGE, --only STAGE, --curve or --teachers; without, the whole pipeline.

Slow imports come late, and only where they are needed: the Prefect server starts meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from pathlib import Path

from distillery import doctor, params
from distillery.errors import BusyError, DistilleryError, ParamsError, StageError
from flows import environment, results, server, stages

EXIT_ERROR, EXIT_USAGE, EXIT_BUSY = 1, 2, 75

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline, or one stage, in the current folder and return the exit status."""
    options = _parser().parse_args(arguments)
    root = Path.cwd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment.apply(root)
    try:
        settings = params.load(root / params.PARAMS_FILE)
        stages.check_followed_settings(root)
        _check(root, options.only)
        with stages.workspace_lock(root):
            if options.only:
                _run_one(root, settings, options.only)
            elif options.curve:
                _run_flow(root, "cache", options.trigger)
                _run_extra("flows.curve", root, settings)
            elif options.teachers:
                _run_flow(root, "prepare", options.trigger)
                _run_extra("flows.teachers", root, settings)
            else:
                _run_flow(root, options.until, options.trigger)
    except ParamsError as error:
        return _complain(error, EXIT_USAGE)
    except BusyError as error:
        return _complain(error, EXIT_BUSY)
    except DistilleryError as error:
        return _complain(error, EXIT_ERROR)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.run", description=__doc__)
    names = [*stages.STAGES, "register"]
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--until", choices=names, default="register", help="the last stage to run")
    choice.add_argument("--only", choices=names, help="one stage, without Prefect")
    choice.add_argument("--curve", action="store_true", help="WER against hours of training audio")
    choice.add_argument("--teachers", action="store_true", help="compare candidates for teacher")
    parser.add_argument("--trigger", default="manual", help="what started this, for the record")
    return parser


def _check(root: Path, only: str | None) -> None:
    """Make sure that the workspace is fit to run.

    Raises:
        StageError: it is not; the message says what to do.
    """
    needs_corpus = only in (None, "prepare")
    problems = [
        f"{finding.check}: {finding.found}; {finding.advice}"
        for finding in doctor.quick_checks(root)
        if not finding.ok and (needs_corpus or finding.check not in ("corpus", "voices"))
    ]
    if problems:
        raise StageError("\n       ".join(problems))


def _run_one(root: Path, settings: params.Params, stage: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if stage == "register":
        from tasks.register import register

        register(root)
        return
    if stage == "fetch":
        from flows.fetch import fetch

        for line in fetch(root, settings):
            logger.info("%s", line)
    # What these two read may not be there yet; no registry is asked.
    first = ["fetch"] if stage in ("teacher", "distill") else []
    for target in [*first, *stages.targets(settings, stage)]:
        done = stages.run_stage(root, target, _write_line)
        logger.info("%s: %s (%.1f s)", done.target, done.outcome, done.seconds)


def _run_flow(root: Path, until: str, trigger: str) -> None:
    with server.prefect_server(root):
        for module in ("dvc.repo", "mlflow", "prefect"):
            importlib.import_module(module)
        flow = importlib.import_module("flows.distillation").distillation
        environment.expected_errors_without_traceback()
        server.wait_until_healthy()
        try:
            registered = flow(str(root), until, trigger)
        finally:
            server.flush_events()
    if registered is not None:
        _write_line(results.text(root, registered))


def _run_extra(module: str, root: Path, settings: params.Params) -> None:
    # Prefect has taken the root logger; from here on lines stand for themselves.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    importlib.import_module(module).run(root, settings, _write_line)


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(error: DistilleryError, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error}\n")
    return status


if __name__ == "__main__":
    # No clean-up by the interpreter: its threads would wait for servers that are gone.
    status = main()
    sys.stdout.flush()
    os._exit(status)
