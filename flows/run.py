"""The command behind make's targets: python -m flows.run.

With --until STAGE, --only STAGE, --curve, --teachers or --retrain; without, the whole pipeline.

Slow imports come late, and only where they are needed: the Prefect server starts meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from distillery.errors import BusyError, DistilleryError, ParamsError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.gate.verdict import read_verdict
from distillery.register.registered import Registered, read_registered
from flows import environment
from flows.looking_back import results
from flows.servers import server
from flows.stages.lock import check_workspace, workspace_lock
from flows.stages.pipeline import STAGES, run_stage, targets, train_ahead
from flows.stages.process import SayOnce
from tasks.stage import check_inputs

EXIT_ERROR, EXIT_USAGE, EXIT_BUSY = 1, 2, 75

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline, or one stage, in the current folder and return the exit status."""
    options = _parser().parse_args(arguments)
    root = Path.cwd()
    server.obey_signals()
    environment.apply(root)
    try:
        if options.retrain:
            return _retrain(root, options.force, options.trigger)
        settings = Params.load(root / PARAMS_FILE)
        check_workspace(root, needs_corpus=options.only in (None, "prepare"))
        with workspace_lock(root):
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
    names = [*STAGES, "register"]
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--until", choices=names, default="register", help="the last stage to run")
    choice.add_argument("--only", choices=names, help="one stage, without Prefect")
    choice.add_argument("--curve", action="store_true", help="WER against hours of training audio")
    choice.add_argument("--retrain", action="store_true", help="all of it, if there is a reason")
    parser.add_argument("--force", action="store_true", help="retrain although nothing is new")
    choice.add_argument("--teachers", action="store_true", help="compare candidates for teacher")
    parser.add_argument("--trigger", default="manual", help="what started this, for the record")
    return parser


def _run_one(root: Path, settings: Params, stage: str) -> None:
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
    check_inputs(root, stage, first)
    names, write = targets(settings, stage), SayOnce().through(_write_line)
    for target in [*first, *names]:
        if stage == "distill" and target == names[0]:
            train_ahead(root, settings, names, write)
        done = run_stage(root, target, write)
        logger.info("%s: %s (%.1f s)", done.target, done.outcome, done.seconds)
        if target == "prepare" and done.outcome != "unchanged":
            from flows.data_check import warn_of_moved_data

            warn_of_moved_data(root, settings.register, logger.warning)
    if stage == "evaluate":
        _write_line(results.table(results.read_summary(root)))


def _run_flow(root: Path, until: str, trigger: str) -> None:
    with _prefect(root):
        flow = importlib.import_module("flows.distillation").distillation
        registered = flow(until, trigger)
    if registered is not None:
        _show(root, registered)
    elif until == "evaluate":
        _write_line(results.table(results.read_summary(root)))


def _show(root: Path, registered: Registered) -> None:
    """Show the result of a run that registered its students."""
    _write_line(results.text(results.read_summary(root), registered, read_verdict(root)))


def _retrain(root: Path, force: bool, trigger: str) -> int:
    """Run the flow `retraining`, which takes the lock itself, and return the exit status."""
    Params.load(root / PARAMS_FILE)
    with _prefect(root):
        module = importlib.import_module("flows.retraining")
        state = module.retraining(trigger, force, return_state=True)
        if state.name == module.SKIPPED:
            raise BusyError(state.message)
        done = state.result()
    if done["status"] == "finished":
        registered = read_registered(root)
        assert registered is not None  # a finished run has registered its results
        _show(root, registered)
    else:
        _write_line(f"{done['status']}: {done['reason']} ({done['seconds']:.1f} s)")
    return 0


@contextlib.contextmanager
def _prefect(root: Path) -> Iterator[None]:
    """Provide Prefect, its imports done while the server starts."""
    with server.prefect_server(root) as wait_until_ready:
        for module in ("dvc.repo", "mlflow", "prefect"):
            importlib.import_module(module)
        environment.expected_errors_without_traceback()
        environment.expected_errors_once()
        wait_until_ready()
        try:
            yield
        finally:
            server.flush_events()


def _run_extra(module: str, root: Path, settings: Params) -> None:
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
