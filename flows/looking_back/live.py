"""Learning curves into MLflow while a stage still runs, without ever holding the stage up."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from distillery.errors import DistilleryError
from distillery.params.whole import Params
from distillery.register.runs import child_name, curve_of
from distillery.tracking.curve_files import CurveFile
from distillery.tracking.store import Tracking
from tasks.lineage import data_version
from tasks.register import open_run

INTERVAL_SECONDS = 3.0
JOIN_SECONDS = 60.0

logger = logging.getLogger(__name__)


def models_of(params: Params, target: str) -> list[str]:
    """Return the models whose curves a stage writes, such as `students/conv/seed-0`."""
    stage, _, item = target.partition("@")
    if stage == "teacher":
        return ["teacher"]
    if stage == "distill":
        student, _, seed = item.rpartition("-")
        roles = ("students", "controls") if params.distill.control else ("students",)
        return [f"{role}/{student}/seed-{seed}" for role in roles]
    return []


class LiveCurves:
    """Follows the curve files of the stage that runs, from a thread of its own.

    Whatever fails is tried again at the next look; `register` sends the whole curves again at the
    end, and equal points change nothing.
    """

    def __init__(self, root: Path, params: Params) -> None:
        self.root = root
        self.params = params
        self.tracking: Tracking | None = None
        self.run: str | None = None
        self._warned = False

    @contextlib.contextmanager
    def following(self, *targets: str) -> Iterator[None]:
        """Follow the curves of some stages until the block ends."""
        models = [model for target in targets for model in models_of(self.params, target)]
        if not models:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._follow, args=(models, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(JOIN_SECONDS)

    def end(self, status: str) -> None:
        """End the run as FAILED or KILLED, if it was opened and MLflow can be reached."""
        if self.tracking is not None and self.run is not None:
            try:
                with self.tracking.explained():
                    self.tracking.end_run(self.run, status)
            except DistilleryError as error:
                logger.warning("%s", error)

    def _follow(self, models: Sequence[str], done: threading.Event) -> None:
        curves = {model: curve_of(self.root, model) for model in models}
        while not done.wait(INTERVAL_SECONDS):
            try:
                self._send(curves)
            except DistilleryError as error:
                if not self._warned:
                    logger.warning("curves will be logged at the end: %s", error)
                self._warned = True

    def _send(self, curves: dict[str, CurveFile]) -> None:
        if self.tracking is None:
            self.tracking = Tracking(self.params.register, self.root)
        if self.run is None:
            self.run = open_run(self.tracking, self.root, self.params)
        with self.tracking.explained():
            for model, curve in curves.items():
                points, content = curve.read()
                if points:
                    self.tracking.log_points(self._run_of(model), points)
                    curve.taken(content)

    def _run_of(self, model: str) -> str:
        assert self.tracking is not None and self.run is not None
        if model == "teacher":
            return self.run
        name = child_name(self.params, model, data_version(self.root))
        return self.tracking.child(self.run, model, name)
