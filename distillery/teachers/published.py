"""Models in Hugging Face's layout: where their folders are, and what their settings files say.

Nothing that a model brings along is run: a configuration that names code is refused.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillery.errors import ModelError
from distillery.models.recogniser import CONFIG_FILE, WEIGHTS_FILE
from distillery.params.teacher import PublishedModelParams
from distillery.teachers.backend import Published
from distillery.teachers.weights import can_reach

SETTINGS_FILES = ("*.json", "*.txt")
SAFE_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
PASSING = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
"""Entries of a configuration that say nothing about the model."""


def import_transformers() -> Any:
    """Return the library, which is an optional extra.

    Raises:
        ModelError: it is not installed.
    """
    return import_extra("transformers", kind="transformers", extra="transformers")


def import_extra(name: str, *, kind: str, extra: str) -> Any:
    """Return a library that one kind of teacher needs.

    Args:
        name: of its module.
        kind: of the teacher.
        extra: of pyproject.toml, which brings it.

    Raises:
        ModelError: it is not installed, or something that it needs.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"teacher: kind {kind!r} needs the package "
            f"{error.name!r}, which is not installed; "
            f"run .venv/bin/python -m uv pip install -e '.[{extra}]', or make install"
        ) from None


def read_config(folder: Path, classes: Iterable[str]) -> tuple[Published, str]:
    """Return a published model's config.json, and the class that it names.

    Args:
        folder: of the model.
        classes: what is read here, for errors.

    Raises:
        ModelError: it is missing or damaged, or the model brings code.
    """
    config = read_published(folder / CONFIG_FILE)
    if "auto_map" in config:
        raise ModelError(
            f"{folder / CONFIG_FILE}: refused: auto_map says that the model brings code of its own "
            f"({', '.join(sorted(config['auto_map']))}), which is never run here; name a model of "
            f"{', '.join(classes)}"
        )
    (model_class, *_) = config.get("architectures") or ["none"]
    return config, str(model_class)


def find_folder(params: PublishedModelParams, root: Path, section: str) -> Path:
    """Return the folder of a published model: a local one, or the hub's copy on this machine.

    Args:
        params: which model.
        root: where folder names start from.
        section: where those settings stand, for errors.

    Raises:
        ModelError: it is not here and cannot be fetched.
    """
    local = root / params.model
    if local.is_dir():
        return local
    what = f"{section}.model: {params.model!r}"
    wanted = "config.json, model.safetensors, vocab.json, tokenizer_config.json and "
    wanted += "preprocessor_config.json"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-]+", params.model) or params.model.startswith("."):
        raise ModelError(f"{what}: no such folder ({local}); expected one with {wanted}")
    hub = importlib.import_module("huggingface_hub")
    endpoint = importlib.import_module("huggingface_hub.constants").ENDPOINT
    folder = local
    for options in ({"local_files_only": True}, {}):
        if not options and not can_reach(endpoint):
            raise ModelError(
                f"{what}: neither a folder ({local}) nor on this machine, and {endpoint} cannot be "
                f"reached; download {endpoint}/{params.model} elsewhere into a folder ({wanted}), "
                f"and set {section}.model to it"
            )
        try:
            for patterns in (SAFE_FILES, PICKLED_FILES):
                folder = Path(
                    hub.snapshot_download(
                        params.model,
                        revision=params.revision,
                        allow_patterns=[*SETTINGS_FILES, *patterns],
                        **options,
                    )
                )
                if any(True for pattern in patterns for _ in folder.glob(pattern)):
                    return folder
        except (OSError, ValueError) as error:
            if not options:
                raise ModelError(
                    f"{what}: cannot be fetched from {endpoint}: {str(error).splitlines()[0]}"
                ) from None
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Return a published model's weight files, safetensors before PyTorch's.

    Raises:
        ModelError: there is none, or one that the index names is missing.
    """
    for whole in (WEIGHTS_FILE, "pytorch_model.bin"):
        if (folder / whole).exists():
            return [folder / whole]
        index = folder / f"{whole}.index.json"
        if index.exists():
            names = sorted(set(read_published(index)["weight_map"].values()))
            if missing := [name for name in names if not (folder / name).exists()]:
                raise ModelError(f"{folder / missing[0]}: no such file, but {index.name} names it")
            return [folder / name for name in names]
    raise ModelError(
        f"{folder}: holds no weights, expected {WEIGHTS_FILE} (or pytorch_model.bin, tensors alone)"
    )


def read_published(path: Path) -> Published:
    """Return a published settings file.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; download it with the weights") from None
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read: {error}; download it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, expected names and values")
    return content
