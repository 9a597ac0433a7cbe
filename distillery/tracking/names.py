"""What things are called in MLflow: runs, objectives, settings, and the addresses of its pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from distillery.params.objective import FrameLossParams, ObjectiveParams, Schedule
from distillery.tracking.store import FOR_TRAINING

STUDENT, CONTROL = "student", "control"
DIGITS_OF_MD5 = 6
PAGES = "#/experiments/{experiment}/runs"


def run_name(student: str, objective: str, data_md5: str = "", seed: int | None = None) -> str:
    """Return the name of a student's run, `conv@1a2b3c-T2-share0.5`.

    MLflow's tables cut names off after some 17 letters, so what tells runs apart comes first.

    Args:
        student: its name in params.yaml.
        objective: of `objective_name`.
        data_md5: of the prepared data; empty where they are not known yet.
        seed: where there are several.
    """
    name = f"{student}{_at_version(data_md5)}-{objective}"
    return name if seed is None else f"{name}-seed{seed}"


def pipeline_name(what: str, corpus: str, data_md5: str) -> str:
    """Return the name of a run that is not of one model alone, `conv-T2-share0.5 on an4@1a2b3c`.

    Args:
        what: the student whose figures a pipeline's run bears, with its objective; when it began,
            before it has them; or what else it is.
        corpus: `PrepareParams.title`.
        data_md5: of the prepared data; empty where they are not known yet.
    """
    return f"{what} on {corpus}{_at_version(data_md5)}"


def _at_version(md5: str) -> str:
    return f"@{short_md5(md5)}" if md5 else ""


def short_md5(md5: str) -> str:
    """Return the first digits of a hash, enough for names."""
    return md5[:DIGITS_OF_MD5]


def objective_name(objective: ObjectiveParams | None) -> str:
    """Return an objective in short, `T2-share0.5`; None stands for a control.

    What is as usual is left out: `T2-trim-4best-hidden-share0to0.5` has blank mode `trim`, four
    hypotheses, a term of hidden states, and a share that rises from 0 to 0.5.
    """
    if objective is None:
        return "control"
    return "-".join([*_terms(objective), f"share{_value(objective.teacher_share)}"])


def run_page(experiment: str, run: str) -> str:
    """Return a run's page, to stand behind the address of the MLflow server."""
    return f"{PAGES.format(experiment=experiment)}/{run}?{FOR_TRAINING}"


def runs_page(experiment: str) -> str:
    """Return the table of an experiment's runs, to stand behind that address.

    MLflow's home, and an experiment's page without this, may open on what language models need.
    """
    return f"{PAGES.format(experiment=experiment)}?{FOR_TRAINING}"


def charts_page(experiment: str) -> str:
    """Return the page of all students as charts, lowest WER first, to stand behind that address.

    What it shows is all in its address, as MLflow writes it when one copies it.
    """
    wanted = urlencode(
        {
            "compareRunsMode": "CHART",
            "searchFilter": "params.role = 'student'",
            "orderByKey": "metrics.`test/wer`",
            "orderByAsc": "true",
        },
        quote_via=quote,
    )
    return f"{PAGES.format(experiment=experiment)}?{wanted}&{FOR_TRAINING}"


def _terms(objective: ObjectiveParams) -> list[str]:
    frame, sequence, hidden = objective.frame, objective.sequence, objective.hidden
    names = []
    if objective.uses_frames:
        name = f"T{frame.temperature:g}" if frame.type == "kl" else frame.type
        names.append(name + _changing(frame.weight))
        names += _frames_that_count(frame)
    if objective.uses_sequence:
        several = f"{sequence.num_hypotheses}best" if sequence.num_hypotheses > 1 else ""
        changing = _changing(sequence.weight)
        names += [f"{several or 'seq'}{changing}"] if several or changing else []
        if sequence.where_transcribed == "teacher" and objective.uses_transcripts:
            names.append("teachertexts")
    elif objective.uses_teacher:
        names.append("noseq")
    if objective.uses_hidden:
        name = "hidden" if hidden.type == "l1_cosine" else f"hidden_{hidden.type}"
        names.append(name + _changing(hidden.weight))
    if objective.uses_heads:
        names.append(f"heads{_changing(objective.intermediate.weight)}")
    return names


def _frames_that_count(frame: FrameLossParams) -> list[str]:
    usual = FrameLossParams()
    names = []
    if (frame.blank_mode, frame.dilation) != (usual.blank_mode, usual.dilation):
        setting = {"symmetric": frame.dilation, "threshold": frame.blank_threshold}
        names.append(f"{frame.blank_mode}{setting.get(frame.blank_mode, '')}")
    if frame.weighting != usual.weighting:
        names.append(frame.weighting)
    if frame.delay_frames:
        names.append(f"delay{frame.delay_frames}")
    return names


def _value(setting: float | Schedule) -> str:
    if isinstance(setting, Schedule):
        return f"{setting.start:g}to{setting.end:g}"
    return f"{setting:g}"


def _changing(weight: float | Schedule) -> str:
    return f"w{_value(weight)}" if isinstance(weight, Schedule) else ""


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as text; lists are JSON."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            flat[f"{prefix}{name}"] = json.dumps(value) if is_list else str(value)
    return flat


def model_label(role: str, name: str) -> str:
    """Return what sentences call a version's model: `student conv`, `the control of student conv`.

    Args:
        role: student or control.
        name: of the student, in params.yaml.
    """
    return f"{STUDENT} {name}" if role == STUDENT else f"the {role} of {STUDENT} {name}"
