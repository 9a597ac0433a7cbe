"""Registered models that the settings name, as they lie in a workspace.

Stages know no registry. `make fetch` and the flow put the models into models/registered, one folder
for each that reads one, and stages find them there:

    teacher/               the teacher, where teacher.kind is registry
    teacher/members/N/     the same for one member of an ensemble
    students/NAME/         what the student starts from, where its init is models:/…
      model.safetensors    as in every saved recogniser; with config.json and tokens.txt
      source.json          which version it is, and the SHA-256 of the files
    decoder/outside.json   SHA-256 of text files that students' decoders are made from
    teacher/outside.json   SHA-256 of files of texts that the teacher is made from (kind texts)
    …/none.txt             the settings name no registered model for this one
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.data.workspace import TEACHER as MADE_TEACHER
from distillery.errors import ModelError, StageError
from distillery.files import digest_of_file, digest_of_tree, whole_folder, write_json
from distillery.params.base import MEMBERS
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.teacher import (
    EndpointTeacherParams,
    EnsembleTeacherParams,
    RegistryTeacherParams,
    SingleTeacherParams,
    TeacherParams,
    TextsTeacherParams,
)

REGISTERED = "models/registered"
SOURCE_FILE = "source.json"
NONE_FILE = "none.txt"
OUTSIDE_FILE = "outside.json"
TEACHER, DECODER = "teacher", "decoder"
MODEL_FILES = ("config.json", "model.safetensors", "tokens.txt")
"""What a recogniser is loaded from; nothing else of a registered version is taken."""


@dataclass(frozen=True)
class Source:
    """Which registered version a folder holds."""

    model: str
    """As the settings name it, `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    name: str
    version: str
    """What an alias stood for when the model was fetched."""
    bundle_sha256: str
    """As the registry has it."""
    files: Mapping[str, str]
    """SHA-256 of each file."""


def wanted_models(teacher: TeacherParams, distill: DistillParams) -> dict[str, str | None]:
    """Return the registered model that the settings name, by its reader's folder; None: none."""
    students = {
        f"students/{name}": student.registered_init for name, student in distill.students.items()
    }
    return {**(_wanted_members(teacher) or {TEACHER: _model_of(teacher)}), **students}


def _wanted_members(teacher: TeacherParams) -> dict[str, str | None]:
    """Return the registered models of an ensemble's members, by their folders."""
    if not isinstance(teacher, EnsembleTeacherParams):
        return {}
    members = enumerate(teacher.members)
    models = {f"{TEACHER}/{MEMBERS}/{n}": _model_of(member) for n, member in members}
    return {folder: model for folder, model in models.items() if model is not None}


def _model_of(teacher: TeacherParams) -> str | None:
    return teacher.model if isinstance(teacher, RegistryTeacherParams) else None


def is_teacher(reader: str) -> bool:
    """Return whether a reader is the teacher or a member of it."""
    return reader.split("/")[0] == TEACHER


def put_model(files: Path, folder: Path, model: str, version: tuple[str, str], sha256: str) -> None:
    """Take a registered version's files over, for one reader.

    Args:
        files: a checked bundle.
        folder: the reader's folder, which is replaced.
        model: the version as the settings name it.
        version: its name and number.
        sha256: its bundle's digest.

    Raises:
        ModelError: the version holds no recogniser of ours.
    """
    if missing := [name for name in MODEL_FILES if not (files / name).exists()]:
        raise ModelError(
            f"{model}: version {version[1]} holds no {missing[0]}, expected a student that "
            "make register made; name another version"
        )
    with whole_folder(folder) as temporary:
        for name in MODEL_FILES:
            shutil.copyfile(files / name, temporary / name)
        digests = {name: digest_of_file(temporary / name) for name in MODEL_FILES}
        write_json(temporary / SOURCE_FILE, asdict(Source(model, *version, sha256, digests)))


def read_source(folder: Path) -> Source | None:
    """Return which version a reader's folder holds, None where there is none to be read."""
    try:
        return Source(**json.loads((folder / SOURCE_FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def check_model(folder: Path, model: str, reader: str) -> Source:
    """Make sure that a reader's folder holds, unchanged, the model that the settings name.

    Args:
        folder: the reader's folder.
        model: as the settings name it.
        reader: what the settings name it for, in words.

    Raises:
        StageError: it is not there, or another one is.
        ModelError: a file was changed since.
    """
    source = read_source(folder)
    if source is None or source.model != model:
        found = "has not been fetched" if source is None else f"is wanted, {source.model} is here"
        raise StageError(f"{reader}: {model} {found} ({folder}); run make fetch")
    for name, expected in source.files.items():
        found = digest_of_file(folder / name) if (folder / name).exists() else "no file"
        if found != expected:
            raise ModelError(
                f"{folder / name}: SHA-256 {found[:12]}, expected {expected[:12]}; the copy is "
                "damaged, run make fetch"
            )
    return source


def tidy(
    root: Path,
    teacher: TeacherParams,
    distill: DistillParams,
    decoder: DecoderParams | None = None,
) -> dict[str, Source]:
    """Check every model that the settings name, and leave a note where they name none.

    Args:
        root: the workspace.
        teacher: the section `teacher`.
        distill: the section `distill`, whose students may start from registered ones.
        decoder: what they are served with; None: best paths.

    Returns:
        What was found, by the reader's folder.

    Raises:
        StageError: a model has not been fetched.
        ModelError: one is damaged.
    """
    base = root / REGISTERED
    wanted = wanted_models(teacher, distill)
    found = {
        reader: check_model(base / reader, model, reader.replace("/", " "))
        for reader, model in wanted.items()
        if model is not None
    }
    for reader, model in wanted.items():
        if model is None and not (base / reader / NONE_FILE).exists():
            with whole_folder(base / reader) as folder:
                (folder / NONE_FILE).write_text("params.yaml names no registered model here.\n")
    for folder in [*(base / "students").iterdir(), *(base / TEACHER / MEMBERS).glob("*")]:
        if folder.relative_to(base).as_posix() not in wanted:
            shutil.rmtree(folder)
    if TEACHER not in wanted:  # what lies beside the members was there before them
        for path in (base / TEACHER).iterdir():
            if path.name != MEMBERS:
                path.unlink()
    note_outside(root, teacher)
    (base / DECODER).mkdir(exist_ok=True)
    note_decoder(root, decoder)
    return found


def note_outside(root: Path, teacher: TeacherParams) -> list[str]:
    """Note what the files hold that a teacher of kind texts is made from, so that DVC sees changes.

    Where nothing has been fetched yet, the stage `fetch` does it. A file that is gone changes
    nothing: a teacher that was made from it needs it no more.

    Returns:
        The files that are other than when they were last noted.
    """
    path = root / REGISTERED / TEACHER / OUTSIDE_FILE
    if not path.parent.is_dir():
        return []
    names = sorted(part.file for part in _parts(teacher) if isinstance(part, TextsTeacherParams))
    if not names:
        path.unlink(missing_ok=True)
        return []
    return _note(root, path, names)


def note_decoder(root: Path, decoder: DecoderParams | None) -> list[str]:
    """Note the same of the text files that students' decoders are made from.

    Returns:
        The files that are other than when they were last noted.
    """
    path = root / REGISTERED / DECODER / OUTSIDE_FILE
    if not path.parent.is_dir():
        return []
    return _note(root, path, sorted(set(decoder.files)) if decoder is not None else [])


def _note(root: Path, path: Path, names: Sequence[str]) -> list[str]:
    """Note the digests of files, and return the names of those that had others before."""
    try:
        former: dict[str, str] | None = dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        former = None
    known = former or {}
    found = {
        name: digest_of_tree(root / name) if (root / name).exists() else known.get(name, "")
        for name in names
    }
    if found != former:
        write_json(path, found)
    return [name for name in names if known.get(name, found[name]) != found[name]]


def check_sources(root: Path, teacher: TeacherParams) -> None:
    """Make sure, before any work, that files of texts and keys of services are here.

    Where a teacher was made before, its stage says so if it needs them again.

    Raises:
        ModelError: one is not.
    """
    if (root / MADE_TEACHER / MODEL_FILES[0]).exists():
        return
    for part in _parts(teacher):
        if isinstance(part, TextsTeacherParams) and not (root / part.file).exists():
            raise ModelError(
                f"teacher.file: {root / part.file} does not exist; put there what the recogniser "
                "wrote, or correct the setting"
            )
        if isinstance(part, EndpointTeacherParams):
            name = part.key_variable
            if name is not None and not os.environ.get(name, "").strip():
                raise ModelError(
                    f"teacher.key_variable: the environment variable {name} is not set; put the "
                    "service's key there (export it in the shell that runs make)"
                )


def _parts(teacher: TeacherParams) -> Sequence[SingleTeacherParams]:
    """Return a teacher's members, or itself."""
    return teacher.members if isinstance(teacher, EnsembleTeacherParams) else (teacher,)
