"""A student as a folder for another runtime: `distillery export FORMAT [--version VERSION]`."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.commands.arguments import add_version
from distillery.data.workspace import PREPARED
from distillery.errors import ManifestError, ModelError
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import RegistryParams
from distillery.tracking.bundle import DIGESTS_FILE, check_bundle

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("sherpa",)
EXPORTED = Path("exported")
"""Folder in the workspace that receives one of each format."""


def add_commands(commands: Any) -> None:
    """Add the command to a parser's list of them."""
    command = commands.add_parser(
        "export",
        help="a registered model as a folder for another runtime",
        description="Write a registered model as a folder that sherpa-onnx loads as it is.",
    )
    command.add_argument("format", choices=FORMATS, metavar="FORMAT", help="sherpa")
    add_version(command)
    command.add_argument("--model", metavar="DIR", help="a saved model, no registered one")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help=f"folder to write (default: {EXPORTED}/FORMAT)"
    )
    command.set_defaults(run=_run)


def export_for_sherpa(root: Path, model: str | None, version: str | None, out: Path) -> list[str]:
    """Write a model as a folder for sherpa-onnx; what it wrote there before is replaced.

    Args:
        root: the workspace whose params.yaml says where the registry is.
        model: folder of a saved model; None takes a registered one.
        version: number, alias or URI of that; None takes the champion.
        out: the folder.

    Returns:
        Names of the files.

    Raises:
        TrackingError: there is no such version.
        ModelError: sherpa-onnx cannot run it, its files are damaged, or the folder is in use.
    """
    from distillery.architectures.known import ARCHITECTURES
    from distillery.files import whole_folder
    from distillery.models.recogniser import Recogniser
    from distillery.serve.sherpa import FILES, check_sherpa, export_sherpa

    if out.exists() and (others := _others(out, FILES)):
        raise ModelError(
            f"{out}: holds {others[0]!r}, which no export wrote; name a new folder with OUT=…"
        )
    saved = _registered(root, version) if model is None else Path(model)
    if (saved / DIGESTS_FILE).exists():
        check_bundle(saved)
    recogniser = Recogniser.load(saved, ARCHITECTURES)
    check_sherpa(recogniser)
    waveforms = calibration_of(root, recogniser.sample_rate_hz)
    with whole_folder(out) as folder:
        return export_sherpa(recogniser, folder, waveforms)


def _registered(root: Path, version: str | None) -> Path:
    from distillery.tracking.store import Tracking
    from distillery.tracking.versions import checked_folder, uri_of

    settings = RegistryParams.load(root / PARAMS_FILE).register
    tracking = Tracking(settings, root, "make export FORMAT=sherpa")
    with tracking.explained():
        return checked_folder(tracking, uri_of(settings.model_name, version))


def _others(folder: Path, names: Sequence[str]) -> list[str]:
    if not folder.is_dir():
        return [folder.name]
    return sorted(item.name for item in folder.iterdir() if item.name not in names)


def calibration_of(root: Path, sample_rate_hz: int) -> list[np.ndarray]:
    """Return audio that gives integers their ranges; none, and why, where there is none."""
    from distillery.data.manifest import PreparedData
    from distillery.serve.export import calibration_waveforms

    try:
        data = PreparedData.open(root / PREPARED)
    except ManifestError as error:
        why = f"{error}"
    else:
        if data.sample_rate_hz == sample_rate_hz:
            return calibration_waveforms(data)
        why = f"{PREPARED} is at {data.sample_rate_hz} Hz, the model at {sample_rate_hz} Hz"
    sys.stderr.write(f"note: no model in 8-bit integers, whose ranges need audio: {why}\n")
    return []


def _run(options: Namespace) -> int:
    out = options.out or EXPORTED / options.format
    files = export_for_sherpa(Path.cwd(), options.model, options.version, out)
    for name in files:
        size = (out / name).stat().st_size
        sys.stdout.write(f"{out / name}\t{size:,} bytes\n")
    return 0
