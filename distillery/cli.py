"""The command `distillery`: transcribe recordings, name the champion, look after the cache."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distillery import cache_cli, params, registry_cli
from distillery.bundle import DIGESTS_FILE, check_bundle
from distillery.errors import AudioError, DistilleryError, ModelError

if TYPE_CHECKING:
    from distillery.recogniser import Recogniser

EXIT_ERROR, EXIT_USAGE = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="distillery", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("transcribe", help="print FILE<TAB>text for each recording")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="WAV, FLAC, OGG, MP3")
    command.add_argument(
        "--model",
        help="a model folder, models:/NAME@ALIAS or models:/NAME/VERSION; "
        "by default the champion of the model that params.yaml names",
    )
    command.set_defaults(
        run=lambda options: transcribe(load_model(options.model, Path.cwd()), options.files)
    )
    registry_cli.add_commands(commands)
    cache_cli.add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE


def transcribe(recogniser: Recogniser, files: list[Path]) -> int:
    """Print each recording's text; one that cannot be read is reported and the others go on."""
    from distillery.audio import load_audio

    status = 0
    for file in files:
        try:
            waveform = load_audio(file, recogniser.sample_rate_hz)
        except AudioError as error:
            sys.stderr.write(f"error: {error}\n")
            status = EXIT_ERROR
            continue
        text = recogniser.transcribe([waveform])[0]
        sys.stdout.write(f"{file}\t{text}\n")
        sys.stdout.flush()
    return status


def load_model(model: str | None, root: Path) -> Recogniser:
    """Return a model ready for use.

    Args:
        model: a folder or a registry URI; None takes the champion.
        root: the workspace whose params.yaml says where the registry is.

    Raises:
        ParamsError: params.yaml is needed and cannot be used.
        TrackingError: the registry does not hold the model.
        ModelError: its files are damaged.
    """
    from distillery.architectures import ARCHITECTURES
    from distillery.recogniser import Recogniser

    if model is not None and not model.startswith("models:/"):
        folder, digest = Path(model), None
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder; expected one with a saved model")
        if (folder / DIGESTS_FILE).exists():
            check_bundle(folder)
        return Recogniser.load(folder, ARCHITECTURES)
    from distillery.registry import CHAMPION, version_folder
    from distillery.tracking import Tracking

    settings = params.load(root / params.PARAMS_FILE).register
    tracking = Tracking(settings, root)
    folder, digest = version_folder(tracking, model or f"models:/{settings.model_name}@{CHAMPION}")
    check_bundle(folder, digest)
    return Recogniser.load(folder, ARCHITECTURES)


if __name__ == "__main__":
    sys.exit(main())
