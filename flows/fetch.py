"""Registered models that the settings name, from MLflow into models/registered.

An alias moves: every run may make another version champion, and if each run followed it, nothing
would ever be up to date. So `make fetch` follows aliases whenever it is called, while the flow
fetches what is not here, and follows an alias only when the teacher, or every seed of the student,
that reads it is made anew anyway. A version never moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path

from distillery.errors import ModelError, StageError, TrackingError
from distillery.params.whole import Params
from distillery.tracking.bundle import check_bundle
from distillery.tracking.fetched import (
    REGISTERED,
    Source,
    check_model,
    is_teacher,
    note_decoder,
    note_outside,
    put_model,
    wanted_models,
)
from distillery.tracking.store import Tracking
from distillery.tracking.versions import BUNDLE_TAG, version_folder, version_of
from flows.stages.pipeline import changed_targets, distill_target


def fetch(root: Path, settings: Params, follow: Collection[str] | None = None) -> list[str]:
    """Bring the registered models here that the settings name.

    Args:
        root: the workspace.
        settings: the whole of params.yaml.
        follow: readers whose alias is looked up although a copy is here, which stays where MLflow
            cannot be asked; None: all, and MLflow must answer.

    Returns:
        What was done, in lines for a person.

    Raises:
        TrackingError: a model cannot be had, or is none of ours.
        ModelError: it is damaged in the registry, or no recogniser.
    """
    wanted = wanted_models(settings.teacher, settings.distill)
    changed = note_outside(root, settings.teacher)
    lines = [f"teacher: {name} has changed, so it is another teacher" for name in changed]
    texts = note_decoder(root, settings.register.decoder)
    lines += [f"register.decoder: {name} has changed, so decoders are made anew" for name in texts]
    return [*lines, *_fetch(root, settings, root / REGISTERED, wanted, follow)]


def fetch_teacher(root: Path, settings: Params, base: Path) -> list[str]:
    """Bring the registered models here that a teacher is or is made of, following aliases.

    Where MLflow cannot be asked, a copy that is here stays.

    Args:
        root: the workspace, for MLflow.
        settings: settings with this teacher.
        base: receives the folder `teacher`.

    Returns:
        What was done, in lines for a person.

    Raises:
        TrackingError: a model cannot be had, or is none of ours.
        ModelError: it is damaged in the registry, or no recogniser.
    """
    wanted = {
        reader: model
        for reader, model in wanted_models(settings.teacher, settings.distill).items()
        if not reader.startswith("students/")
    }
    return _fetch(root, settings, base, wanted, wanted)


def _fetch(
    root: Path,
    settings: Params,
    base: Path,
    wanted: Mapping[str, str | None],
    follow: Collection[str] | None,
) -> list[str]:
    tracking: Tracking | None = None
    lines = []
    for reader, model in wanted.items():
        if model is None:
            continue
        folder = base / reader
        here = _whole_copy(folder, model, reader)
        if here is not None and not ("@" in model and (follow is None or reader in follow)):
            continue
        try:
            tracking = tracking or Tracking(settings.register, root)
            lines.append(f"{reader}: {_bring(tracking, model, folder, here)}")
        except TrackingError as error:
            if here is None or follow is None:
                raise
            lines.append(f"{reader}: {model} stays version {here.version}, for {error}")
    return lines


def _whole_copy(folder: Path, model: str, reader: str) -> Source | None:
    try:
        return check_model(folder, model, reader)
    except (StageError, ModelError):  # absent, another model's, or damaged
        return None


def _bring(tracking: Tracking, model: str, folder: Path, here: Source | None) -> str:
    with tracking.explained():
        version = version_of(tracking, model)
    name, number = str(version.name), str(version.version)
    digest = version.tags.get(BUNDLE_TAG)
    if digest is None:
        raise TrackingError(
            f"{model}: version {number} bears no tag {BUNDLE_TAG}, expected one that make register "
            "made; name another version"
        )
    if here is not None and (here.version, here.bundle_sha256) == (number, digest):
        return f"{model} is version {number}, as before"
    files, _ = version_folder(tracking, f"models:/{name}/{number}")
    check_bundle(files, digest)
    put_model(files, folder, model, (name, number), digest)
    return f"{model} is version {number}, fetched"


def readers_that_run_anyway(root: Path, settings: Params) -> list[str]:
    """Return the readers of aliases that are made anew, whatever would be fetched.

    Asked once `prepare` has run. A student is made anew when teacher or cache is, for which it
    waits, or when all its seeds are: another start would train a seed again that is up to date.

    Raises:
        BusyError: another DVC process works here.
        StageError: DVC cannot tell.
    """
    wanted = wanted_models(settings.teacher, settings.distill)
    aliases = [reader for reader, uri in wanted.items() if uri and "@" in uri]
    if not aliases:
        return []
    seeds = {reader: _seeds_of(settings, reader) for reader in aliases if not is_teacher(reader)}
    changed = set(changed_targets(root, ["teacher", "cache", *chain(*seeds.values())]))
    if "teacher" in changed:
        return aliases
    return [
        reader for reader, own in seeds.items() if "cache" in changed or changed.issuperset(own)
    ]


def _seeds_of(settings: Params, reader: str) -> list[str]:
    """Return DVC's names of a student's stages, one per seed."""
    name = reader.removeprefix("students/")
    return [distill_target(name, seed) for seed in settings.distill.seeds]
