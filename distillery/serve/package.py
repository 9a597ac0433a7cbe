"""A student as a folder that one can hand over: all that it takes to run, and to know, the model.

README.md                       the model card, as model hubs read it
model.onnx, model.int8.onnx     the network in floats and, where there is audio to find the
                                ranges with, in 8-bit integers
config.json, tokens.txt         features as settings, and the tokens
decoder.lm, decoder.json        where its texts are searched
example.py, requirements.txt    the texts of `distillery transcribe` without PyTorch
distillery_runtime/             what that needs of this library; see pruned.py
sherpa-onnx/                    where it hears Kaldi's features; see sherpa.py
browser/                        the page; see browser.py
SHA256SUMS                      of all of them
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.decoder.decoder import DECODER_FILES
from distillery.errors import ModelError
from distillery.files import write_bytes
from distillery.models.recogniser import Recogniser
from distillery.serve.browser import write_page
from distillery.serve.card import BROWSER, SHERPA
from distillery.serve.export import to_int8, to_onnx
from distillery.serve.onnx_recogniser import CONFIG_FILE, MODEL_FILES, TOKENS_FILE
from distillery.serve.pruned import SOURCES, pruned
from distillery.serve.served import PYTORCH, served_format
from distillery.serve.sherpa import check_sherpa, export_sherpa

RUNTIME = "distillery_runtime"
SUMS_FILE, CARD_FILE, EXAMPLE_FILE = "SHA256SUMS", "README.md", "example.py"
REQUIREMENTS = "numpy>=2\nonnxruntime>=1.23\nsoundfile>=0.13\n"
EXAMPLE = '''\
"""Texts of recordings: python example.py a.wav b.flac

It needs NumPy, ONNX Runtime and soundfile alone: pip install -r requirements.txt
"""

import sys
from pathlib import Path

import soundfile

from distillery_runtime import PackagedRecogniser

MODEL = "{model_file}"  # {other}


def main() -> None:
    """Print each recording's name and text."""
    recogniser = PackagedRecogniser(Path(__file__).parent, MODEL)
    for name in sys.argv[1:]:
        samples, rate = soundfile.read(name, dtype="float32")
        if rate != recogniser.sample_rate_hz:
            expected = recogniser.sample_rate_hz
            sys.exit(f"{{name}}: {{rate}} Hz, expected {{expected}} Hz; resample it first")
        # recogniser.text(samples, ["words", "that are expected"]) helps these along.
        print(name, recogniser.text(samples), sep="\\t")


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True)
class Student:
    """A saved student, exported."""

    recogniser: Recogniser
    files: Mapping[str, bytes]
    """Networks, settings, tokens and decoder, by name."""
    model_file: str
    """The network whose texts are those that it is served with."""

    @classmethod
    def of(cls, saved: Path, recogniser: Recogniser, calibration: Sequence[np.ndarray]) -> Student:
        """Take a student from a registered bundle; what it is not served in is exported now.

        Args:
            saved: the bundle.
            recogniser: the student in it.
            calibration: waveforms `(samples,)` that give integers their ranges; without any the
                only model in integers is one that the bundle holds.
        """
        names = (CONFIG_FILE, TOKENS_FILE, *DECODER_FILES, *MODEL_FILES.values())
        files = {name: (saved / name).read_bytes() for name in names if (saved / name).exists()}
        floats, integers = MODEL_FILES["onnx"], MODEL_FILES["onnx-int8"]
        if floats not in files:
            files[floats] = to_onnx(recogniser.network, recogniser.features.num_mels)
        if integers not in files and len(calibration):
            features = [recogniser.extract([waveform])[0].numpy() for waveform in calibration]
            files[integers] = to_int8(files[floats], features)
        name = served_format(saved)
        return cls(recogniser, files, MODEL_FILES["onnx" if name == PYTORCH else name])

    @property
    def page_files(self) -> dict[str, bytes]:
        """What a page takes: one network, as served."""
        others = set(MODEL_FILES.values()) - {self.model_file}
        return {name: content for name, content in self.files.items() if name not in others}


@dataclass(frozen=True)
class Form:
    """What a page and a card are called."""

    title: str
    about: str


def write_package(
    folder: Path,
    student: Student,
    form: Form,
    calibration: Sequence[np.ndarray],
    cache: Path | None,
    card: Callable[[Mapping[str, int]], str],
) -> list[str]:
    """Write a package into an existing folder.

    Args:
        folder: where to; empty.
        student: the student.
        form: title and sentence of the page.
        calibration: waveforms for the integers of sherpa-onnx's model.
        cache: what npm brought for the page; None: the package has no page.
        card: gives README.md for the sizes of all other files.

    Returns:
        Why parts are missing, a sentence each.

    Raises:
        ModelError: the library's runtime cannot be cut out.
    """
    missing = []
    files = dict(student.files)
    others = sorted(name for name in MODEL_FILES.values() if name in files)
    other = " or ".join(others)
    files[EXAMPLE_FILE] = EXAMPLE.format(model_file=student.model_file, other=other).encode()
    files["requirements.txt"] = REQUIREMENTS.encode()
    runtime = pruned("distillery.serve.packaged", "PackagedRecogniser", RUNTIME)
    files |= {f"{RUNTIME}/{name}": text.encode() for name, text in runtime.items()}
    if (license_file := SOURCES.parent / "LICENSE").exists():
        files[f"{RUNTIME}/LICENSE"] = license_file.read_bytes()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_bytes(folder / name, content)
    try:
        check_sherpa(student.recogniser)
    except ModelError as error:
        missing.append(f"no {SHERPA}: {error}")
    else:
        (folder / SHERPA).mkdir()
        export_sherpa(student.recogniser, folder / SHERPA, calibration)
    if cache is not None:
        try:
            (folder / BROWSER).mkdir()
            page = student.page_files
            write_page(folder / BROWSER, page, student.model_file, form.title, form.about, cache)
        except ModelError as error:
            (folder / BROWSER).rmdir()
            missing.append(f"no {BROWSER}: {error}")
    sizes = {name: (folder / name).stat().st_size for name in names_in(folder)}
    write_bytes(folder / CARD_FILE, card(sizes).encode())
    write_sums(folder)
    return missing


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, as `sha256sum -c` reads it, of all files in a folder and below."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names_in(folder)
        if name != SUMS_FILE
    ]
    write_bytes(folder / SUMS_FILE, "".join(lines).encode())


def names_in(folder: Path) -> list[str]:
    """Return the files of a folder and below, by their paths in it."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def check_target(out: Path) -> None:
    """Make sure that a folder holds nothing but what was written there before.

    Raises:
        ModelError: it holds something else, or is no folder.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ModelError(f"{out}: is no folder; name a new one with OUT=…")
    sums, listed = out / SUMS_FILE, {SUMS_FILE}
    if sums.exists():
        listed |= {line.partition("  ")[2] for line in sums.read_text("utf-8").splitlines()}
    # Whoever ran the example has bytecode there.
    found = [name for name in names_in(out) if "__pycache__" not in name.split("/")]
    if others := [name for name in found if name not in listed]:
        raise ModelError(
            f"{out}: holds {others[0]!r}, which no {SUMS_FILE} there lists; name a new folder with "
            "OUT=…"
        )
