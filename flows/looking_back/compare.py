"""The leaderboard of all students that MLflow knows: python -m flows.looking_back.compare.

One row per pipeline run and student, means over its seeds, best WER first. Only rows that share a
test split can be compared, so a rule stands between the splits.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from distillery.console import new_table
from distillery.data.units import Unit
from distillery.errors import DistilleryError, StageError
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.tracking.store import MODEL_TAG, OBJECTIVE_TAG, PARENT_TAG, UNIT_TAG, Tracking
from flows import environment

if TYPE_CHECKING:
    from mlflow.entities import Run

CSV_FILE = "reports/leaderboard.csv"
PAGE = 1000
COLUMNS = 120
METRICS = {
    "test/wer": "wer",
    "gain/wer": "gain",
    "gap_closed": "gap_closed",
    "model/parameters": "parameters",
    "model/bytes": "bytes",
    "test/real_time_factor": "real_time_factor",
}


def find_students(tracking: Tracking) -> pd.DataFrame:
    """Return a row for every student's run that ended: what it is, and how it did.

    Columns: run, parent, name, student, seed, objective, data (MD5 of the prepared data), corpus,
    unit, started, control_wer, and the figures of METRICS; rates are fractions.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    rows, controls = [], {}
    with tracking.explained():
        token = None
        while True:
            page = tracking.client.search_runs(
                [tracking.experiment_id],
                f"tags.`{MODEL_TAG}` != '' and attributes.status = 'FINISHED'",
                max_results=PAGE,
                page_token=token,
            )
            for run in page:
                tags, values, settings = run.data.tags, run.data.metrics, run.data.params
                role, student, seed = tags[MODEL_TAG].split("/")
                if "test/wer" not in values:
                    continue  # left by a run that never came to its evaluation
                if role == "controls":
                    controls[(tags[PARENT_TAG], student, seed)] = values["test/wer"]
                    continue
                rows.append(
                    {
                        "run": run.info.run_id,
                        "parent": tags[PARENT_TAG],
                        "name": _name(run, student),
                        "student": student,
                        "seed": seed,
                        "corpus": settings.get("data.corpus", settings.get("prepare.corpus", "")),
                        "data": tags.get("dvc.data.md5", ""),
                        "unit": tags.get(UNIT_TAG, Unit.WORD.value),
                        "started": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
                        **{name: values.get(metric) for metric, name in METRICS.items()},
                    }
                )
            token = page.token
            if not token:
                break
    for row in rows:
        row["control_wer"] = controls.get((row["parent"], row["student"], row["seed"]))
    return pd.DataFrame(rows)


def _name(run: Run, student: str) -> str:
    """Return what a row is called: data and seeds have columns of their own."""
    objective = run.data.tags.get(OBJECTIVE_TAG)
    return f"{student}-{objective}" if objective else run.info.run_name  # of an older Distillery


def leaderboard(found: pd.DataFrame) -> pd.DataFrame:
    """Return a row per pipeline run and student: means over seeds, the lowest WER first.

    Runs of equal prepared data stand together, the data that were used last first.

    Args:
        found: of `find_students`.
    """
    figures = [*METRICS.values(), "control_wer"]
    grouped = found.groupby(["parent", "student"], sort=False)
    table = grouped[figures].mean().astype(float)
    table["wer_sd"] = grouped["wer"].std()
    table["seeds"] = grouped["seed"].nunique()
    for name in ("name", "corpus", "data", "unit", "started"):
        table[name] = grouped[name].first()
    table["runs"] = grouped["run"].agg(" ".join)  # of any seed
    table = table.reset_index()
    table["latest"] = table.groupby("data")["started"].transform("max")
    table = table.sort_values(
        ["latest", "data", "wer", "started"], ascending=[False, True, True, False]
    )
    return table.drop(columns="latest").reset_index(drop=True)


def render(table: pd.DataFrame, champions: Sequence[str] = ()) -> Table:
    """Return the leaderboard as a table for the terminal.

    Args:
        table: of `leaderboard`.
        champions: runs whose student is the champion of its registered model.
    """
    shown = new_table()
    shown.add_column("student", overflow="fold")
    units = [unit for unit in Unit if unit in set(table["unit"])] or [Unit.WORD]
    rate = " or ".join(unit.rate for unit in units)
    for header in (
        "data",
        "seeds",
        f"{rate} %",
        "control",
        "gain",
        "gap closed",
        "parameters",
        "RTF",
    ):
        shown.add_column(header, justify="right", no_wrap=True)
    shown.add_column("started, UTC", no_wrap=True)
    former = None
    row: Any
    for row in table.itertuples():
        if former not in (None, row.data):
            shown.add_section()
        former = row.data
        spread = "" if pd.isna(row.wer_sd) else f" ± {100 * row.wer_sd:.1f}"
        named = f" {Unit(row.unit).rate}" if len(units) > 1 else ""
        mark = " (champion)" if set(row.runs.split()) & set(champions) else ""
        shown.add_row(
            f"{row.name}{mark}",
            f"{row.corpus}@{row.data[:6]}",
            str(row.seeds),
            f"{100 * row.wer:.1f}{spread}{named}",
            _number(row.control_wer, 100, ".1f"),
            _number(row.gain, 100, "+.1f"),
            _number(row.gap_closed, 100, ".0f", " %"),
            f"{row.parameters:,.0f}",
            f"{row.real_time_factor:.2g}",
            f"{row.started:%m-%d %H:%M}",
        )
    return shown


def _number(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "-" if value is None or pd.isna(value) else f"{factor * value:{form}}{unit}"


def champion_runs(tracking: Tracking, model_name: str) -> list[str]:
    """Return the runs that the champion's version came from; none where there is no champion."""
    from mlflow.exceptions import MlflowException

    try:
        return [str(tracking.client.get_model_version_by_alias(model_name, "champion").run_id)]
    except MlflowException:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the leaderboard of the current workspace's MLflow, write it as CSV."""
    argparse.ArgumentParser(
        prog="python -m flows.looking_back.compare", description=__doc__
    ).parse_args(arguments)
    root = Path.cwd()
    environment.apply(root)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    try:
        settings = Params.load(root / PARAMS_FILE).register
        tracking = Tracking(settings, root, again="make compare")
        found = find_students(tracking)
        if found.empty:
            raise StageError(
                f"MLflow experiment {settings.experiment!r}: holds no finished student; "
                "run make run"
            )
        table = leaderboard(found)
        champions = champion_runs(tracking, settings.model_name)
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    (root / CSV_FILE).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(root / CSV_FILE, table.to_csv(index=False).encode())
    console = Console(width=COLUMNS if not sys.stdout.isatty() else None, highlight=False)
    console.print(render(table, champions))
    console.print(f"Rows between two rules share their data. Written: {CSV_FILE}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
