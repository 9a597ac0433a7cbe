"""Retraining as a Prefect flow: notice new data, and take it all the way to the registry.

pull → look → prepare … evaluate → register, with its gate → push → commit → report

DVC knows what there is to do: a changed corpus, changed settings or code, or what a run that was
stopped left undone. Where that is nothing the run ends, and MLflow never hears of it. One run at a
time works in a workspace, whoever started it; another is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Flow, Task, flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Crashed
from prefect.utilities.timeout import timeout

from distillery.data.manifest import Summary
from distillery.data.workspace import EVALUATION, PREPARED
from distillery.errors import BusyError, DistilleryError, StageError, TrackingError
from distillery.evaluate.made_here import is_made_here
from distillery.files import read_json
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.registered import Registered, read_registered
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE, read_report
from distillery.tracking.names import CONTROL
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION
from flows import environment
from flows.distillation import Run, conclude, through
from flows.fetch import fetch
from flows.looking_back import history, results
from flows.looking_back.history import Retraining
from flows.names import add_reason, flow_run_name, label_run
from flows.origin import HOST, began_here, is_alive, origin
from flows.stages import storage
from flows.stages.lock import LOCK_FILE, check_workspace, workspace_lock
from flows.stages.pipeline import STAGES, Changes, changed_targets, targets
from tasks.stage import die_with_parent

FLOWS = ("retraining", "distillation")
SKIPPED = "Skipped"
ARTIFACT = "retraining"
PLOT_FILE = "reports/retraining.png"
PREPARED_FILE = "data/prepared/summary.json"
COMMIT_SECONDS = 60.0


class Journal:
    """What a run writes down while it goes on, so that a kill at any point leaves a trace."""

    def __init__(self, root: Path, record: Retraining) -> None:
        """Begin."""
        self.root = root
        self.record = record
        self._start = time.monotonic()
        history.begin(root, record)

    def at(self, step: str) -> None:
        """Note the step that begins now."""
        self.record.step = step
        history.update(self.root, self.record)

    def warn(self, text: str) -> None:
        """Note what went wrong without spoiling the run."""
        get_run_logger().warning("%s", text)
        self.record.warnings.append(text)

    def close(self, status: history.Status, reason: str = "") -> None:
        """Put the run into the history and show its page in Prefect."""
        self.record.seconds = round(time.monotonic() - self._start, 3)
        history.close(self.root, self.record, status, reason)
        try:
            create_markdown_artifact(history.page(self.record), key=ARTIFACT)
        except Exception as error:  # Prefect is only a view; it may be gone
            get_run_logger().warning("no artifact in Prefect: %s", error)


def leave_a_trace(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook: put a run that could not do so itself into the history, with its page.

    Prefect calls it in the process that watched the run, when that was killed or cancelled.
    """
    root = Path.cwd()
    record = history.unfinished(root)
    if record is not None and record.flow_run == str(flow_run.id):
        status: history.Status = "crashed" if state.type == StateType.CRASHED else "cancelled"
        history.close(root, record, status, state.message or f"Prefect says: {state.name}")


@flow(
    name="retraining",
    flow_run_name=flow_run_name,
    persist_result=False,
    on_failure=[leave_a_trace],
    on_cancellation=[leave_a_trace],
    on_crashed=[leave_a_trace],
)
def retraining(trigger: str = "schedule", force: bool = False) -> Any:
    """Retrain in the workspace that is the current folder, if there is a reason.

    The folder is no parameter: whoever may start a run through Prefect's API would choose whose
    code it imports.

    Args:
        trigger: what started this, for the record.
        force: whether to run although nothing is new.

    Returns:
        The run's line in the history; or a state CANCELLED, named Skipped, where another run is on.
    """
    if runtime.deployment.id is not None:
        die_with_parent()  # what watches a scheduled run may be killed, and would leave it behind
    folder = Path.cwd()
    environment.apply(folder)
    label_run(folder)
    environment.expected_errors_without_traceback()
    record = _new_record(folder, trigger)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(workspace_lock(folder))
        except BusyError as error:
            record.status, record.reason = "skipped", str(error)
            history.append(folder, record)
            add_reason(["skipped"])
            get_run_logger().warning("skipped: %s", error)
            return Cancelled(name=SKIPPED, message=str(error))
        _bury_the_dead(folder, datetime.fromisoformat(record.started))
        journal = Journal(folder, record)
        with _told_of_the_end(journal):
            settings = Params.load(folder / PARAMS_FILE)
            check_workspace(folder)
            record.forced = force or settings.retraining.force
            hours = settings.retraining.timeout_hours
            try:
                with timeout(3600 * hours):
                    _retrain(journal, settings)
            except TimeoutError:
                raise StageError(
                    f"retraining: stopped, for it took longer than {hours:g} h; raise "
                    "retraining.timeout_hours, or run it again: it goes on with what is done"
                ) from None
    return vars(record)


def _new_record(root: Path, trigger: str) -> Retraining:
    now = datetime.now(UTC)
    return Retraining(
        # Not from the clock alone: two runs may see the same second.
        run=f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
        trigger=trigger,
        started=now.isoformat(timespec="seconds"),
        flow_run=str(runtime.flow_run.id),
        origin=origin(root),
    )


@contextlib.contextmanager
def _told_of_the_end(journal: Journal) -> Iterator[None]:
    try:
        yield
    except DistilleryError as error:
        journal.close("failed", str(error))
        raise
    except Exception as error:
        journal.close("failed", f"{type(error).__name__}: {error}")
        raise
    except (KeyboardInterrupt, SystemExit, TerminationSignal) as error:
        journal.close("cancelled", f"told to stop ({type(error).__name__})")
        raise
    except BaseException as error:
        journal.close("crashed", f"{type(error).__name__}: {error}")
        raise
    if journal.record.why:
        journal.close("finished")
    else:
        journal.close("nothing new", "the corpus and all else are as they were")


def _retrain(journal: Journal, settings: Params) -> None:
    logger = get_run_logger()
    root, record, options = journal.root, journal.record, settings.retraining
    former = history.last_work(root)
    names = [name for stage in STAGES for name in targets(settings, stage)]
    journal.at("pull" if options.pull else "look")
    changed = changed_targets(root, names)
    if options.pull and _receive(journal, settings, changed):
        changed = changed_targets(root, names)
    journal.at("look")
    record.why = what_is_new(root, settings, former, changed)
    if record.forced:
        record.why = record.why or ["forced"]
        for line in fetch(root, settings):
            logger.info("%s", line)
    add_reason(record.why)
    if not record.why:
        logger.info("nothing new: the corpus and all else are as they were")
        if options.push and history.is_unsent(root):
            _send(journal, settings)
        return
    logger.info("to do: %s", "; ".join(record.why))
    record.former_champion = _champion(root, settings)
    tags = {"trigger": record.trigger, "retraining.run": record.run}
    run = Run(root, settings, tags, at=journal.at)
    try:
        through(run)
    finally:
        record.stages = run.outcomes
        _note_the_data(journal)
    registered = conclude(run)
    _note_the_result(journal, settings, registered)
    _draw_the_history(journal, settings)
    if options.push:
        _send(journal, settings)
    if options.commit:
        journal.at("commit")
        commit_lock(journal, settings.prepare.source)


def what_is_new(
    root: Path, settings: Params, former: Retraining | None, changed: Mapping[str, Changes]
) -> list[str]:
    """Return what there is to do, in words for a person; empty where there is nothing.

    Args:
        root: the workspace.
        settings: the whole of params.yaml.
        former: the last run that had something to do.
        changed: DVC's status of all stages.
    """
    why = []
    source = os.path.normpath(settings.prepare.source)
    if not (root / LOCK_FILE).exists():
        why.append("nothing has run here yet")
    elif "changed" in (state := _dependency(changed.get("prepare", []), source)):
        why.append(f"new data: {settings.prepare.source} {state}")
    elif changed:
        why.append(f"out of date: {', '.join(changed)}")
    if former is not None and former.status != "finished":
        why.append(f"the last run {former.status} at {former.step}")
    elif not changed and is_made_here(root) and not is_registered(root):
        why.append("results that are not registered")
    return why


def is_registered(root: Path) -> bool:
    """Return whether the last registration was of the evaluation that is here."""
    from tasks.lineage import locked_outputs

    here = locked_outputs(root / LOCK_FILE).get(EVALUATION)
    registered = read_registered(root)
    return here is not None and registered is not None and registered.evaluation_md5 == here


def _dependency(changes: Changes, name: str) -> str:
    """Return in words what DVC's status of a stage says of one dependency."""
    for change in changes:
        if isinstance(change, str):
            continue
        for path, state in change.get("changed deps", {}).items():
            if os.path.normpath(path) == name:
                return "changed" if state == "modified" else f"changed ({state})"
    return ""


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, StageError)


def _tried_again(transfer: Any, settings: Params) -> Any:
    return transfer.with_options(
        retries=settings.retraining.retries,
        retry_delay_seconds=settings.retraining.retry_delay_seconds,
    )


@task(
    task_run_name="pull",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_may_pass,
)
def pull(journal: Journal, names: Sequence[str], seconds: float) -> list[str]:
    """Get what the workspace lacks from DVC's remote, and return what came."""
    return storage.pull_lacking(journal.root, names, get_run_logger().info, seconds)


@task(
    task_run_name="push",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_may_pass,
)
def push(journal: Journal, seconds: float) -> None:
    """Send data, cache and models to DVC's remote."""
    storage.push(journal.root, get_run_logger().info, seconds)


def _receive(journal: Journal, settings: Params, changed: Mapping[str, Changes]) -> list[str]:
    """Pull; what the remote does not give is made anew."""
    seconds = 60 * settings.retraining.transfer_timeout_minutes
    try:
        brought: list[str] = _tried_again(pull, settings)(journal, [*changed], seconds)
    except StageError as error:
        journal.warn(str(error))
        return []
    return brought


def _send(journal: Journal, settings: Params) -> None:
    """Push; that the remote cannot be reached spoils no result."""
    journal.at("push")
    try:
        _tried_again(push, settings)(journal, 60 * settings.retraining.transfer_timeout_minutes)
        journal.record.pushed = True
    except StageError as error:
        journal.record.pushed = False
        journal.warn(f"not sent to the remote, the next run tries again: {error}")


def commit_lock(journal: Journal, source: str) -> None:
    """Commit what DVC names by content and nothing else, if the last commit's differs.

    That is dvc.lock, and the corpus's own file where DVC keeps one, whatever the index holds. They
    may differ because a former run was stopped before it came to its commit.
    """
    record, root = journal.record, journal.root
    message = f"Retraining {record.run}: {'; '.join(record.why)}"
    corpus = storage.corpus_file(root, source)
    names = [LOCK_FILE, *([] if corpus is None else [os.path.relpath(corpus, root)])]
    try:
        if not _git(root, "status", "--porcelain", "--", *names):
            return
        _git(root, "add", "--intent-to-add", *names)
        _git(root, "commit", "--quiet", "--only", "--message", message, "--", *names)
        record.commit = _git(root, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", "") or ""
        journal.warn(f"{', '.join(names)}: not committed, do it by hand: {error}\n{output}".strip())


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMIT_SECONDS,
    )
    return done.stdout.strip()


# --- for the record -------------------------------------------------------------------------------


def _note_the_data(journal: Journal) -> None:
    record, prepared = journal.record, journal.root / PREPARED_FILE
    if "prepare" in record.stages and prepared.exists():
        splits = read_json(prepared, Summary).splits.values()
        record.hours = sum(counts.hours for counts in splits)
        record.num_utterances = sum(counts.num_utterances for counts in splits)
    heard = read_report(journal.root / CACHE_REPORT_FILE)
    if record.stages.get("cache") == "ran" and heard is not None:
        record.teacher_forwards = heard.num_teacher_forwards
        record.teacher_seconds = heard.teacher_seconds
    elif record.stages.get("cache"):
        record.teacher_forwards, record.teacher_seconds = 0, 0.0


def _note_the_result(journal: Journal, settings: Params, registered: Registered) -> None:
    from tasks.lineage import locked_outputs

    record, root = journal.record, journal.root
    summary = results.read_summary(root)
    wer = summary.model_of(registered.role, registered.student).wer
    record.data_md5 = locked_outputs(root / LOCK_FILE)[PREPARED]
    record.unit = summary.data.unit.value
    record.teacher_wer = summary.teacher.wer.value
    is_control = registered.role == CONTROL
    record.student = registered.label if is_control else registered.student
    record.wer, record.wer_low, record.wer_high = wer.value, wer.low, wer.high
    record.version, record.alias = registered.version, registered.alias
    record.verdict = registered.reason
    record.champion = _champion(root, settings)
    record.mlflow_run = registered.parent_run


def _draw_the_history(journal: Journal, settings: Params) -> None:
    """Draw all runs including this one, for people and for MLflow."""
    from flows.looking_back.history_plots import plot_history  # matplotlib takes its time

    record, root = journal.record, journal.root
    path = root / PLOT_FILE
    plot_history([*history.read_history(root), record], path)
    try:
        tracking = Tracking(settings.register, root)
        with tracking.explained():
            tracking.client.log_artifact(str(record.mlflow_run), str(path))
    except TrackingError as error:
        journal.warn(f"{PLOT_FILE} was not logged: {error}")


def _champion(root: Path, settings: Params) -> str | None:
    """Return the champion's version, None where there is none or MLflow does not say."""
    try:
        tracking = Tracking(settings.register, root)
        with tracking.explained():
            name = settings.register.model_name
            found = tracking.client.search_registered_models(f"name = '{name}'")
            return str(found[0].aliases[CHAMPION]) if found else None
    except (TrackingError, KeyError):
        return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None


# --- runs that were killed ------------------------------------------------------------------------


def _bury_the_dead(root: Path, now: datetime) -> None:
    """Say of runs that were killed that they are dead: here they cannot run, for the lock is ours.

    Prefect learns of a killed run only from the process that watched it, and that may have been
    killed, too. Of another host's runs the lock tells nothing, so nothing is said of them.
    """
    if said := end_what_was_left(root):
        get_run_logger().warning("%s; going on", said)
    own = runtime.flow_run.id
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        alive = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        for other in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=alive)),
        ):
            is_dead = began_here(other.labels, root) and not is_alive(other.labels)
            began = other.start_time
            if is_dead and str(other.id) != str(own) and began is not None and began < now:
                message = f"its process was killed; found out by run {own}"
                client.set_flow_run_state(other.id, Crashed(message=message), force=True)


def end_what_was_left(root: Path) -> str | None:
    """Put a run that did not come to its end into the history; the caller holds the lock.

    Returns:
        What became of it, for the log; None where nothing was left.
    """
    left = history.unfinished(root)
    if left is None:
        return None
    if began_here(left.origin, root):
        history.close(
            root, left, "crashed", "its process was killed; found out when the next began"
        )
        return f"run {left.run} was killed at step {left.step}"
    host = left.origin.get(HOST, "that is not known")
    reason = (
        f"it began on a host {host} that is not this one, {origin(root)[HOST]}, from which it "
        "cannot be told whether it still runs; look there"
    )
    history.close(root, left, "vanished", reason)
    return f"run {left.run} was not ended at step {left.step}: {reason}"
