"""What a registration came to, as reports/registered.json holds it. Imports no model code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from distillery.files import write_json

REGISTERED_FILE = "reports/registered.json"
PARENT = "parent"
"""What the pipeline's run is called among the runs of its models."""


@dataclass(frozen=True)
class Registered:
    """The student that was put up for promotion, and where everything is in MLflow."""

    name: str
    """The registered model."""
    version: str
    """The student's version of it."""
    alias: str
    """champion, challenger, previous, or nothing where it stays without one."""
    reason: str
    """Why, in the gate's words."""
    champion: str | None
    """The version that is champion now; None where there is none."""
    student: str
    """In params.yaml."""
    seed: int
    """The one of its seeds that was registered."""
    versions: Mapping[str, str]
    """Of every student, by name."""
    runs: Mapping[str, str]
    """Ids of the runs, by model and seed; the pipeline's is called `parent`."""
    experiment_id: str
    """MLflow's."""
    tracking_uri: str
    """Where MLflow is, without credentials."""
    evaluation_md5: str = ""
    """DVC's hash of the evaluation that was registered; empty where an old version did not say."""
    data_warnings: tuple[str, ...] = ()
    """How the data moved away from the champion's, a sentence each."""

    @property
    def parent_run(self) -> str:
        """Id of the pipeline's run."""
        return self.runs[PARENT]

    def write(self, root: Path) -> None:
        """Write reports/registered.json in a workspace."""
        write_json(root / REGISTERED_FILE, asdict(self))


def read_registered(root: Path) -> Registered | None:
    """Return what the last registration of a workspace left; None where none can be read."""
    try:
        return TypeAdapter(Registered).validate_json((root / REGISTERED_FILE).read_bytes())
    except (OSError, ValueError):
        return None
