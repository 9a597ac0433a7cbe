"""How fast beam search with a language model is, against pyctcdecode, and what it does to the WER.

    python -m benchmarks.language_model [--workspaces . …] [--packages FOLDER] [--rounds 7]

The trained teacher of each workspace hears its validation and test splits. An n-gram model is
estimated from the workspace's training transcripts and its weights are chosen on the validation
split, as the stages `cache` and `evaluate` do. The WERs of both splits are told with and without;
the validation WER is that of the split which chose the weights.

Both decoders then search the same log-probabilities of each test split with the same ARPA file,
words and weights, BEAMS beams, and beams given up 10 nats below the best, which is the default of
both; pyctcdecode leaves out tokens of less than e^-5, too. One thread, CPU time, medians of paired
rounds. pyctcdecode is no dependency of this project: --packages names a folder that it, pygtrie,
hypothesis and kenlm were installed into, such as one that `uv pip install --target FOLDER
--no-deps` filled. Rows go to benchmarks/results/language_model.json.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import not_measured, paired_rounds, report, row
from distillery.data.manifest import PreparedData, labelled
from distillery.data.scoring import Counts, count_errors
from distillery.data.text import SPACE, Vocabulary
from distillery.device import num_threads
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.language_model.ngrams import ARPA_FILE, LEXICON_FILE
from distillery.language_model.settings import Tuned
from distillery.language_model.tuning import (
    log_probs_of,
    tune_for,
    untuned_decoder,
    write_language_model,
)
from distillery.models.decoding import greedy_text
from distillery.params.language_model import LanguageModelParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teachers.kinds import load_teacher

BEAMS = 10
MIN_SPEED_UP = 4.0


@dataclass(frozen=True)
class Bench:
    """A workspace's teacher, its language model and what it says about the test split."""

    name: str
    folder: Path
    vocabulary: Vocabulary
    decoder: LanguageModelDecoder
    tuned: Tuned
    num_transcripts: int
    items: Sequence[np.ndarray]
    references: Sequence[str]

    @classmethod
    def of(cls, workspace: Path, folder: Path, params: LanguageModelParams) -> Bench:
        """Estimate, tune, and hear the test split; the language model is written to `folder`."""
        places = Places.in_workspace(workspace)
        data, teacher = PreparedData.open(places.data), load_teacher(places.teacher)
        write_language_model(data, teacher.vocabulary, params, folder)
        decoder = untuned_decoder(folder, teacher.vocabulary, params)
        tuned = tune_for(decoder, data, teacher, params)
        rows = labelled(data, "test")
        return cls(
            workspace.resolve().name,
            folder,
            teacher.vocabulary,
            decoder,
            tuned,
            len(labelled(data, "train")),
            log_probs_of(teacher, data, rows),
            list(rows["text"]),
        )

    def wer(self, texts: Sequence[str]) -> float:
        """Return the word error rate of texts of the test split."""
        pairs = zip(self.references, texts, strict=True)
        counts = (count_errors(reference.split(), text.split()) for reference, text in pairs)
        return sum(counts, Counts(0, 0, 0, 0)).rate

    def wer_rows(self) -> list[dict[str, Any]]:
        """Return the WERs of both splits, with and without the language model."""
        greedy = [greedy_text(item, self.vocabulary) for item in self.items]
        with_it = [found[0] for found in self.decoder.n_best(self.items)]
        settings = self.tuned.settings
        about = (
            f"teacher trained on {self.num_transcripts} transcripts, of which the n-grams are; "
            f"weight {settings.weight:g}, word score {settings.word_score:g}, "
            f"{settings.beam_size} beams"
        )
        values = {
            "validation, best path": self.tuned.valid_wer_greedy,
            "validation, language model": self.tuned.valid_wer,
            "test, best path": self.wer(greedy),
            "test, language model": self.wer(with_it),
        }
        return [
            row(f"WER of {self.name}, {name}", 100 * value, "%", None, None, about)
            for name, value in values.items()
        ]


class PyCTCDecode:
    """The other decoder, on the same files."""

    def __init__(self, bench: Bench) -> None:
        logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
        from pyctcdecode import build_ctcdecoder

        lines = (bench.folder / LEXICON_FILE).read_text("utf-8").splitlines()
        settings = bench.tuned.settings
        self._decoder = build_ctcdecoder(
            ["", *(" " if token == SPACE else token for token in bench.vocabulary.tokens[1:])],
            str(bench.folder / ARPA_FILE),
            [line.partition("\t")[0] for line in lines],
            alpha=settings.weight,
            beta=settings.word_score,
        )

    def texts(self, items: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each utterance."""
        return [self._decoder.decode(item, beam_width=BEAMS) for item in items]


def speed_rows(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about speed."""
    bench.decoder.use(replace(bench.tuned.settings, beam_size=BEAMS))
    ours = [found[0] for found in bench.decoder.n_best(bench.items)]
    name = f"utterances of {bench.name} decoded per CPU second, language model, {BEAMS} beams"
    goal = f"at least {MIN_SPEED_UP:g}"
    try:
        other = PyCTCDecode(bench)
    except ImportError as error:
        why = f"pyctcdecode, which is not here: {error}; see --packages"
        return [not_measured(name, "times pyctcdecode's", goal, why)]
    theirs = other.texts(bench.items)
    times = paired_rounds(
        [lambda: bench.decoder.n_best(bench.items), lambda: other.texts(bench.items)], rounds
    )
    own_rate, other_rate = (
        len(bench.items) / statistics.median(column) for column in zip(*times, strict=True)
    )
    ratios = [second / first for first, second in times]
    ratio = statistics.median(ratios)
    against = (
        f"pyctcdecode, {other_rate:.0f} a second, ours {own_rate:.0f}; {len(ratios)} rounds, "
        f"{min(ratios):.1f} to {max(ratios):.1f} times; WER {100 * bench.wer(ours):.1f} % against "
        f"{100 * bench.wer(theirs):.1f} %"
    )
    return [row(name, ratio, "times pyctcdecode's", goal, ratio >= MIN_SPEED_UP, against)]


def measure(workspaces: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    rows: list[dict[str, Any]] = []
    params = LanguageModelParams()
    for workspace in workspaces:
        with tempfile.TemporaryDirectory() as folder, num_threads(1):
            bench = Bench.of(workspace, Path(folder), params)
            rows += bench.wer_rows()
            rows += speed_rows(bench, rounds)
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspaces", type=Path, nargs="+", default=[Path()])
    parser.add_argument("--packages", type=Path, help="folder with pyctcdecode")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    rows = measure(options.workspaces, options.rounds)
    report("language_model", rows)


if __name__ == "__main__":
    main()
