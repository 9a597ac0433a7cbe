"""What MLflow's pages say above the figures: of an experiment, a run, a version; in Markdown.

MLflow shows the beginning of the first two and the rest on demand, so what came of it stands first.
"""

from __future__ import annotations

from collections.abc import Mapping

from distillery.evaluate.summary import SeedRow, Summary
from distillery.evaluate.tables import markdown_table, with_distance, with_interval
from distillery.register.gate.verdict import Verdict
from distillery.register.gate.verdict import markdown as verdict_in_markdown
from distillery.register.pipeline_results import PipelineResults
from distillery.tracking.names import STUDENT, charts_page, model_label

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
second of computing recognises (`rtfx`). `test/…` are rates as fractions, with intervals; where the
tag `unit` says another thing than word, `wer` in their names is that rate: of characters, of
expected phrases that were not found, or of what differs from the teacher's texts. Group by
`student`, `objective.name` or `data.md5`.
"""


def outcome(
    results: PipelineResults, student: str, seed: int, verdict: Verdict, role: str = STUDENT
) -> str:
    """Return in a sentence what a pipeline's run came to.

    Args:
        results: the run's.
        student: the one that was put up for promotion.
        seed: the seed of it that was registered.
        verdict: the gate's.
        role: student, or control where that student's control was put up.
    """
    wer = results.summary.model_of(role, student).of_seed(seed).wer.value
    rate = results.summary.data.unit.rate
    label = model_label(role, f"`{student}`")
    return (
        f"{label[0].upper()}{label[1:]} from seed {seed}, {rate} {100 * wer:.1f} % (teacher "
        f"{_teacher_wer(results.summary)} %), is version {verdict.version} of "
        f"`{results.params.register.model_name}`, "
        f"**{verdict.alias or 'without an alias'}**: {verdict.reason}."
    )


def of_pipeline(outcome: str, verdict: Verdict, results: PipelineResults) -> str:
    """Return the description of a pipeline's run.

    Args:
        outcome: what it came to, in a sentence.
        verdict: the gate's.
        results: the run's.
    """
    gate = verdict_in_markdown(verdict)
    return f"{outcome}\n\n{markdown_table(results.summary)}\n{gate}\n{lineage(results.tags)}"


def of_model(row: SeedRow, results: PipelineResults) -> str:
    """Return the description of the run of one student or control.

    Args:
        row: its figures.
        results: the pipeline run's.
    """
    summary = results.summary
    return (
        f"{row.role.capitalize()} `{row.name}` from seed {row.seed}: {summary.data.unit.rate} "
        f"{with_interval(row.wer, ' ')} %, the teacher's {_teacher_wer(summary)} %.\n\n"
        f"{markdown_table(summary)}\n{lineage(results.tags)}"
    )


def of_version(title: str, results: PipelineResults) -> str:
    """Return the description of a registered version, which stands below the gate's verdict.

    Args:
        title: in a few words which student it is.
        results: the pipeline run's.
    """
    return f"{title}.\n\n{with_distance(markdown_table(results.summary))}\n{lineage(results.tags)}"


def of_experiment(experiment: str, outcome: str, verdict: Verdict, results: PipelineResults) -> str:
    """Return the description of an experiment: its last result, and how to read its runs.

    Args:
        experiment: its id.
        outcome: what the last run came to, in a sentence.
        verdict: the gate's on it.
        results: that run's.
    """
    rate = results.summary.data.unit.rate
    charts = f"**[Students as charts, lowest {rate} first]({charts_page(experiment)})**"
    alias = verdict.alias or "without an alias"
    return (
        f"{charts} · the last run's student is version {verdict.version}, **{alias}**\n\n"
        f"{outcome}\n\n{markdown_table(results.summary)}\n{lineage(results.tags)}\n{HOW_TO_READ}"
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


def _teacher_wer(summary: Summary) -> str:
    return f"{100 * summary.teacher.wer.value:.1f}"
