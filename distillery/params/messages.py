"""What is wrong with the settings, in words: one line a problem, with the path of its key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from distillery.params.base import Section

Schema = Mapping[str, Any]
"""A part of a model's core schema: what pydantic walks along when it validates."""
NO_SCHEMA: Schema = {}
NEVER_SHOWN = frozenset({"key_variable"})
"""Settings that somebody may have put a secret into."""


def explain(error: ValidationError, model: type[BaseModel], sections: tuple[str, ...]) -> list[str]:
    """Return one line for each problem: the path of its key in the file, and what is wrong there.

    Args:
        error: what validation by `model` raised.
        model: its fields are sections of the file.
        sections: the names of all sections, for the one that was meant.
    """
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in parts_in_file(model, item["loc"]))
        if item["type"] == "extra_forbidden":
            line = f"{path}: unknown setting{_suggestion(str(item['loc'][-1]), sections)}"
        elif item["type"] == "missing":
            line = f"{path}: missing, and has no default"
        else:
            message = re.sub(r"^Value error, ", "", item["msg"])
            hidden = isinstance(item["input"], dict) or NEVER_SHOWN.intersection(item["loc"])
            found = "" if hidden else f" (found {item['input']!r})"
            line = f"{path}: {message}{found}" if path else message
        lines.append(line)
    return lines


def parts_in_file(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Yield the parts of an error's location that stand in the file.

    Where a union is, pydantic puts in which of its members it tried. A student or a setting may
    have the same name, so the schema decides, not the word.

    Args:
        model: what was validated.
        location: where, as pydantic tells it.
    """
    schema: Schema = model.__pydantic_core_schema__
    definitions = {item["ref"]: item for item in schema.get("definitions", ())}
    for part in location:
        schema = _unwrapped(schema, definitions)
        kind = schema.get("type")
        if kind == "tagged-union" and part in schema["choices"]:
            schema = schema["choices"][part]
        elif kind == "union":
            schema = NO_SCHEMA  # of plain values: below them lies nothing
        else:
            schema = _below(schema, part)
            yield part


def _unwrapped(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return what a schema is about, without validators, defaults and the like around it."""
    while True:
        if schema.get("type") == "definition-ref":
            schema = definitions[schema["schema_ref"]]
        elif "schema" in schema:
            schema = schema["schema"]
        else:
            return schema


def _below(schema: Schema, part: int | str) -> Schema:
    """Return the schema of a field, of a value under a name, or of an item."""
    found: Any = None
    kind = schema.get("type")
    if kind == "model-fields":
        fields: Mapping[str, Schema] = schema["fields"]
        named = {field.get("validation_alias", name): field for name, field in fields.items()}
        found = named.get(str(part))
    elif kind == "dict":
        found = schema.get("values_schema")
    elif kind == "tuple" and isinstance(part, int):
        items = schema["items_schema"]
        found = items[min(part, len(items) - 1)]
    return found or NO_SCHEMA


def _suggestion(name: str, sections: tuple[str, ...]) -> str:
    known = {*sections}
    models = [Section]
    for model in models:
        models.extend(model.__subclasses__())
        known.update(model.model_fields)
    known.discard(name)  # it is known elsewhere
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
