"""What students are served with: its worth in errors, its bytes, its time, and unknown words.

    python -m benchmarks.shipped_decoder [--workspaces . …] [--student conv] [--rounds 5]

Each workspace was evaluated with `register.decoder`. Of its student, as exported in 8-bit integers:

- the error rates of best path and decoder, and how many bytes it all takes;
- the real-time factor from samples to text on one thread, CPU time, with and without, in turns;
- the search alone beside flashlight's, on the same n-grams and log-probabilities, both with known
  words only: its rate and its error rate;
- what spelling unknown words is worth: validation is searched with n-grams that lack some words and
  all training texts that hold them, drawn four times, with and without.

Rows go to benchmarks/results/shipped_decoder.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import paired_rounds, report, row
from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.scoring import Counts, count_text_errors
from distillery.data.units import Unit
from distillery.data.workspace import PREPARED, TEACHER, TEACHER_CACHE
from distillery.decoder.decoder import Decoder, DecoderSettings, texts_of
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.word_model import WordModel, pack
from distillery.device import num_threads
from distillery.distill.kept_texts import language_model_texts
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.language_model.ngrams import ARPA_FILE, LEXICON_FILE, estimate, write_lexicon
from distillery.language_model.settings import SearchSettings
from distillery.models.decoding import greedy_text
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import EvaluateStageParams
from distillery.serve.onnx_recogniser import OnnxRecogniser

FORMAT = "onnx-int8"
MAX_BYTES, MAX_FACTOR = 1_000_000, 0.003
DRAWS, WORDS_LEFT_OUT = 4, 8
PARTS = ("config.json", "tokens.txt", "model.int8.onnx", "decoder.lm", "decoder.json")
"""All that a device needs."""


@dataclass(frozen=True)
class Split:
    """What the student says of some utterances, and what is right."""

    waveforms: Sequence[np.ndarray]
    items: Sequence[np.ndarray]
    references: Sequence[str]
    unit: Unit
    seconds: float

    def rate(self, texts: Sequence[str]) -> float:
        """Return the error rate of texts, in percent."""
        pairs = zip(self.references, texts, strict=True)
        counts = (count_text_errors(*pair, self.unit) for pair in pairs)
        return 100 * sum(counts, Counts(0, 0, 0, 0)).rate


@dataclass(frozen=True)
class Bench:
    """A served student of a workspace."""

    name: str
    folder: Path
    student: OnnxRecogniser
    decoder: Decoder
    valid: Split
    test: Split
    texts: Sequence[str]
    order: int

    @classmethod
    def of(cls, workspace: Path, name: str) -> Bench:
        """Load it, and hear validation and test."""
        data = judged(PreparedData.open(workspace / PREPARED), workspace / TEACHER)
        settings = EvaluateStageParams.load(workspace / PARAMS_FILE)
        folder = workspace / "models/exported" / name
        student = OnnxRecogniser(folder, FORMAT)
        if student.decoder is None or settings.register.decoder is None:
            raise SystemExit(f"{folder}: has no decoder; set register.decoder, run make evaluate")
        source = settings.register.decoder.language_model
        texts = language_model_texts(
            data, workspace / TEACHER_CACHE, settings.distill.filter, source.learns_from
        )
        splits = []
        for split in ("valid", "test"):
            rows = data.references(split)
            waveforms = [data.waveform(item) for item in rows.itertuples()]
            seconds = float(rows["duration_seconds"].sum())
            items = student.log_probs(waveforms)
            unit = data.unit_of(split)
            splits.append(Split(waveforms, items, list(rows["text"]), unit, seconds))
        label = workspace.resolve().name
        return cls(label, folder, student, student.decoder, *splits, texts, source.order)

    @property
    def weights(self) -> SearchWeights:
        """Those that validation chose."""
        return self.decoder.settings.weights

    def error_rows(self) -> list[dict[str, Any]]:
        """Return the rows about errors and bytes."""
        weights, model = self.weights, self.decoder.model
        about = (
            f"{FORMAT}, {len(self.texts)} texts, {len(model.words)} words; weight "
            f"{weights.weight:g}, word score {weights.word_score:g}, {weights.beam_size} prefixes"
        )
        rows = []
        for split, data in (("validation", self.valid), ("test", self.test)):
            best = [greedy_text(item, self.student.vocabulary) for item in data.items]
            for how, texts in (("best path", best), ("served", texts_of(self.decoder, data.items))):
                named = f"{data.unit.rate} of {self.name}, {split}, {how}"
                rows.append(row(named, data.rate(texts), "%", None, None, about))
        sizes = {name: (self.folder / name).stat().st_size for name in PARTS}
        parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        total, goal = sum(sizes.values()), f"at most {MAX_BYTES}"
        named = f"bytes of {self.name}'s student with all that it needs"
        return [*rows, row(named, total, "bytes", goal, total <= MAX_BYTES, parts)]

    def speed_rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the rows about time."""
        data, student = self.test, self.student
        plain = OnnxRecogniser(self.folder, FORMAT)
        plain.decoder = None
        times = paired_rounds(
            [lambda: student.transcribe(data.waveforms), lambda: plain.transcribe(data.waveforms)],
            rounds,
        )
        served, best = (
            statistics.median(column) / data.seconds for column in zip(*times, strict=True)
        )
        against = f"best path {best:.2g}; {data.seconds:.0f} s of audio, median of {rounds} rounds"
        goal = f"at most {MAX_FACTOR:g}"
        named = f"real-time factor of {self.name}'s student as served"
        return [row(named, served, "CPU s per s", goal, served <= MAX_FACTOR, against)]

    def flashlight_rows(self, rounds: int) -> list[dict[str, Any]]:
        """Return the row about flashlight's search."""
        unit = Unit.CHARACTER if self.valid.unit.spells_characters else Unit.WORD
        model, data, weights = estimate(self.texts, self.order, unit), self.test, self.weights
        known = replace(weights, unknown_score=None)
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / ARPA_FILE)
            write_lexicon(model.words, self.student.vocabulary, Path(folder) / LEXICON_FILE, unit)
            settings = SearchSettings(
                weights.weight, weights.word_score, weights.beam_size, weights.beam_threshold
            )
            other = LanguageModelDecoder(Path(folder), self.student.vocabulary, settings)
        own = self.decoder.with_weights(known)
        theirs = [found[0] for found in other.n_best(data.items)]
        ours = texts_of(own, data.items)
        times = paired_rounds(
            [lambda: texts_of(own, data.items), lambda: other.n_best(data.items)], rounds
        )
        ratio = statistics.median(first / second for first, second in times)
        same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)
        own_factor, other_factor = (
            statistics.median(column) / data.seconds for column in zip(*times, strict=True)
        )
        against = (
            f"flashlight, real-time factor {other_factor:.2g}, ours {own_factor:.2g}; "
            f"{data.unit.rate} {data.rate(theirs):.1f} %, ours {data.rate(ours):.1f} %; "
            f"{100 * same:.0f} % of the texts are the same"
        )
        named = f"time of the search alone, {self.name}, known words"
        return [row(named, ratio, "times flashlight's", None, None, against)]

    def unknown_rows(self) -> list[dict[str, Any]]:
        """Return the row about unknown words."""
        spoken = Counter(word for text in self.valid.references for word in text.split())
        drawn = sorted({w for text in self.texts for w in text.split() if len(w) > 1})
        found, unknown = [], 0
        for seed in range(DRAWS):
            out = set(random.Random(seed).sample(drawn, min(WORDS_LEFT_OUT, len(drawn) // 2)))
            kept = [text for text in self.texts if not out & set(text.split())]
            if not any(kept):
                continue
            model = estimate(kept, self.order)
            packed = WordModel.from_bytes(pack(model, (), Unit.WORD))
            unknown += sum(n for word, n in spoken.items() if word not in packed.number)
            rates = []
            for score in (None, 0.0):
                weights = replace(self.weights, unknown_score=score)
                decoder = Decoder(packed, self.student.vocabulary, DecoderSettings(weights))
                rates.append(self.valid.rate(texts_of(decoder, self.valid.items)))
            found.append(rates)
        if not found:
            return []
        closed, opened = (statistics.mean(column) for column in zip(*found, strict=True))
        each = "; ".join(f"{a:.1f} → {b:.1f}" for a, b in found)
        against = (
            f"{closed:.1f} % where only known words are written; {len(found)} draws: {each}; "
            f"{unknown} of {len(found) * sum(spoken.values())} words are unknown"
        )
        named = f"{self.valid.unit.rate} of {self.name}, validation, unknown words spelt"
        return [row(named, opened, "%", "lower than without", opened < closed, against)]


def measure(workspaces: Sequence[Path], name: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    rows: list[dict[str, Any]] = []
    for workspace in workspaces:
        with num_threads(1):
            bench = Bench.of(workspace, name)
            rows += [*bench.error_rows(), *bench.speed_rows(rounds)]
            rows += bench.flashlight_rows(rounds)
            if not bench.valid.unit.spells_characters:
                rows += bench.unknown_rows()
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspaces", type=Path, nargs="+", default=[Path()])
    parser.add_argument("--student", default="conv")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report("shipped_decoder", measure(options.workspaces, options.student, options.rounds))


if __name__ == "__main__":
    main()
