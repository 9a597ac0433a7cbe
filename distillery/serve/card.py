"""A model card: README.md of a package, with the front matter that model hubs read.

Source of the form: https://huggingface.co/docs/hub/model-cards; Mitchell et al. (2019), "Model
cards for model reporting".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import yaml

from distillery.data.units import Unit
from distillery.evaluate.predictions import NUM_DURATION_BINS, UNKNOWN_SPEAKER
from distillery.evaluate.rates import Rates, rates
from distillery.evaluate.tables import with_interval
from distillery.params.evaluate import EvaluateParams
from distillery.params.package import CardParams
from distillery.tracking.facts import Facts
from distillery.tracking.store import FELL_BACK_TAG

if TYPE_CHECKING:
    import pandas as pd

Entry: TypeAlias = "str | float | list[Entry] | dict[str, Entry]"
"""What YAML holds of it."""
TASK = "automatic-speech-recognition"
IDENTIFIER = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
"""How hubs write licences."""
BROWSER, SHERPA = "browser", "sherpa-onnx"
"""Folders of a package."""


def model_card(
    facts: Facts, card: CardParams, intervals: EvaluateParams, files: Mapping[str, int]
) -> str:
    """Return README.md of a package.

    Args:
        facts: what is known of the version.
        card: what the settings say.
        intervals: how they are drawn.
        files: the package's other files and their sizes in bytes.
    """
    unit, table = Unit(facts.tags.get("unit", Unit.WORD)), _table(facts, card)
    whole = None if table is None else rates(table, intervals)
    parts = [
        "---",
        yaml.safe_dump(front_matter(facts, card, whole, unit), sort_keys=False).rstrip(),
        "---",
        "",
        f"# {_title(facts, card)}",
        "",
        _summary(facts, card, files),
        "",
        *_use(facts, files),
        *_training(facts, card),
        *_licences(facts, card),
        *_figures(facts, table, whole, intervals, unit),
        *_limits(facts, card, table),
        *_files(files),
        *_lineage(facts),
    ]
    return "\n".join(parts) + "\n"


def front_matter(
    facts: Facts, card: CardParams, whole: Rates | None, unit: Unit
) -> dict[str, Entry]:
    """Return the entries that hubs read; what is not known is left out."""
    found: dict[str, Entry] = {}
    if language := _language(facts, card):
        found["language"] = [language]
    if card.license is not None and IDENTIFIER.fullmatch(card.license):
        found["license"] = card.license
    elif card.license is not None:
        found |= {"license": "other", "license_name": card.license}
    rate = "cer" if unit.spells_characters else "wer"
    found |= {
        "library_name": "onnx",
        "pipeline_tag": TASK,
        "tags": [TASK, "speech", "ctc", "onnx", "distillery"],
        "metrics": [rate],
    }
    corpus = _corpus(facts)
    if whole is not None and unit is not Unit.PHRASE:
        metric: dict[str, Entry] = {
            "type": rate,
            "value": round(100 * whole.served_wer.value, 2),
            "name": f"Test {unit.rate}, %",
        }
        result: dict[str, Entry] = {
            "task": {"type": TASK, "name": "Automatic Speech Recognition"},
            "dataset": {"name": corpus, "type": corpus, "split": "test"},
            "metrics": [metric],
        }
        found["model-index"] = [{"name": _title(facts, card), "results": [result]}]
    return found


# --- sections -----------------------------------------------------------------------------------


def _summary(facts: Facts, card: CardParams, files: Mapping[str, int]) -> str:
    kind = facts.setting("architecture.type") or "CTC"
    parameters = facts.metrics.get("model/parameters")
    size = f", {parameters:,.0f} parameters" if parameters else ""
    needed = sum(files.get(name, 0) for name in ("decoder.lm", "decoder.json"))
    searched = f", and a decoder of {needed:,} bytes" if needed else ", decoded by best path"
    by = f" by {card.author}" if card.author else ""
    use = f" {card.intended_use}" if card.intended_use else ""
    return (
        f"Speech to text: a network (`{kind}`{size}) that names characters (CTC){searched}. "
        f"Version {facts.number} of `{facts.name}`, trained{by} with Distillery.{use}"
    )


def _use(facts: Facts, files: Mapping[str, int]) -> Iterator[str]:
    yield from ["## How to use it", "", "Python, without PyTorch:", "", "```bash"]
    yield "pip install -r requirements.txt   # numpy, onnxruntime, soundfile"
    yield from ["python example.py recording.wav", "```", ""]
    yield (
        "`example.py` shows how; `distillery_runtime` has features, search and long recordings, in "
        "NumPy. Audio has one rate, that of `config.json`."
    )
    yield ""
    if any(name.startswith(f"{SHERPA}/") for name in files):
        yield f"On phones and boards: [{SHERPA}]({SHERPA}/README.md), by best path."
    else:
        yield (
            "Not for sherpa-onnx, which computes features of another kind: it would have to be "
            "trained with `features: {type: kaldi_fbank}`."
        )
    yield ""
    if any(name.startswith(f"{BROWSER}/") for name in files):
        yield f"In a browser: `python -m http.server --directory {BROWSER}`, then"
        yield "http://localhost:8000; any web server will do, and no sound leaves the browser."
        yield ""


def _training(facts: Facts, card: CardParams) -> Iterator[str]:
    yield from ["## What it was trained on, and by whom", ""]
    yield f"- Trained by: {card.author or _asked('package.author')}"
    yield f"- Questions to: {card.contact or _asked('package.contact')}"
    yield f"- Recordings: {_corpus(facts)}{_amount(facts.splits.get('train'))}"
    yield f"- Chosen on: validation split{_amount(facts.splits.get('valid'))}"
    yield f"- Teacher: {_teacher(facts)}"
    language = _language(facts, card)
    yield f"- Language: {language or _asked('package.language')}"
    if epochs := facts.setting("training.num_epochs"):
        objective = "control" if _fell_back(facts) else facts.setting("objective.name")
        yield f"- Objective `{objective}`, {epochs} epochs"
    yield ""


def _licences(facts: Facts, card: CardParams) -> Iterator[str]:
    yield from ["## Licences", ""]
    yield f"- Of this model: {card.license or _asked('package.license')}"
    data = card.data_license or _asked("package.data_license")
    yield f"- Of the recordings and transcripts: {data}"
    if _has_teacher(facts):
        yield f"- Of the teacher: {card.teacher_license or _asked('package.teacher_license')}"
    yield "- Of the code in `distillery_runtime` and `browser`: Apache-2.0; onnxruntime-web: MIT"
    yield ""


def _figures(
    facts: Facts,
    table: pd.DataFrame | None,
    whole: Rates | None,
    intervals: EvaluateParams,
    unit: Unit,
) -> Iterator[str]:
    yield from ["## How well it hears", ""]
    if table is None or whole is None:
        yield "Not known: the run that made it holds no predictions."
        yield ""
        return
    split = _amount(facts.splits.get("test"))
    yield (
        f"Test split{split}; {unit.rate} in percent, in brackets {intervals.confidence:.0%} "
        "intervals by bootstrap over utterances. The table is of the network as trained; exported "
        "ones differ by rounding."
    )
    if whole.wer_lm is not None:
        yield "As served, with the decoder; by best path it is "
        yield f"{with_interval(whole.wer, ' ')} %."
    yield from ["", f"| | utterances | {unit.plural} | {unit.rate} % |", "|---|---|---|---|"]
    yield _line("all", table, whole)
    for name, rows in _by_speaker(table):
        yield _line(name, rows, rates(rows, intervals))
    for name, rows in _by_duration(table):
        yield _line(name, rows, rates(rows, intervals))
    formats = [
        (name, facts.metrics[f"{name}/wer"], facts.metrics.get(f"{name}/wer_lm"))
        for name in ("onnx", "onnx-int8")
        if f"{name}/wer" in facts.metrics
    ]
    if formats:
        yield ""
        said = ", ".join(f"`{name}` {100 * wer:.1f} %" for name, wer, _ in formats)
        yield f"By format, best path: {said}."
    yield ""


def _limits(facts: Facts, card: CardParams, table: pd.DataFrame | None) -> Iterator[str]:
    yield from ["## Limits", ""]
    train = facts.splits.get("train", {})
    if speakers := train.get("speakers"):
        yield f"- It learnt from {speakers:.0f} speakers; others, accents and ages may fare worse."
    if table is not None:
        yield (
            f"- The test split has {len(table)} utterances of "
            f"{table['duration_seconds'].min():.1f} to {table['duration_seconds'].max():.1f} s; "
            "what it does on other microphones, rooms, noise and kinds of speech was not measured."
        )
    if alphabet := facts.setting("prepare.alphabet"):
        yield f"- It writes these characters alone: `{alphabet}`; numbers are words."
    yield "- It writes something for music, noise and silence, too."
    yield "- It must not decide about people."
    if card.limits:
        yield f"- {card.limits}"
    yield ""


def _files(files: Mapping[str, int]) -> Iterator[str]:
    yield from ["## Files", "", "| file | bytes |", "|---|---|"]
    for name, size in sorted(files.items()):
        if "/" not in name:
            yield f"| `{name}` | {size:,} |"
    for folder in sorted({name.split("/")[0] for name in files if "/" in name}):
        sizes = [size for name, size in files.items() if name.startswith(f"{folder}/")]
        yield f"| `{folder}/`, {len(sizes)} files | {sum(sizes):,} |"
    yield from ["", "`sha256sum -c SHA256SUMS` checks them.", ""]


def _lineage(facts: Facts) -> Iterator[str]:
    yield from ["## Lineage", ""]
    names = ("git.commit", "dvc.data.md5", "dvc.teacher.md5", "dvc.md5", "bundle.sha256")
    for name in names:
        if value := facts.tags.get(name):
            yield f"- {name}: `{value}`"


# --- what they say --------------------------------------------------------------------------------


def _asked(setting: str) -> str:
    return f"**not stated** – whoever hands this on must say it: `{setting}` in params.yaml"


def _title(facts: Facts, card: CardParams) -> str:
    return card.title or facts.name


def _language(facts: Facts, card: CardParams) -> str | None:
    return card.language or facts.setting("prepare.language")


def _corpus(facts: Facts) -> str:
    """Return what the data are called; of a path its last part, for it names folders at home."""
    corpus = facts.setting("data.corpus") or facts.setting("prepare.corpus") or "unknown"
    return Path(corpus).name


def _amount(profile: Mapping[str, float] | None) -> str:
    if not profile:
        return ""
    said = [f"{profile['num_rows']:,.0f} utterances"] if "num_rows" in profile else []
    said += [f"{profile['seconds'] / 3600:.2f} hours"] if "seconds" in profile else []
    said += [f"{profile['speakers']:,.0f} speakers"] if profile.get("speakers") else []
    return f", {', '.join(said)}" if said else ""


def _has_teacher(facts: Facts) -> bool:
    share = facts.setting("objective.teacher_share")
    is_student = facts.tags.get("role", "student") == "student"
    return is_student and not _fell_back(facts) and (share is None or float(share) > 0)


def _fell_back(facts: Facts) -> bool:
    """Return whether it is a student with the weights of its control."""
    return facts.tags.get(FELL_BACK_TAG) == "yes"


def _teacher(facts: Facts) -> str:
    if not _has_teacher(facts):
        return "none, it learnt from transcripts alone"
    kind = facts.setting("teacher.kind") or "unknown"
    keys = ("teacher.model", "teacher.name", "teacher.bundle", "teacher.architecture.type")
    named = [Path(value).name for key in keys if (value := facts.setting(key))]
    return f"`{kind}`" + (f" ({named[0]})" if named else "")


def _table(facts: Facts, card: CardParams) -> pd.DataFrame | None:
    """Return the predictions as `rates` takes them, speakers named as the card may."""
    if facts.predictions is None or not len(facts.predictions):
        return None
    table = facts.predictions.assign(seed=0)
    speakers = table["speaker"].fillna(UNKNOWN_SPEAKER)
    if not card.name_speakers:
        numbers = {name: f"speaker {n}" for n, name in enumerate(sorted(set(speakers)), 1)}
        speakers = speakers.map(numbers)
    return table.assign(speaker=speakers)


def _by_speaker(table: pd.DataFrame) -> Sequence[tuple[str, pd.DataFrame]]:
    groups = list(table.groupby("speaker", sort=False))
    if len(groups) < 2:
        return []
    return sorted(((str(name), rows) for name, rows in groups), key=lambda item: _natural(item[0]))


def _natural(name: str) -> tuple[int, str]:
    return len(name), name


def _by_duration(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    seconds = table["duration_seconds"].to_numpy()
    edges = np.unique(np.quantile(seconds, np.linspace(0, 1, NUM_DURATION_BINS + 1)))
    bins = np.searchsorted(edges[1:-1], seconds, side="right")
    for number in sorted(set(bins)) if len(edges) > 2 else []:
        yield f"{edges[number]:.1f} to {edges[number + 1]:.1f} s", table[bins == number]


def _line(name: str, rows: pd.DataFrame, found: Rates) -> str:
    shown = with_interval(found.served_wer, " ") if found.words else "–"
    return f"| {name} | {len(rows):,} | {found.words:,} | {shown} |"
