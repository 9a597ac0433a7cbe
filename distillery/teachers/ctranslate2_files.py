"""Whisper models in CTranslate2's format: where their folders are, and what their files say.

The format is that of `ctranslate2.converters`; faster-whisper's names stand for published ones.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from distillery.errors import ModelError
from distillery.files import digest_of_file
from distillery.params.teacher import FasterWhisperTeacherParams
from distillery.teachers.published import import_extra
from distillery.teachers.weights import can_reach

WEIGHTS = "model.bin"
NEEDED = (WEIGHTS, "config.json", "tokenizer.json")
WANTED = "model.bin, config.json, tokenizer.json, vocabulary.json and preprocessor_config.json"
FILES = ("*.json", "vocabulary.txt", WEIGHTS)
QUANTISATION = ("_scale", "_zero", "_compensation")
"""Ends of the names of numbers that belong to quantised weights."""


def import_faster_whisper() -> Any:
    """Return the library, which is an optional extra.

    Raises:
        ModelError: it is not installed.
    """
    return import_extra("faster_whisper", kind="faster_whisper", extra="whisper")


def find_model(params: FasterWhisperTeacherParams, root: Path) -> Path:
    """Return the folder of a model: a local one, or the hub's copy on this machine.

    Args:
        params: which model.
        root: where folder names start from.

    Raises:
        ModelError: it is not here and cannot be fetched.
    """
    local, what = root / params.model, f"teacher.model: {params.model!r}"
    if local.is_dir():
        return local
    library = import_faster_whisper()
    known = library.available_models()
    if params.model not in known and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", params.model):
        raise ModelError(
            f"{what}: no such folder ({local}); expected one with {WANTED}, the name of a "
            f"repository on the hub, or one of {', '.join(known)}"
        )
    endpoint = importlib.import_module("huggingface_hub.constants").ENDPOINT
    for here in (True, False):
        if not here and not can_reach(endpoint):
            raise ModelError(
                f"{what}: neither a folder ({local}) nor on this machine, and {endpoint} cannot be "
                f"reached; download it elsewhere into a folder ({WANTED}), and set teacher.model "
                "to it"
            )
        try:
            options = {"local_files_only": here, "revision": params.revision}
            folder = Path(library.download_model(params.model, **options))
            if (folder / WEIGHTS).exists():
                return folder
        except (OSError, ValueError) as error:
            if not here:
                raise ModelError(
                    f"{what}: cannot be fetched from {endpoint}: {str(error).splitlines()[0]}"
                ) from None
    raise ModelError(
        f"{what}: holds no {WEIGHTS}; expected a model in CTranslate2's format. For one in Hugging "
        "Face's layout set teacher.kind to transformers"
    )


def digests_of_model(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a model's files by name.

    Raises:
        ModelError: one is missing, or the folder holds a model in another format.
    """
    for name in NEEDED:
        if not (folder / name).is_file():
            other = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
            advice = f"expected {WANTED}"
            if other:
                advice = (
                    "this is Hugging Face's layout: set teacher.kind to transformers, or convert "
                    f"it with ct2-transformers-converter --model {folder} --output_dir NEW "
                    "--quantization int8 --copy_files tokenizer.json preprocessor_config.json"
                )
            raise ModelError(f"{folder / name}: no such file; {advice}")
    return {path.name: digest_of_file(path) for path in model_files(folder)}


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model that matter, sorted."""
    return sorted(path for pattern in FILES for path in folder.glob(pattern))


def copy_model(folder: Path, to: Path) -> None:
    """Copy a model's files into a new folder."""
    to.mkdir()
    for path in model_files(folder):
        shutil.copyfile(path, to / path.name)


def read_sizes(path: Path) -> tuple[int, int]:
    """Return a Whisper model's number of parameters, and the width of its encoder.

    Args:
        path: of model.bin; the numbers themselves are not read.

    Raises:
        ModelError: it is cut short, or holds no Whisper model.
    """
    try:
        with open(path, "rb") as file:
            shapes, same = _read_header(file, path.stat().st_size)
        norm = "encoder/layer_norm/gamma"
        (width,) = shapes[same.get(norm, norm)]
    except (struct.error, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: cannot be read as a Whisper model of CTranslate2 ({error}); it is damaged or "
            "another's: download or convert it again"
        ) from None
    return _count(shapes), width


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if shape and not name.endswith(QUANTISATION)
    )


def _read_header(file: IO[bytes], size: int) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the variables' shapes, and other names of some, as ctranslate2.specs.ModelSpec writes.

    Args:
        file: opened at its beginning.
        size: in bytes.

    Raises:
        ValueError: it ends within a variable.
        struct.error: it ends elsewhere.
    """

    def take(form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

    def text() -> str:
        (length,) = take("H")
        raw = file.read(length)
        if len(raw) < length:
            raise ValueError("it ends within a name")
        return raw.rstrip(b"\0").decode("utf-8")

    take("I")  # version of the format
    text()
    _, count = take("II")  # revision of the kind of model; variables
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        name, (rank,) = text(), take("B")
        shape = take(f"{rank}I")
        _, num_bytes = take("BI")
        if file.tell() + num_bytes > size:
            raise ValueError(f"{size} bytes, {name} ends behind them")
        file.seek(num_bytes, 1)
        shapes[name] = shape
    (count,) = take("I")
    return shapes, {text(): text() for _ in range(count)}
