"""What MLflow's pages say above the figures: of an experiment, a run, a version; in Markdown.

MLflow shows the beginning of the first two and the rest on demand, so what came of it stands first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillery.evaluate.tables import markdown_table, with_distance, with_interval
from distillery.register.gate.verdict import Verdict
from distillery.register.gate.verdict import markdown as verdict_in_markdown
from distillery.tracking.names import charts_page

HASH_DIGITS = 8
LINEAGE = {
    "Git": "git.commit",
    "data": "dvc.data.md5",
    "teacher": "dvc.teacher.md5",
    "cache": "cache.manifest_sha256",
}
HOW_TO_READ = """\
How to read it: a run `student-objective on corpus@data` is one of the whole pipeline, with the
student that was put up for promotion. Below it stand all students, `student@data-objective`, and
their controls, `student@data-control`. `data` is the beginning of DVC's hash of the prepared data.

Metrics: `asr/…` are key figures in percent, points and megabytes, and the seconds of audio that a
second of computing recognises (`rtfx`). `test/…` are rates as fractions, with intervals. Group by
`student`, `objective.name` or `data.md5`.
"""


def outcome(
    summary: Mapping[str, Any],
    student: str,
    seed: int,
    model_name: str,
    verdict: Verdict,
) -> str:
    """Return in a sentence what a pipeline's run came to.

    Args:
        summary: what summary.json holds.
        student: the one that was put up for promotion.
        seed: the seed of it that was registered.
        model_name: the registered model.
        verdict: the gate's.
    """
    (row,) = (item for item in summary["models"] if item["model"] == f"students/{student}")
    (wer,) = (item["wer"] for item in row["by_seed"] if item["seed"] == seed)
    return (
        f"Student `{student}` from seed {seed}, WER {100 * wer:.1f} % (teacher "
        f"{_teacher_wer(summary)} %), is version {verdict.version} of `{model_name}`, "
        f"**{verdict.alias or 'without an alias'}**: {verdict.reason}."
    )


def of_pipeline(
    result: str, summary: Mapping[str, Any], verdict: Verdict, tags: Mapping[str, str]
) -> str:
    """Return the description of a pipeline's run.

    Args:
        result: of `outcome`.
        summary: what summary.json holds.
        verdict: the gate's.
        tags: lineage that every run bears.
    """
    return f"{result}\n\n{markdown_table(summary)}\n{verdict_in_markdown(verdict)}\n{lineage(tags)}"


def of_model(row: Mapping[str, Any], summary: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Return the description of the run of one student or control.

    Args:
        row: its row by seed.
        summary: what summary.json holds.
        tags: lineage that every run bears.
    """
    return (
        f"{row['role'].capitalize()} `{row['name']}` from seed {row['seed']}: WER "
        f"{with_interval(row, 'wer', ' ')} %, the teacher's {_teacher_wer(summary)} %.\n\n"
        f"{markdown_table(summary)}\n{lineage(tags)}"
    )


def of_version(title: str, summary: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """Return the description of a registered version, which stands below the gate's verdict.

    Args:
        title: in a few words which student it is.
        summary: what summary.json holds.
        tags: lineage that every run bears.
    """
    return f"{title}.\n\n{with_distance(markdown_table(summary))}\n{lineage(tags)}"


def of_experiment(
    experiment: str,
    result: str,
    verdict: Verdict,
    summary: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Return the description of an experiment: its last result, and how to read its runs.

    Args:
        experiment: its id.
        result: of `outcome`, of the last run.
        verdict: the gate's on it.
        summary: what that run's summary.json holds.
        tags: lineage that every run bears.
    """
    charts = f"**[Students as charts, lowest WER first]({charts_page(experiment)})**"
    alias = verdict.alias or "without an alias"
    return (
        f"{charts} · the last run's student is version {verdict.version}, **{alias}**\n\n"
        f"{result}\n\n{markdown_table(summary)}\n{lineage(tags)}\n{HOW_TO_READ}"
    )


def lineage(tags: Mapping[str, str]) -> str:
    """Return in a line what a result was made from; the tags have the hashes whole.

    Args:
        tags: lineage that every run bears.
    """
    parts = [f"{title} `{tags[name][:HASH_DIGITS]}`" for title, name in LINEAGE.items()]
    if tags["git.dirty"] == "true":
        parts[0] += " with changes that were not committed"
    return f"Made from {', '.join(parts)}; the tags hold these whole.\n"


def _teacher_wer(summary: Mapping[str, Any]) -> str:
    (row,) = (item for item in summary["models"] if item["role"] == "teacher")
    return f"{100 * row['wer']:.1f}"
