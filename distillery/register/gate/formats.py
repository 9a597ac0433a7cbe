"""Students and champions in every format, scored on one test split in one process.

Speeds are taken in turns, pass by pass: a moment in which the machine was busy then spoils
everybody's figure alike.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_text_errors
from distillery.decoder.decoder import Decoder
from distillery.errors import ModelError, StageError
from distillery.evaluate.latency import usual_way
from distillery.evaluate.listening import batches, labelled_test_rows, speed_clip
from distillery.evaluate.models import weights_bytes
from distillery.evaluate.predictions import as_served
from distillery.evaluate.speed import measure_real_time_factor
from distillery.models.recogniser import WEIGHTS_FILE, Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.register.aliases import check_version
from distillery.register.gate.rules import PYTORCH, ScoredFormat
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.tracking.store import Tracking
from distillery.tracking.trained_on import are_among

NUM_ROUNDS = 2


@dataclass(frozen=True)
class LoadedFormat:
    """A model in one format, ready to run."""

    name: str
    """`torch`, or the format that it was exported to."""
    transcribe: Callable[[Sequence[np.ndarray]], Sequence[str]]
    """From a batch of waveforms `(samples,)` to texts, as it is meant to run."""
    num_bytes: int
    """Size of its weights."""
    predictions: pd.DataFrame | None = None
    """Its rows of the evaluation; None where it is still to be scored on this test split."""
    is_searched: bool = False
    """Whether a decoder searches its texts."""


class TestSplit:
    """The split that decides, and how to score on it."""

    def __init__(self, data: PreparedData, settings: EvaluateParams) -> None:
        """Take the transcribed utterances of the test split.

        Raises:
            CorpusError: there is none.
        """
        self.data = data
        self.settings = settings
        self.rows = labelled_test_rows(data)
        self._all_ids = sorted(self.rows["utterance_id"])

    def without(self, heard: np.ndarray) -> TestSplit:
        """Return the split without the utterances that a model learnt from.

        Args:
            heard: as `distillery.tracking.trained_on.read_keys` returns it.
        """
        left = copy.copy(self)
        left.rows = self.rows[~are_among(list(self.rows["audio_key"]), heard)].reset_index(
            drop=True
        )
        return left

    def score(self, loaded: Sequence[LoadedFormat]) -> list[ScoredFormat]:
        """Return what each did, in their order.

        Raises:
            StageError: one brings predictions of other utterances.
        """
        clip = speed_clip(self.data, self.rows, self.settings.speed_seconds)
        seconds = len(clip) / self.data.sample_rate_hz
        speeds: list[list[float]] = [[] for _ in loaded]
        # Pass by pass in turns, for a machine that others use may be twice as fast a second later.
        for _ in range(NUM_ROUNDS * self.settings.speed_repeats):
            for item, taken in zip(loaded, speeds, strict=True):
                result = measure_real_time_factor(item.transcribe, clip, seconds, repeats=1)
                taken.append(result.real_time_factor)
        return [
            ScoredFormat(
                item.name,
                self._predictions(item),
                item.num_bytes,
                statistics.median(taken),
                item.is_searched,
            )
            for item, taken in zip(loaded, speeds, strict=True)
        ]

    def ordered(self, predictions: pd.DataFrame, whose: str) -> pd.DataFrame:
        """Return predictions in the order of the split's rows, without what was left out.

        Raises:
            StageError: they are of other utterances.
        """
        wanted = list(self.rows["utterance_id"])
        if sorted(predictions["utterance_id"]) != self._all_ids:
            raise StageError(
                f"reports/evaluation: {whose} was scored on {len(predictions)} utterances, "
                f"data/prepared has {len(self._all_ids)} to test on, expected the same; run make "
                "evaluate"
            )
        return predictions.set_index("utterance_id").loc[wanted].reset_index()

    def _predictions(self, loaded: LoadedFormat) -> pd.DataFrame:
        if loaded.predictions is not None:
            return self.ordered(loaded.predictions, loaded.name)
        texts: dict[int, str] = {}
        for batch in batches(self.rows["duration_seconds"].to_numpy()):
            waveforms = [self.data.waveform(row) for row in self.rows.iloc[batch].itertuples()]
            texts.update(zip(batch, loaded.transcribe(waveforms), strict=True))
        unit = self.data.unit_of("test")
        counts = [
            count_text_errors(text, texts[index], unit)
            for index, text in enumerate(self.rows["text"])
        ]
        return self.rows[["utterance_id", "speaker"]].assign(
            words=[count.reference_length for count in counts],
            word_errors=[count.errors for count in counts],
        )


def formats_of_student(
    folder: Path,
    predictions: pd.DataFrame,
    exported_folder: Path,
    exported: pd.DataFrame,
    chunk_seconds: float,
    decoder_folder: Path,
) -> list[LoadedFormat]:
    """Return a student in all its formats, PyTorch's first, each as it is served.

    Args:
        folder: where it was saved.
        predictions: what the evaluation found, as PyTorch runs it.
        exported_folder: where it was exported to.
        exported: what the evaluation found of that, by `format`; may be empty.
        chunk_seconds: audio that a streaming student hears at once.
        decoder_folder: where its decoder lies, if it has one.

    Raises:
        ModelError: a file is missing or damaged.
    """
    recogniser = Recogniser.load(folder, ARCHITECTURES)
    decoder = Decoder.find(decoder_folder, recogniser.vocabulary)
    transcribe = usual_way(recogniser, chunk_seconds, decoder)
    own, size, is_searched = as_served(predictions), weights_bytes(folder), decoder is not None
    formats = [LoadedFormat(PYTORCH, transcribe, size, own, is_searched)]
    for name, found in exported.groupby("format", sort=False):
        student = OnnxRecogniser(exported_folder, str(name))
        size, is_searched = student.num_bytes, student.decoder is not None
        formats.append(
            LoadedFormat(str(name), student.transcribe, size, as_served(found), is_searched)
        )
    return formats


def formats_of_version(
    tracking: Tracking, model_name: str, version: str, split: TestSplit
) -> list[LoadedFormat]:
    """Return a registered version in all its formats, its files checked against the registry.

    Raises:
        TrackingError: its files cannot be had.
        ModelError: they are damaged, or it cannot hear this data.
    """
    folder = check_version(tracking, model_name, version)
    recogniser = Recogniser.load(folder, ARCHITECTURES)
    if recogniser.sample_rate_hz != split.data.sample_rate_hz:
        raise ModelError(
            f"it takes {recogniser.sample_rate_hz} Hz and the test split has "
            f"{split.data.sample_rate_hz} Hz"
        )
    letters = "".join(sorted(set("".join(split.rows["text"]))))
    if unknown := recogniser.vocabulary.unknown(letters):
        raise ModelError(f"it has no token for {sorted(unknown)}, which the test split holds")
    decoder = Decoder.find(folder, recogniser.vocabulary)
    transcribe = usual_way(recogniser, split.settings.stream_chunk_seconds, decoder)
    weights, is_searched = (folder / WEIGHTS_FILE).stat().st_size, decoder is not None
    formats = [LoadedFormat(PYTORCH, transcribe, weights, None, is_searched)]
    for name in (name for name, file in MODEL_FILES.items() if (folder / file).exists()):
        exported = OnnxRecogniser(folder, name)
        size = exported.num_bytes
        formats.append(LoadedFormat(name, exported.transcribe, size, None, is_searched))
    return formats
