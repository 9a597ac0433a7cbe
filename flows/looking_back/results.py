"""What a run shows at its end: the table, what was registered, and what to do next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.evaluate.tables import markdown_table, render_table
from distillery.register.gate import verdict
from distillery.tracking.names import charts_page, run_page

SUMMARY_FILE = "reports/evaluation/summary.json"
DEFAULT_MLFLOW_PORT = "5000"


def mlflow_link(registered: Mapping[str, Any]) -> str:
    """Return the page of the run in MLflow, on the port of `make ui` if there is no server."""
    page = run_page(registered["experiment_id"], registered["runs"]["parent"])
    return f"{_mlflow(registered)}/{page}"


def charts_link(registered: Mapping[str, Any]) -> str:
    """Return the page of all students as charts in MLflow, likewise."""
    return f"{_mlflow(registered)}/{charts_page(registered['experiment_id'])}"


def _mlflow(registered: Mapping[str, Any]) -> str:
    uri = str(registered["tracking_uri"]).rstrip("/")
    if uri.startswith("http"):
        return uri
    return f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', DEFAULT_MLFLOW_PORT)}"


def markdown(root: Path, registered: Mapping[str, Any]) -> str:
    """Return the result as Markdown: the table, the registered version, its place, the link."""
    said = verdict.read_verdict(root)
    gate = "" if said is None else f" {verdict.sentence(said)}"
    return (
        f"{_sentence(registered)}{gate}\n\n{markdown_table(_summary(root))}\n"
        f"In MLflow: [this run]({mlflow_link(registered)}), "
        f"[all students as charts]({charts_link(registered)})\n"
        + "".join(f"\n**Warning:** {line}\n" for line in registered.get("data_warnings", []))
    )


def gate_markdown(root: Path) -> str | None:
    """Return what the gate said, None where it left no verdict."""
    found = verdict.read_verdict(root)
    return None if found is None else verdict.markdown(found)


def table(root: Path) -> str:
    """Return the table of all models for the terminal."""
    return f"\n{render_table(_summary(root))}"


def text(root: Path, registered: Mapping[str, Any]) -> str:
    """Return the result for the terminal, with the commands that come next."""
    said = verdict.read_verdict(root)
    gate = [] if said is None else ["", verdict.render(said)]
    return "\n".join(
        [
            table(root),
            "",
            _sentence(registered),
            *gate,
            *(f"WARNING: {line}" for line in registered.get("data_warnings", [])),
            "",
            "Next:",
            *(f"  {command:45}{does}" for command, does in _next(registered)),
        ]
    )


def _next(registered: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return commands that work now, with what they do."""
    if registered["champion"] is None:  # nothing to transcribe with by default
        models = [
            ("make champion", "the versions, and what the gate said of each"),
            (f"make promote VERSION={registered['version']}", "champion all the same, by hand"),
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


def _sentence(registered: Mapping[str, Any]) -> str:
    return (
        f"Registered: {registered['name']} version {registered['version']} "
        f"(student {registered['student']}, seed {registered['seed']}) is {registered['alias']}."
    )


def _summary(root: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((root / SUMMARY_FILE).read_text("utf-8"))
    return summary
