"""What a registration came to, as reports/registered.json holds it. Imports no model code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from distillery.files import write_json
from distillery.tracking.names import STUDENT, model_label

REGISTERED_FILE = "reports/registered.json"
PARENT = "parent"
"""What the pipeline's run is called among the runs of its models."""


@dataclass(frozen=True)
class Registered:
    """The student or control that was put up for promotion, and where everything is in MLflow."""

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
    """In params.yaml; a control's."""
    seed: int
    """The one of its seeds that was registered."""
    versions: Mapping[str, str]
    """Of every student, by name; `control NAME` where a control was registered."""
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
    role: str = STUDENT
    """Whether it is a student or a control."""

    @property
    def label(self) -> str:
        """What sentences call the model that was put up."""
        return model_label(self.role, self.student)

    @property
    def parent_run(self) -> str:
        """Id of the pipeline's run."""
        return self.runs[PARENT]

    def write(self, root: Path) -> None:
        """Write reports/registered.json in a workspace."""
        content = asdict(self)
        if self.role == STUDENT:  # as ever
            del content["role"]
        write_json(root / REGISTERED_FILE, content)


def read_registered(root: Path) -> Registered | None:
    """Return what the last registration of a workspace left; None where none can be read."""
    try:
        return TypeAdapter(Registered).validate_json((root / REGISTERED_FILE).read_bytes())
    except (OSError, ValueError):
        return None
