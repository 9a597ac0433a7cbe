"""What the evaluation found, as summary.json holds it. Imports no model code: reading is quick.

Rates, gains and shares are fractions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from distillery.data.units import Unit
from distillery.distill.filtering import FilterReport
from distillery.errors import StageError
from distillery.evaluate.comparison import Comparison
from distillery.evaluate.rates import Rates
from distillery.evaluate.records import Record
from distillery.files import write_json

SUMMARY_FILE = "summary.json"
PREDICTIONS_FILE = "predictions.parquet"
"""Beside it: what every model heard, as `distillery.evaluate.predictions` says."""
EXPORTED_FILE = "exported.parquet"
"""Beside it: the same of the exported students, by `format`."""


CONTROL_FOLDER = "control"
"""In the folder of an exported student: the decoder of its control, which is not exported."""


class Latency(Record):
    """How long a student that streams makes one wait, in milliseconds."""

    algorithmic: float
    """From a sound to the output of its frame, computing and chunks aside."""
    chunk: float
    """Audio in one chunk."""
    compute_median: float
    """Computing time of a chunk, median over all chunks."""
    compute_p95: float
    """The time that 95 % of the chunks stay below."""
    final_median: float
    """From the end of the audio to the whole text, median over the utterances."""
    emission_delay: float | None
    """How much later its tokens begin than the teacher's, on average; None where they have none in
    common."""


class ModelFigures(Rates):
    """All that was measured of one model; of several seeds means over them."""

    parameters: int
    """Numbers that were trained."""
    bytes: int
    """Size of the saved weights."""
    valid_wer: float | None
    """WER of the epoch that was kept, on the validation split; None where nothing was trained."""
    real_time_factor: float
    """Seconds of computing per second of audio, on one thread."""
    device: str
    """Processor and threads of that measurement."""
    latency_ms: Latency | None = None
    """None where the model does not stream."""
    num_epochs: float | None = None
    """Passes over the training split; None where nothing was trained here."""
    cpu_seconds: float | None = None
    """Of its training, on all threads; None where nothing says."""
    converged: float | None = None
    """Share of its trainings, one from each seed, whose validation had stopped improving when they
    ended; None where nothing was trained here."""
    fell_back: float | None = None
    """Of a student: share of its seeds whose control was better on validation, so that it has the
    control's weights there; curves, epochs and computing stay those of its own training."""
    valid_wer_as_trained: float | None = None
    """Of those seeds: validation WER of the student's own weights; None where there are none."""


class Row(ModelFigures):
    """The figures of a model, and which it is."""

    model: str
    """What it is called among predictions and, of one seed, where it lies under models/."""
    role: str
    """teacher, student or control."""
    name: str
    """In params.yaml; a control has its student's."""

    @property
    def label(self) -> str:
        """How tables and pictures call it."""
        return "teacher" if self.role == "teacher" else f"{self.role} {self.name}"


class SeedRow(Row):
    """The figures of a student or control as it was trained from one seed."""

    seed: int


class ModelRow(Row):
    """The figures of a model, means over its seeds."""

    by_seed: tuple[SeedRow, ...] = ()
    """Those of each seed; empty for the teacher, which has none."""
    best_seed: int | None = None
    """Of a student: the seed of the lowest validation WER."""

    def of_seed(self, seed: int) -> SeedRow:
        """Return the figures of one of its seeds."""
        (row,) = (row for row in self.by_seed if row.seed == seed)
        return row

    @property
    def runs(self) -> tuple[Row, ...]:
        """Its rows by seed; the teacher's own, which has none."""
        return self.by_seed or (self,)


class ExportedFigures(Rates):
    """What was measured of a student in one of the formats that it was exported to."""

    bytes: int
    """Size of the exported file."""
    max_log_prob_difference: float
    """How far log-probabilities are from PyTorch's at most, in nats."""
    same_texts_fraction: float
    """Share of the utterances in which it hears what PyTorch hears."""
    real_time_factor: float
    """Seconds of computing per second of audio, on one thread."""


class Export(Record):
    """A student as it was exported."""

    seed: int
    """The one that was exported, its best."""
    formats: Mapping[str, ExportedFigures]
    """By format, a key of `distillery.serve.onnx_recogniser.MODEL_FILES`."""


class TunedSearch(Record):
    """The search with n-grams that the validation split chose for one model."""

    weight: float
    """Factor of the language model's ln P(W)."""
    word_score: float
    """Nats added for every word; larger makes more and shorter words."""
    beam_size: int
    """Beams kept at each frame."""
    beam_threshold: float
    """Nats below the best at which a beam is given up."""
    valid_wer: float
    """WER on the validation split with the language model."""
    valid_wer_greedy: float
    """WER on the validation split of the best path, without it."""
    unknown_score: float | None = None
    """Nats added for a word that the lexicon lacks; None where none can be written."""
    bytes: int | None = None
    """Size of n-grams and words as they are shipped; None where they are not."""


class TestData(Record):
    """How much was scored."""

    __test__ = False  # for pytest: it is no test

    utterances: int
    """Transcribed utterances."""
    words: int
    """Words spoken in them."""
    hours: float
    """Their audio."""
    speakers: int
    """Speakers who are known by name."""
    unit: Unit = Unit.WORD
    """What errors are counted in; characters are called words everywhere in here, then."""
    valid_unit: Unit | None = None
    """What they are counted in on the validation split; None: the same."""


class Summary(Record):
    """All figures of an evaluation."""

    confidence: float
    """Coverage of the intervals."""
    seeds: tuple[int, ...]
    """What students and controls were trained from."""
    data: TestData
    """What they were scored on."""
    models: tuple[ModelRow, ...]
    """The teacher, then each student behind its control."""
    exports: Mapping[str, Export]
    """By student."""
    comparisons: Mapping[str, Comparison]
    """By student."""
    filters: Mapping[str, FilterReport | None]
    """What the filter did to each student's training texts; None where it was off."""
    language_models: Mapping[str, TunedSearch]
    """By model and seed; empty where none was used."""

    @property
    def teacher(self) -> ModelRow:
        """The teacher's row."""
        (row,) = (row for row in self.models if row.role == "teacher")
        return row

    @property
    def students(self) -> dict[str, ModelRow]:
        """The students' rows by their names."""
        return {row.name: row for row in self.models if row.role == "student"}

    @property
    def controls(self) -> dict[str, ModelRow]:
        """The controls' rows by their students' names; of those that were trained."""
        return {row.name: row for row in self.models if row.role == "control"}

    def search_of(self, row: Row) -> TunedSearch | None:
        """Return the search of a model; of a student's means, that of its best seed.

        None where there was none.
        """
        model = row.model
        if isinstance(row, ModelRow) and row.best_seed is not None:
            model = row.of_seed(row.best_seed).model
        return self.language_models.get(model)

    def model_of(self, role: str, name: str) -> ModelRow:
        """Return the row of a student, or of its control.

        Args:
            role: student or control.
            name: the student's.
        """
        return (self.controls if role == "control" else self.students)[name]

    @property
    def trained(self) -> list[SeedRow]:
        """The rows of all students and controls by seed."""
        return [row for model in self.models for row in model.by_seed]

    def write(self, folder: Path) -> None:
        """Write summary.json into a folder."""
        write_json(folder / SUMMARY_FILE, self.entries())

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """Read the summary.json of a folder.

        Raises:
            StageError: it is missing or damaged.
        """
        path = folder / SUMMARY_FILE
        try:
            content = json.loads(path.read_text("utf-8"))
            if isinstance(content, dict):  # the first versions exported nothing, and had none
                content = {"exports": {}, "language_models": {}, **content}
            return cls.model_validate(content)
        except FileNotFoundError:
            raise StageError(f"{path}: no such file; run make run first") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise StageError(
                f"{path}: {where}: {first['msg']}; it is damaged, run make evaluate again"
            ) from None
        except ValueError as error:
            raise StageError(
                f"{path}: is no JSON ({error}); it is damaged, run make evaluate again"
            ) from None
