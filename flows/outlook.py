"""What the next run would do, as `make doctor` tells it: which teacher, what data, judged by what.

It looks at settings, the manifest and headers of some recordings; nothing is decoded, downloaded or
heard. So it tells in a second what would else be told after the teacher pass.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.corpora.base import Recording
from distillery.corpora.manifest import read_manifest
from distillery.data.audio import estimate_seconds
from distillery.errors import DistilleryError
from distillery.params.cache import AUTO
from distillery.params.rules import transcript_needs
from distillery.params.teacher import (
    EndpointTeacherParams,
    EnsembleTeacherParams,
    FasterWhisperTeacherParams,
    FineTunedTeacherParams,
    OnnxTeacherParams,
    TeacherParams,
    TextsTeacherParams,
    TransformersTeacherParams,
)
from distillery.params.whole import Params
from distillery.prepare.transcripts import with_transcripts
from flows.findings import Finding

LIBRARIES = {
    "faster_whisper": ("faster_whisper", "whisper"),
    "transformers": ("transformers", "transformers"),
}
"""By kind of teacher: its library, and the extra that brings it."""
NUM_HEADERS = 200
"""Recordings whose headers are read; the hours of more are estimated from these."""
HOUR = 3600.0
NOBODY_KNOWS = "the teacher's texts, so what it gets wrong stays unknown"
STATES_PER_SECOND = 50
"""Of Whisper's encoder."""
BYTES_PER_VALUE = 2


@dataclass(frozen=True)
class Size:
    """A Whisper model as it is known by name."""

    megabytes: int
    """To be downloaded, in CTranslate2's format."""
    width: int
    """Of the encoder's states."""
    seconds: float | None = None
    """Of CPU for an utterance, int8, beam 5; None: was not measured."""


WHISPER: Mapping[str, Size] = {
    "tiny": Size(75, 384),
    "base": Size(145, 512, 0.6),
    "small": Size(484, 768),
    "medium": Size(1530, 1024),
    "large": Size(3090, 1280),
    "turbo": Size(1620, 1280),
}
"""Sizes are those of the repositories; the time is that of 355 orders of coffee, 3,041 s."""


def outlook(root: Path, settings: Params) -> Iterator[Finding]:
    """Yield what the next run has to go on, and what it lacks.

    Args:
        root: the workspace.
        settings: its params.yaml.
    """
    teacher = settings.teacher
    members = teacher.members if isinstance(teacher, EnsembleTeacherParams) else (teacher,)
    for number, member in enumerate(members):
        name = "teacher" if member is teacher else f"teacher {number}"
        yield from check_teacher(root, name, member, settings.prepare.language)
    if settings.prepare.corpus != "manifest" or not (root / settings.prepare.source).is_dir():
        return
    try:
        source = root / settings.prepare.source
        listed = list(read_manifest(settings.prepare, source))
        recordings = with_transcripts(settings.prepare, source, listed)
    except DistilleryError as error:
        yield Finding("recordings", False, str(error))
        return
    seconds = total_seconds(recordings)
    yield _recordings(recordings, seconds)
    yield from _judged(recordings, settings)
    yield from _cost(root, recordings, seconds, settings)


# --- the teacher ---------------------------------------------------------------------------------


def check_teacher(
    root: Path, name: str, teacher: TeacherParams, language: str | None
) -> Iterator[Finding]:
    """Yield whether what a teacher is made from is here."""
    yield from _library(name, teacher)
    if isinstance(teacher, FasterWhisperTeacherParams | TransformersTeacherParams):
        yield _model(root, name, teacher.model, f"kind {teacher.kind}")
    elif isinstance(teacher, OnnxTeacherParams | TextsTeacherParams):
        file = teacher.model if isinstance(teacher, OnnxTeacherParams) else teacher.file
        setting = "model" if isinstance(teacher, OnnxTeacherParams) else "file"
        there = (root / file).exists()
        found = f"kind {teacher.kind}, {file} {'is there' if there else 'is missing'}"
        yield Finding(name, there, found, f"put it there, or correct teacher.{setting}")
    elif isinstance(teacher, EndpointTeacherParams):
        yield _service(name, teacher)
    elif isinstance(teacher, FineTunedTeacherParams):
        yield Finding(name, True, "kind fine_tuned, on the training transcripts")
    else:
        yield Finding(name, True, f"kind {teacher.kind}")
    if (spoken := _language(teacher, language)) is not None:
        yield Finding(f"{name}'s language", True, spoken)


def _library(name: str, teacher: TeacherParams) -> Iterator[Finding]:
    kind = teacher.base.kind if isinstance(teacher, FineTunedTeacherParams) else teacher.kind
    if kind not in LIBRARIES:
        return
    module, extra = LIBRARIES[kind]
    if importlib.util.find_spec(module) is None:
        advice = f"it is an extra: make install, or pip install 'distillery[{extra}]'"
        yield Finding(name, False, f"kind {kind} needs the library {module}", advice)


def _model(root: Path, name: str, model: str, kind: str) -> Finding:
    folder = root / model
    if folder.is_dir():
        held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        return Finding(name, held > 0, f"{kind}, {model}: {held / 1e6:,.0f} MB", "it is empty")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        advice = "correct teacher.model: a folder, a name, or a repository on the hub"
        return Finding(name, False, f"{kind}, {model}: there is no such folder", advice)
    size = _size_of(model)
    shown = f"some {size.megabytes:,} MB " if size and kind.endswith("faster_whisper") else ""
    return Finding(name, True, f"{kind}, {model}: {shown}to be downloaded where it was not yet")


def _service(name: str, teacher: EndpointTeacherParams) -> Finding:
    variable = teacher.key_variable
    ok = variable is None or bool(os.environ.get(variable))
    key = "" if variable is None else f", key {'is' if ok else 'is not'} in {variable}"
    return Finding(name, ok, f"kind endpoint, {teacher.url}{key}", f"export {variable}=…")


def _language(teacher: TeacherParams, default: str | None) -> str | None:
    """Return what a teacher that can hear several languages is to hear; None of others."""
    if isinstance(teacher, TransformersTeacherParams):
        own, otherwise = teacher.whisper.language, "en, if it is a Whisper model"
    elif isinstance(teacher, FasterWhisperTeacherParams | EndpointTeacherParams):
        own, otherwise = teacher.language, "detected for each utterance; say it where it is known"
        if isinstance(teacher, FasterWhisperTeacherParams) and teacher.model.endswith(".en"):
            otherwise = "en, the only one it knows"
    else:
        return None
    return own or (f"{default}, as prepare.language says" if default else otherwise)


def _size_of(model: str) -> Size | None:
    """Return what is known of a Whisper model of that name, or of a folder called after it."""
    words = Path(model).name.lower().replace(".", "-").replace("_", "-").split("-")
    return next((size for known, size in WHISPER.items() if known in words), None)


# --- the recordings ------------------------------------------------------------------------------


def total_seconds(recordings: Sequence[Recording]) -> float:
    """Return how long recordings are together; of many, as some of them are, evenly chosen."""
    step = max(1, -(-len(recordings) // NUM_HEADERS))
    chosen = recordings[::step]
    return sum(map(_seconds_of, chosen)) * len(recordings) / max(1, len(chosen))


def _seconds_of(recording: Recording) -> float:
    segment = recording.segment
    if segment is not None and segment.duration_seconds is not None:
        return float(segment.duration_seconds)
    return estimate_seconds(Path(str(recording.audio)))


def _recordings(recordings: Sequence[Recording], seconds: float) -> Finding:
    texts = sum(bool((item.text or "").strip()) for item in recordings)
    told = sum(bool(item.expected) for item in recordings)
    about = "" if len(recordings) <= NUM_HEADERS else "about "
    found = (
        f"{len(recordings):,}, {about}{seconds / HOUR:.2f} hours; {texts or 'no'} transcripts, "
        f"{told or 'no'} with expected phrases"
    )
    return Finding("recordings", True, found)


def _judged(recordings: Sequence[Recording], settings: Params) -> Iterator[Finding]:
    """Yield what models will be judged by, and which settings need transcripts in vain."""
    for split in ("valid", "test"):
        own = [item for item in recordings if item.split == split]
        rows, drawn = own or recordings, "" if own else " in all; prepare draws the split"
        counts = Counter(
            {
                "transcripts": sum(bool((item.text or "").strip()) for item in rows),
                "expected phrases": sum(bool(item.expected) for item in rows),
            }
        )
        truth, number = counts.most_common(1)[0]
        by = f"{truth}, of {number} of {len(rows)} recordings" if number else NOBODY_KNOWS
        yield Finding(f"judged by, split {split}", True, f"{by}{drawn}")
    train = [item for item in recordings if item.split in (None, "train")]
    if any((item.text or "").strip() for item in train) and settings.prepare.labelled_fraction:
        return
    needs = transcript_needs(settings.teacher, settings.distill, settings.language_model)
    if needs:
        yield Finding("transcripts", False, "training has none", "; ".join(needs))


def _cost(
    root: Path, recordings: Sequence[Recording], seconds: float, settings: Params
) -> Iterator[Finding]:
    """Yield how long Whisper will hear, and how large its cache will be."""
    teacher, segment = settings.teacher, settings.prepare.segment
    if not isinstance(teacher, FasterWhisperTeacherParams):
        return
    size = _size_of(teacher.model)
    number = len(recordings)
    if segment is not None:
        number = max(number, round(seconds / segment.max_seconds))
    if size is None or size.seconds is None:
        found = f"{number:,} utterances; the stage cache says how long after its first minute"
    else:
        hours = number * size.seconds / HOUR
        took = f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"
        found = f"{number:,} utterances, about {took} of CPU (int8, beam 5; each costs as 30 s do)"
    yield Finding("teacher pass", True, found)
    named = settings.cache.payload.hidden_layers
    layers = settings.distill.teacher_layers if named == AUTO else named
    if size is not None and layers:
        copies = 1 + len(settings.cache.speed_factors)
        wanted = seconds * copies * STATES_PER_SECOND * size.width * BYTES_PER_VALUE
        free = shutil.disk_usage(root).free
        advice = "make room, or set hidden.weight of objectives to 0"
        if named != AUTO:
            advice += " and cache.payload.hidden_layers to auto"
        yield Finding(
            "teacher cache", wanted < free, f"some {wanted / 1e6:,.0f} MB of hidden states", advice
        )
