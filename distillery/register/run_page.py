"""A run's report as one HTML page that needs nothing beside it: tables, plots, errors to listen to.

Everything is inside the file: pictures and recordings as data URIs, no scripts, no links to load.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rapidfuzz.distance import Levenshtein

from distillery.evaluate.summary import Summary
from distillery.evaluate.tables import (
    EXPORT_HEADERS,
    export_cells,
    remarks,
    table_cells,
    table_headers,
    title,
)
from distillery.register.gate.verdict import Verdict

NUM_EXAMPLES = 10
MAX_AUDIO_SECONDS = 20.0
"""A longer example is shown without its recording, or the page becomes too large to send."""
CAPTIONS = {
    "learning_curves": "Learning curves",
    "wer_against_size": "WER against size",
    "wer_against_speed": "WER against speed",
    "wer_by_speaker": "WER by speaker",
    "error_counts": "Kinds of errors",
    "filter": "What the filter dropped",
    "history": "Retraining history",
}

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
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(
        inputs=inputs,
        subtitle=title(inputs.summary.data, len(inputs.summary.seeds)),
        headers=[
            header.replace("-\n", "-").replace("\n", " ")
            for header in table_headers(inputs.summary)
        ],
        rows=table_cells(inputs.summary, " "),
        export_headers=[header.replace("\n", " ") for header in EXPORT_HEADERS],
        exports=export_cells(inputs.summary),
        remarks=remarks(inputs.summary),
        examples=worst_examples(inputs, play),
        plots=[
            (CAPTIONS.get(name, name.replace("_", " ")), _data_uri("image/png", content))
            for name, content in inputs.plots.items()
        ],
    )


def worst_examples(
    inputs: ReportInputs, play: Play | None = None, count: int = NUM_EXAMPLES
) -> list[Example]:
    """Return the utterances with most word errors of the student, those with most first."""
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
        mark_differences(str(row.text), str(row.hypothesis)),
        others,
        audio,
    )


def mark_differences(reference: str, hypothesis: str) -> Markup:
    """Return the hypothesis as HTML, with words that are too many, missing or wrong marked."""
    expected, heard = reference.split(), hypothesis.split()
    pieces = []
    for step in Levenshtein.opcodes(expected, heard):
        wanted = escape(" ".join(expected[step.src_start : step.src_end]))
        found = escape(" ".join(heard[step.dest_start : step.dest_end]))
        if step.tag == "equal":
            pieces.append(found)
            continue
        pieces += [f"<del>{wanted}</del>"] if wanted else []
        pieces += [f"<ins>{found}</ins>"] if found else []
    return Markup(" ".join(pieces))  # every word was escaped above


def _audio_uri(heard: tuple[np.ndarray, int] | None) -> str | None:
    if heard is None:
        return None
    buffer = io.BytesIO()
    soundfile.write(buffer, heard[0], heard[1], format="FLAC", subtype="PCM_16")
    return _data_uri("audio/flac", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ inputs.heading }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
         color: #1b1f24; background: #fff; }
  h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
  .quiet { color: #59636e; }
  .outcome { padding: .6rem 1rem; background: #eef4fb; border-radius: 6px; }
  table { border-collapse: collapse; width: 100%; font-size: 14px; }
  th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #d9dee3;
           font-variant-numeric: tabular-nums; }
  th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
  table.words td, table.words th { text-align: left; vertical-align: top; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
  figure { margin: 0; } figure img { width: 100%; } figcaption { color: #59636e; font-size: 14px; }
  ins { background: #fde2c8; text-decoration: none; } del { color: #a3262a; }
  .example { border-top: 1px solid #d9dee3; padding: .8rem 0; } audio { width: 100%; height: 2rem; }
  dl { display: grid; grid-template-columns: 6rem 1fr; gap: .15rem .6rem; margin: .4rem 0; }
  dt { color: #59636e; } dd { margin: 0; } .passed { color: #1a7f37; } .failed { color: #a3262a; }
  pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; font-size: 13px; }
</style>
</head>
<body>
<h1>{{ inputs.heading }}</h1>
<p class="quiet">{{ subtitle }}</p>
<p class="outcome">{{ inputs.outcome }}</p>

<h2>Results</h2>
<table>
<tr>{% for header in headers %}<th>{{ header }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if exports %}
<h2>Exported</h2>
<table>
<tr>{% for header in export_headers %}<th>{{ header }}</th>{% endfor %}</tr>
{% for row in exports %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
<ul>{% for line in remarks %}<li>{{ line }}</li>{% endfor %}</ul>

{% if inputs.gate %}
<h2>Gate</h2>
<p>Version {{ inputs.gate.version }} is {{ inputs.gate.alias or "without an alias" }}:
{{ inputs.gate.reason }}.</p>
{% if inputs.gate.rulings %}
<table class="words">
<tr><th>rule</th><th>form</th><th>figure</th><th>limit</th><th>ruling</th><th>in words</th></tr>
{% for item in inputs.gate.rulings %}
{% set style = "passed" if item.passed else "failed" if item.binding else "quiet" %}
<tr><td>{{ item.rule }}</td><td>{{ item.form }}</td><td>{{ item.shown(item.figure) }}</td>
<td>{{ item.shown(item.limit) }}</td><td class="{{ style }}">{{ item.mark }}</td>
<td>{{ item.sentence }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% endif %}

{% if plots %}
<h2>Plots</h2>
<div class="plots">
{% for caption, source in plots %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}

<h2>Errors</h2>
{% if examples %}
<p class="quiet">Utterances with most word errors of {{ inputs.student }}, seed {{ inputs.seed }}:
<del>missed</del>, <ins>heard instead</ins>.</p>
{% for example in examples %}
<div class="example">
<span class="quiet">{{ example.utterance_id }},
{{ "speaker " ~ example.speaker ~ "," if example.speaker }}
{{ example.word_errors }} word error{{ "" if example.word_errors == 1 else "s" }}</span>
<dl>
<dt>reference</dt><dd>{{ example.reference }}</dd>
<dt>student</dt><dd>{{ example.heard }}</dd>
{% for label, text in example.others %}<dt>{{ label }}</dt><dd>{{ text }}</dd>{% endfor %}
</dl>
{% if example.audio %}<audio controls preload="none" src="{{ example.audio }}"></audio>{% endif %}
</div>
{% endfor %}
{% else %}
<p>The student made none on this test split.</p>
{% endif %}

<h2>Lineage</h2>
<table class="words">
{% for name, value in inputs.lineage|dictsort %}
<tr><td>{{ name }}</td><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table>
{% if inputs.settings %}
<details><summary>params.yaml</summary><pre>{{ inputs.settings }}</pre></details>
{% endif %}
</body>
</html>
"""
