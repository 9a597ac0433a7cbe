"""The pipeline as a Prefect flow.

prepare → fetch → teacher → cache → distill → evaluate → register
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect import Task, flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from distillery.decoder.text_files import check_decoder_files
from distillery.errors import BusyError, DistilleryError, StageError, TrackingError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.gate.verdict import markdown as verdict_markdown
from distillery.register.gate.verdict import read_verdict
from distillery.register.registered import Registered
from distillery.tracking.fetched import check_sources
from flows.data_check import check_frames, warn_of_moved_data
from flows.fetch import fetch as fetch_models
from flows.fetch import readers_that_run_anyway
from flows.looking_back import results
from flows.looking_back.live import LiveCurves
from flows.names import flow_run_name, label_run
from flows.stages.pipeline import STAGES, Pipeline, distill_target, targets
from flows.stages.side_by_side import places
from flows.stages.storage import push, save_corpus
from flows.stores import warn_of_stores
from tasks import register as register_stage

RETRY_SECONDS = [10, 30]


class Run:
    """One pass through the pipeline: what its tasks share."""

    def __init__(
        self,
        root: Path,
        settings: Params,
        tags: Mapping[str, str],
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin a pass.

        Args:
            root: the workspace.
            settings: the whole of params.yaml.
            tags: what every MLflow run of this pass bears beside its lineage.
            at: told the stage that begins now.
        """
        self.root = root
        self.settings = settings
        self.tags = tags
        self.at = at
        self.outcomes: dict[str, str] = {}
        self.live = LiveCurves(root, settings)
        self.pipeline = Pipeline(root, settings)

    def stage(self, target: str) -> str:
        """Bring one stage up to date under Prefect's eyes and return what became of it."""
        logger = get_run_logger()
        self.at(target)
        with self.live.following(target):
            done = self.pipeline.bring_up_to_date(target, logger.info)
        logger.info("%s: %s (%.1f s)", target, done.outcome, done.seconds)
        self.outcomes[target] = done.outcome
        return done.outcome

    def train_ahead(self) -> None:
        """Train what the stages `distill` are going to save."""
        logger, start = get_run_logger(), time.monotonic()
        names = targets(self.settings, "distill")
        self.at(names[0])
        with self.live.following(*names):
            ready = self.pipeline.train_ahead(logger.info)
        if ready:
            logger.info("trained for %s (%.1f s)", ", ".join(ready), time.monotonic() - start)


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether trying again can help: a busy workspace, or an MLflow that does not answer."""
    return isinstance(state.data, BusyError | TrackingError)


# Of as many types as Prefect's `task` has arguments.
_options: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # DVC knows what is up to date
    "persist_result": False,
    "retries": len(RETRY_SECONDS),
    "retry_delay_seconds": RETRY_SECONDS,
    "retry_condition_fn": _may_pass,
}


@task(name="prepare", task_run_name="prepare", **_options)
def prepare(run: Run) -> str:
    """Turn the corpus into prepared data, and say where they moved away from the champion's."""
    outcome = run.stage("prepare")
    if outcome != "unchanged":
        save_corpus(run.root, run.settings.prepare.source, get_run_logger().info)
        warn_of_moved_data(run.root, run.settings.register, get_run_logger().warning)
    return outcome


@task(name="fetch", task_run_name="fetch", **_options)
def fetch(run: Run) -> str:
    """Bring registered models here that the settings name."""
    follow = readers_that_run_anyway(run.root, run.settings)
    for line in fetch_models(run.root, run.settings, follow):
        get_run_logger().info(line)
        run.pipeline.look_again()
    return run.stage("fetch")


@task(name="teacher", task_run_name="teacher", **_options)
def teacher(run: Run) -> str:
    """Get the teacher ready."""
    return run.stage("teacher")


@task(name="cache", task_run_name="cache", **_options)
def cache(run: Run) -> str:
    """Store the teacher's outputs."""
    return run.stage("cache")


@task(name="train", task_run_name="train side by side", **_options)
def train(run: Run) -> None:
    """Train students and controls side by side, as far as that is faster than in turn."""
    run.train_ahead()


@task(name="distill", task_run_name="distill ({student}, seed {seed})", **_options)
def distill(run: Run, student: str, seed: int) -> str:
    """Train one student and its control from one seed."""
    return run.stage(distill_target(student, seed))


@task(name="evaluate", task_run_name="evaluate", **_options)
def evaluate(run: Run) -> str:
    """Score every model on the test split."""
    return run.stage("evaluate")


@task(name="register", task_run_name="register", **_options)
def register(run: Run) -> Registered:
    """Log the results and register the students."""
    run.at("register")
    tags = {"prefect.flow_run_id": str(runtime.flow_run.id), **run.tags}
    live = run.live
    return register_stage.register(run.root, live.run, tracking=live.tracking, tags=tags)


@flow(name="distillation", flow_run_name=flow_run_name, persist_result=False)
def distillation(until: str = "register", trigger: str = "manual") -> Registered | None:
    """Run the pipeline in the workspace that is the current folder; the caller holds its lock.

    Args:
        until: the last stage to run.
        trigger: what started this, for the record.

    Returns:
        What was registered; None where the pipeline ends before `register`.
    """
    root = Path.cwd()
    label_run(root)
    settings = Params.load(root / PARAMS_FILE)
    run = Run(root, settings, {"trigger": trigger})
    _pull(run, until)
    through(run, until)
    if run.pipeline.anything_ran:
        _push(run.root)
    if until != "register":
        return None
    return _nothing_to_do(run) or conclude(run)


def through(run: Run, until: str = "register") -> None:
    """Bring all stages up to date, `until` included; `register` comes with `conclude`.

    Raises:
        DistilleryError: what a stage raises; MLflow's run is then FAILED, or KILLED where the run
            was told to stop. The next one goes on with the work that is done.
    """
    order = [*STAGES, "register"]
    wanted = order[: order.index(until) + 1]
    settings = run.settings
    try:
        if "teacher" in wanted:
            check_sources(run.root, settings.teacher)
            check_decoder_files(run.root, settings.register.decoder)
            warn_of_stores(run.root, settings.register, get_run_logger().warning)
        prepare(run)
        if "teacher" in wanted and run.pipeline.will_train():
            check_frames(run.root, settings)
        if "fetch" in wanted:
            fetch(run)
        if "teacher" in wanted:
            teacher(run)
        if "cache" in wanted:
            cache(run)
        if "distill" in wanted:
            if len(places(settings)) > 1:
                train(run)
            for student in settings.distill.students:
                for seed in settings.distill.seeds:
                    distill(run, student, seed)
        if "evaluate" in wanted:
            evaluate(run)
    except DistilleryError:
        run.live.end("FAILED")
        raise
    except BaseException:
        run.live.end("KILLED")
        raise


def conclude(run: Run) -> Registered:
    """Register what the stages left, show it in Prefect, and return what was registered."""
    registered = register(run)
    _publish(run.root, registered)
    return registered


def _nothing_to_do(run: Run) -> Registered | None:
    """Return what was registered of these results before; None where there is something to do."""
    if run.pipeline.anything_ran:
        return None
    try:
        registered = register_stage.registered_before(run.root)
    except TrackingError:
        return None  # register says so, and tries again
    if registered is None:
        get_run_logger().info("every stage is up to date; MLflow does not hold its results yet")
        return None
    message = "nothing to do: every stage is up to date, and MLflow holds the results"
    get_run_logger().info("%s: %s", message, results.pipeline_link(registered))
    _publish(run.root, registered)
    return registered


def _pull(run: Run, until: str) -> None:
    """Get from DVC's remote what would else be made anew, which it is where that fails."""
    logger, options = get_run_logger(), run.settings.retraining
    if not options.pull:
        return
    try:
        run.pipeline.pull(until, logger.info, 60 * options.transfer_timeout_minutes)
    except StageError as error:
        logger.warning("%s", error)


def _push(root: Path) -> None:
    """Send what is new to DVC's remote; that it cannot be reached spoils no result."""
    logger = get_run_logger()
    try:
        push(root, logger.info)
    except StageError as error:
        logger.warning("%s", error)


def _publish(root: Path, registered: Registered) -> None:
    """Show the result and the gate's verdict as artifacts of the flow run in Prefect."""
    said = read_verdict(root)
    result = results.markdown(results.read_summary(root), registered, said)
    create_markdown_artifact(result, key="results")
    if said is not None:
        create_markdown_artifact(verdict_markdown(said), key="gate")
    create_link_artifact(results.pipeline_link(registered), "MLflow run", key="mlflow-run")
