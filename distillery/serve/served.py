"""In which format a student is served: chosen when it is registered, read when it is loaded.

A bundle always holds the student as it was trained: others start from it, and streaming needs it.
One that is served in another format holds that file as well, and `served.json` names the format;
one that is served with a decoder holds its files, in any format, and confidence.json where
validation words told how sure it may be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder.confidence import CONFIDENCE_FILE, Confidence
from distillery.decoder.decoder import DECODER_FILES, Decoder
from distillery.decoder.trie import HotWord
from distillery.decoder.words import Transcript
from distillery.errors import ModelError
from distillery.serve.growing_text import GrowingText
from distillery.serve.long_audio import Sound
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.onnx_streaming import OnnxStream

SERVED_FILE = "served.json"
PYTORCH = "torch"
FALLBACKS = {"onnx-int8": "onnx", "onnx": PYTORCH}


class Transcriber(Protocol):
    """A student in any format."""

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms that it is given, in hertz."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 that tells this student, in this format, from all others."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokens."""

    @property
    def decoder(self) -> Decoder | None:
        """What its texts are searched with; None: they are best paths."""

    def transcribe(
        self, recordings: Sequence[Sound], hot_words: Sequence[HotWord] = ()
    ) -> list[str]:
        """Return the texts of recordings.

        Long ones go through the network in windows; see long_audio.py.

        Args:
            recordings: of any length.
            hot_words: more than the decoder's own.

        Raises:
            AudioError: blocks of a recording cannot be read.
            ModelError: a hot word cannot be written with the student's tokens.
        """

    def recognise(
        self, samples: np.ndarray, hot_words: Sequence[HotWord] = (), num_hypotheses: int = 0
    ) -> Transcript:
        """Return the text of a waveform with the times and confidences of its words.

        It goes through the network as a whole: cut long ones, see segments.py.

        Args:
            samples: `(samples,)`, float32 in [-1, 1) or int16.
            hot_words: more than the decoder's own.
            num_hypotheses: texts wanted that may have been spoken.

        Raises:
            ModelError: a hot word cannot be written with the student's tokens.
        """


@dataclass(frozen=True)
class Served:
    """A format, and why a student is served in it."""

    format: str = PYTORCH
    reason: str = "register.serve_format says so"
    files: Mapping[str, Path] = field(default_factory=dict)
    """What the bundle holds beside the student, by name."""

    @property
    def contents(self) -> dict[str, bytes]:
        """What the bundle holds beside the student; nothing where PyTorch serves its best path."""
        files = {name: path.read_bytes() for name, path in self.files.items()}
        if self.format == PYTORCH:
            return files
        note = json.dumps({"format": self.format}) + "\n"
        return {**files, SERVED_FILE: note.encode()}

    @property
    def digest(self) -> str:
        """SHA-256 over those contents; empty where there are none."""
        digest = hashlib.sha256()
        for name, content in sorted(self.contents.items()):
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest() if self.contents else ""


def choose_format(
    wanted: str,
    wer: float,
    exported_wers: Mapping[str, float],
    folder: Path,
    max_loss: float,
    unit: Unit = Unit.WORD,
) -> Served:
    """Return the format to serve a student in: the one wanted, unless that costs too many words.

    Args:
        wanted: what the settings ask for.
        wer: of the student as PyTorch runs it, on the test split; a fraction.
        exported_wers: of each exported format, on the same utterances.
        folder: where the exported student lies.
        max_loss: points of WER, as a fraction, that a format may lose.
        unit: what errors are counted in.
    """
    chosen, reason = wanted, Served.reason
    while chosen != PYTORCH:
        loss = exported_wers[chosen] - wer
        if loss <= max_loss:
            file = MODEL_FILES[chosen]
            return Served(chosen, reason, {file: folder / file, **decoder_files(folder)})
        reason = (
            f"{chosen} loses {100 * loss:.2f} points of {unit.rate} on the test split, "
            f"{100 * max_loss:.2f} are allowed (register.max_format_loss)"
        )
        chosen = FALLBACKS[chosen]
    return Served(PYTORCH, reason, decoder_files(folder))


def decoder_files(folder: Path) -> dict[str, Path]:
    """Return the files of decoder and confidence in a folder, by name; those that are there."""
    names = (*DECODER_FILES, CONFIDENCE_FILE)
    return {name: folder / name for name in names if (folder / name).exists()}


def served_format(folder: Path) -> str:
    """Return the format that a bundle is served in; of an exported student ONNX, in floats.

    Raises:
        ModelError: the bundle says something else than a format.
    """
    path = folder / SERVED_FILE
    if not path.exists():
        return "onnx" if (folder / MODEL_FILES["onnx"]).exists() else PYTORCH
    try:
        name = str(json.loads(path.read_text("utf-8"))["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; register the model again") from None
    if name not in MODEL_FILES:
        raise ModelError(
            f"{path}: format {name!r}, expected one of {list(MODEL_FILES)}; register the model "
            "again"
        )
    return name


def load_served(folder: Path) -> Transcriber:
    """Load a model in the format that it is served in; PyTorch is imported for its own alone.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    name = served_format(folder)
    if name != PYTORCH:
        return OnnxRecogniser(folder, name)
    from distillery.architectures.known import ARCHITECTURES
    from distillery.models.recogniser import Recogniser
    from distillery.serve.torch_transcriber import TorchTranscriber

    recogniser = Recogniser.load(folder, ARCHITECTURES)
    decoder = Decoder.find(folder, recogniser.vocabulary)
    return TorchTranscriber(recogniser, decoder, Confidence.find(folder))


def begin_stream(student: Transcriber, hot_words: Sequence[HotWord] = ()) -> GrowingText:
    """Return the start of an utterance that is still being spoken, for a student as it is served.

    Args:
        student: what `load_served` returned; many utterances may be on their way through it.
        hot_words: more than its decoder's own.

    Raises:
        ModelError: it waits for an utterance's end, or a hot word cannot be written.
    """
    if isinstance(student, OnnxRecogniser):
        return OnnxStream(student, hot_words)
    from distillery.serve.streaming import StreamingRecogniser
    from distillery.serve.torch_transcriber import TorchTranscriber

    assert isinstance(student, TorchTranscriber)
    return StreamingRecogniser(student.recogniser, student.decoder, hot_words)
