"""What a run shows at its end: the table, what was registered, and what to do next."""

from __future__ import annotations

import os
from pathlib import Path

from distillery.data.workspace import EVALUATION
from distillery.evaluate.summary import Summary
from distillery.evaluate.tables import markdown_table, render_table
from distillery.register.gate import verdict
from distillery.register.gate.verdict import Verdict
from distillery.register.registered import Registered
from distillery.tracking.names import charts_page, run_page

DEFAULT_MLFLOW_PORT = "5000"


def mlflow_link(tracking_uri: str, experiment: str, run: str) -> str:
    """Return the page of a run in MLflow, on the port of `make ui` if there is no server.

    Args:
        tracking_uri: where MLflow is.
        experiment: the experiment's id.
        run: the run's id.
    """
    return f"{_mlflow(tracking_uri)}/{run_page(experiment, run)}"


def _mlflow(tracking_uri: str) -> str:
    if tracking_uri.startswith("http"):
        return tracking_uri.rstrip("/")
    return f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', DEFAULT_MLFLOW_PORT)}"


def pipeline_link(registered: Registered) -> str:
    """Return the page of the pipeline's run in MLflow, likewise."""
    return mlflow_link(registered.tracking_uri, registered.experiment_id, registered.parent_run)


def charts_link(registered: Registered) -> str:
    """Return the page of all students as charts in MLflow, likewise."""
    return f"{_mlflow(registered.tracking_uri)}/{charts_page(registered.experiment_id)}"


def read_summary(root: Path) -> Summary:
    """Return what the evaluation of a workspace found.

    Raises:
        StageError: it is missing or damaged.
    """
    return Summary.read(root / EVALUATION)


def markdown(summary: Summary, registered: Registered, said: Verdict | None) -> str:
    """Return the result as Markdown: the table, the registered version, its place, the link.

    Args:
        summary: what the evaluation found.
        registered: what was registered.
        said: the gate's verdict, None where it left none.
    """
    gate = "" if said is None else f" {verdict.sentence(said)}"
    return (
        f"{_sentence(registered)}{gate}\n\n{markdown_table(summary)}\n"
        f"In MLflow: [this run]({pipeline_link(registered)}), "
        f"[all students as charts]({charts_link(registered)})\n"
        + "".join(f"\n**Warning:** {line}\n" for line in registered.data_warnings)
    )


def table(summary: Summary) -> str:
    """Return the table of all models for the terminal."""
    return f"\n{render_table(summary)}"


def text(summary: Summary, registered: Registered, said: Verdict | None) -> str:
    """Return the result for the terminal, with the commands that come next.

    Args:
        summary: what the evaluation found.
        registered: what was registered.
        said: the gate's verdict, None where it left none.
    """
    return "\n".join(
        [
            table(summary),
            "",
            _sentence(registered),
            *([] if said is None else ["", verdict.render(said)]),
            "",
            "Next:",
            *(f"  {command:45}{does}" for command, does in _next(registered)),
        ]
    )


def _next(registered: Registered) -> list[tuple[str, str]]:
    """Return commands that work now, with what they do."""
    if registered.champion is None:  # nothing to transcribe with by default
        models = [
            ("make champion", "the versions, and what the gate said of each"),
            (f"make promote VERSION={registered.version}", "champion all the same, by hand"),
        ]
    else:
        models = [
            ("make sample", "a clip of the test split as sample.wav"),
            ("make transcribe FILES=sample.wav", "its text, by the champion"),
            (".venv/bin/distillery transcribe sample.wav", "the same, as a command"),
            ("make serve", "the champion over HTTP"),
        ]
    return [
        ("make ui", "runs, curves and models in a browser"),
        *models,
        ("make settings FROM=examples/manifest.yaml", "your own recordings: name their folder"),
        ("", "in params.yaml, then make run"),
    ]


def _sentence(registered: Registered) -> str:
    return (
        f"Registered: {registered.name} version {registered.version} "
        f"({registered.label}, seed {registered.seed}) is {registered.alias}."
    )
