"""Reading params.yaml: the whole of it, or the sections that one stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError

from distillery.credentials import line_with_credentials
from distillery.errors import ParamsError
from distillery.params.base import Section
from distillery.params.messages import explain

PARAMS_FILE = "params.yaml"
SECTIONS = (
    "prepare",
    "teacher",
    "cache",
    "distill",
    "evaluate",
    "register",
    "curve",
    "language_model",
    "teacher_candidates",
    "retraining",
    "package",
    "training",
)
"""All sections that the file may hold: what loads some of them still knows a misspelt one."""
WHERE_PASSWORDS_GO = (
    "leave it out there: an MLflow server's goes into MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN), PostgreSQL's into ~/.pgpass"
)


class Sections(Section):
    """Base of what is read from the file at once: each field is a section of it."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read these sections of params.yaml; what stands in the others is not looked at.

        Raises:
            ParamsError: the file is missing or no YAML mapping, a URL in it holds a password, a
                section is unknown, or keys of these are unknown, of the wrong type or out of
                range; the message lists all of them with their paths.
        """
        others = {name for name in SECTIONS if name not in cls.model_fields}
        values = {name: value for name, value in _read(path).items() if name not in others}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = "\n".join(f"  {line}" for line in explain(error, cls, SECTIONS))
            raise ParamsError(
                f"{path}: {error.error_count()} setting(s) cannot be used; "
                f"correct these and run again\n{lines}"
            ) from None


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if line := line_with_credentials(text):  # before anything could quote it
            raise ParamsError(
                f"{path}, line {line}: a URL holds a user, password or key, which would stand in "
                f"Git and in every run's artifacts; {WHERE_PASSWORDS_GO}"
            )
        raw = yaml.safe_load(text)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; copy one from examples/") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: cannot be read: {error}; save it again as UTF-8") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: holds {type(raw).__name__}, expected sections such as prepare:")
    return raw
