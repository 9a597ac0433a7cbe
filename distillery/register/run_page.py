"""A run's report as one HTML page that needs nothing beside it: tables, plots, errors to listen to.

Everything is inside the file: pictures and recordings as data URIs, no scripts, no links to load.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from rapidfuzz.distance import Levenshtein

from distillery.data.scoring import holds_phrase
from distillery.data.units import Unit
from distillery.evaluate.summary import Summary
from distillery.evaluate.tables import (
    export_cells,
    export_headers,
    remarks,
    table_cells,
    table_headers,
    title,
)
from distillery.register.gate.verdict import Verdict

TEMPLATE = Path(__file__).with_suffix(".html")
NUM_EXAMPLES = 10
MAX_AUDIO_SECONDS = 20.0
"""A longer example is shown without its recording, or the page becomes too large to send."""
CAPTIONS = {
    "learning_curves": "Learning curves",
    "wer_against_size": "{rate} against size",
    "wer_against_speed": "{rate} against speed",
    "wer_by_speaker": "{rate} by speaker",
    "error_counts": "Kinds of errors",
    "filter": "What the filter dropped",
    "history": "Retraining history",
}
"""`{rate}` is the unit's."""

Play = Callable[[str], tuple[np.ndarray, int] | None]
"""Returns an utterance's audio `(samples,)` in [-1, 1) and its rate in hertz, None if unknown."""


@dataclass(frozen=True)
class ReportInputs:
    """What a page is made from."""

    heading: str
    """Such as the run's name."""
    outcome: str
    """In a sentence what became of the run: which student is what in the registry."""
    summary: Summary
    """What the evaluation found."""
    predictions: pd.DataFrame
    """As predictions.parquet has them."""
    student: str
    """Whose errors are shown, `students/conv`."""
    seed: int
    plots: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by name without ending."""
    gate: Verdict | None = None
    """The gate's verdict, where it judged."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    """params.yaml as the run had it."""


@dataclass(frozen=True)
class Example:
    """An utterance that the student misheard."""

    utterance_id: str
    speaker: str
    word_errors: int
    reference: str
    heard: Markup
    """What the student wrote, marked where it differs."""
    others: Sequence[tuple[str, str]]
    """What teacher and control wrote."""
    audio: str | None
    """A data URI."""


def render_page(inputs: ReportInputs, play: Play | None = None) -> str:
    """Return the page.

    Args:
        inputs: what it is made from.
        play: where recordings come from; None: examples are shown without.
    """
    unit = inputs.summary.data.unit
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(TEMPLATE.name).render(
        inputs=inputs,
        unit=unit.value.split()[0],
        reference=unit.reference,
        subtitle=title(inputs.summary.data, len(inputs.summary.seeds)),
        headers=[
            header.replace("-\n", "-").replace("\n", " ")
            for header in table_headers(inputs.summary)
        ],
        rows=table_cells(inputs.summary, " "),
        export_headers=[header.replace("\n", " ") for header in export_headers(inputs.summary)],
        exports=export_cells(inputs.summary),
        remarks=remarks(inputs.summary),
        examples=worst_examples(inputs, play),
        plots=[
            (_caption(name, unit), _data_uri("image/png", content))
            for name, content in inputs.plots.items()
        ],
    )


def worst_examples(
    inputs: ReportInputs, play: Play | None = None, count: int = NUM_EXAMPLES
) -> list[Example]:
    """Return the utterances with most errors of the student, those with most first."""
    table = inputs.predictions
    own = table[(table["model"] == inputs.student) & (table["seed"] == inputs.seed)]
    own = own[own["word_errors"] > 0].sort_values(
        ["word_errors", "utterance_id"], ascending=[False, True]
    )
    return [_example(row, inputs, play) for row in own.head(count).itertuples()]


def _example(row: Any, inputs: ReportInputs, play: Play | None) -> Example:
    same = inputs.predictions[inputs.predictions["utterance_id"] == row.utterance_id]
    control = inputs.student.replace("students/", "controls/")
    others = [
        (label, str(item.hypothesis))
        for label, model in (("teacher", "teacher"), ("control", control))
        for item in same[same["model"] == model].itertuples()
        if pd.isna(item.seed) or item.seed == inputs.seed
    ]
    audio = None
    if play is not None and row.duration_seconds <= MAX_AUDIO_SECONDS:
        audio = _audio_uri(play(row.utterance_id))
    return Example(
        str(row.utterance_id),
        "" if pd.isna(row.speaker) else str(row.speaker),
        int(row.word_errors),
        str(row.text),
        mark_differences(str(row.text), str(row.hypothesis), inputs.summary.data.unit),
        others,
        audio,
    )


def _caption(name: str, unit: Unit) -> str:
    return CAPTIONS.get(name, name.replace("_", " ")).format(rate=unit.rate)


def mark_differences(reference: str, hypothesis: str, unit: Unit = Unit.WORD) -> Markup:
    """Return the hypothesis as HTML, with words that are too many, missing or wrong marked.

    Args:
        reference: what was spoken.
        hypothesis: what was recognised.
        unit: what is marked: words, characters, or expected phrases that are missing.
    """
    if unit is Unit.PHRASE:
        missing = [part for part in unit.parts(reference) if not holds_phrase(hypothesis, part)]
        marked = Markup(" ").join(Markup("<del>{}</del>").format(part) for part in missing)
        return Markup(" ").join([escape(hypothesis), *([marked] if missing else [])])
    expected, heard = unit.parts(reference), unit.parts(hypothesis)
    pieces = []
    for step in Levenshtein.opcodes(expected, heard):
        wanted = unit.joined(expected[step.src_start : step.src_end])
        found = unit.joined(heard[step.dest_start : step.dest_end])
        if step.tag == "equal":
            pieces.append(escape(found))
            continue
        pieces += [Markup("<del>{}</del>").format(wanted)] if wanted else []
        pieces += [Markup("<ins>{}</ins>").format(found)] if found else []
    return Markup("" if unit.spells_characters else " ").join(pieces)


def _audio_uri(heard: tuple[np.ndarray, int] | None) -> str | None:
    if heard is None:
        return None
    buffer = io.BytesIO()
    soundfile.write(buffer, heard[0], heard[1], format="FLAC", subtype="PCM_16")
    return _data_uri("audio/flac", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
