"""A student as it is served, beside pocketsphinx: WER, computing time and bytes, in one run.

    python -m benchmarks.pocketsphinx --model models/exported/conv [--data data/prepared]
        [--packages FOLDER] [--rounds 3]

The student is a folder that `make evaluate` exported, with its decoder: 8-bit integers, run by ONNX
Runtime. pocketsphinx has what its wheel ships for English, the generic acoustic model and CMU's
pronouncing dictionary, of which it is given the words of the training transcripts with all their
pronunciations, and a bigram of these transcripts, smoothed after Witten and Bell:

    p(w|h) = (c(hw) + t(h) p(w)) / (c(h) + t(h)),   p(w) = (c(w) + t / v) / (c + t)

with c the count of an n-gram, t(h) how many different words follow h, t how many there are at all,
and v = t with the end of a sentence. Source: Witten and Bell (1991), "The zero-frequency problem",
method C, interpolated.

Both hear each utterance as a whole, at 16 kHz, on one thread, and both have their weight of n-grams
chosen on the validation split: the student's decoder was, pocketsphinx's is here. Times are CPU
time from samples to text over the test split, medians of paired rounds. Intervals are of the
bootstrap over utterances. pocketsphinx is no dependency of this project: --packages names a folder
that `uv pip install --target FOLDER --no-deps pocketsphinx==5.1.1` filled. Rows go to
benchmarks/results/pocketsphinx.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import paired_rounds, report, row
from benchmarks.shipped_decoder import PARTS
from distillery.data.audio import to_int16
from distillery.data.manifest import PreparedData
from distillery.data.scoring import bootstrap_interval, count_errors, paired_bootstrap
from distillery.language_model.ngrams import ARPA_FILE, END, START, NGram, NGramModel
from distillery.serve.onnx_recogniser import OnnxRecogniser

FORMAT = "onnx-int8"
MAX_WER, MAX_TIME_SHARE, MAX_BYTES = 11.0, 1 / 20, 1_000_000
LANGUAGE_WEIGHTS = (6.5, 10.0, 14.0)
"""Of pocketsphinx, the first its default."""
RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0
RATE_HZ = 16000
MODEL, DICTIONARY = "en-us/en-us", "en-us/cmudict-en-us.dict"
ALTERNATIVE = re.compile(r"\(\d+\)$")
"""Behind a word of which there are several pronunciations."""


def witten_bell(texts: Iterable[str]) -> NGramModel:
    """Return the bigram of some texts, each a sentence of words."""
    single: Counter[str] = Counter()
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        words = [START, *text.split(), END]
        single.update(words[1:])
        for before, word in itertools.pairwise(words):
            pairs[before][word] += 1
    num_words, num_kinds = single.total(), len(single)
    of_one = {w: (n + 1) / (num_words + num_kinds) for w, n in single.items()}  # t = v
    probabilities: dict[NGram, float] = {(START,): 0.0}
    probabilities |= {(word,): chance for word, chance in of_one.items()}
    backoffs: dict[NGram, float] = {}
    for before, after in pairs.items():
        total = after.total() + len(after)
        backoffs[before,] = len(after) / total
        for word, count in after.items():
            probabilities[before, word] = (count + len(after) * of_one[word]) / total
    return NGramModel(2, probabilities, backoffs)


def pronunciations(dictionary: Path, words: Sequence[str]) -> str:
    """Return the lines of a dictionary that say how some words are pronounced, all ways of each."""
    found: dict[str, list[str]] = defaultdict(list)
    wanted = set(words)
    for line in dictionary.read_text("utf-8").splitlines():
        word = ALTERNATIVE.sub("", line.split(maxsplit=1)[0])
        if word in wanted:
            found[word].append(line)
    if missing := sorted(wanted - found.keys()):
        raise SystemExit(f"{dictionary.name}: has no pronunciation of {missing}, expected all")
    return "".join(f"{line}\n" for word in words for line in found[word])


class Sphinx:
    """pocketsphinx with the words and n-grams of some texts."""

    def __init__(self, texts: Sequence[str], folder: Path) -> None:
        """Write its dictionary and n-grams into a folder."""
        self._library = importlib.import_module("pocketsphinx")
        model = witten_bell(texts)
        self._lm, self._words = folder / ARPA_FILE, folder / "words.dict"
        model.save(self._lm)
        self._hmm = Path(self._library.get_model_path(MODEL))
        known = Path(self._library.get_model_path(DICTIONARY))
        self._words.write_text(pronunciations(known, model.words), "utf-8")
        self.decoder = self.with_weight(LANGUAGE_WEIGHTS[0])

    def with_weight(self, language_weight: float) -> Any:
        """Return its decoder with a weight of the n-grams."""
        return self._library.Decoder(
            self._library.Config(
                hmm=str(self._hmm),
                dict=str(self._words),
                lm=str(self._lm),
                lw=language_weight,
                samprate=float(RATE_HZ),
                loglevel="FATAL",
            )
        )

    def hear(self, samples: Sequence[np.ndarray]) -> list[str]:
        """Return the texts of int16 `(samples,)` of utterances."""
        texts = []
        for item in samples:
            self.decoder.start_utt()
            self.decoder.process_raw(item.tobytes(), full_utt=True)
            self.decoder.end_utt()
            found = self.decoder.hyp()
            texts.append("" if found is None else found.hypstr)
        return texts

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of what it needs beside the library."""
        model = sum(path.stat().st_size for path in self._hmm.rglob("*") if path.is_file())
        return {
            "acoustic model": model,
            "dictionary": self._words.stat().st_size,
            "n-grams": self._lm.stat().st_size,
        }


@dataclass(frozen=True)
class Split:
    """Utterances, and what is right."""

    waveforms: Sequence[np.ndarray]
    """float32 `(samples,)`, in [-1, 1)."""
    references: Sequence[str]
    seconds: float

    @classmethod
    def of(cls, data: PreparedData, name: str) -> Split:
        """Return a split of prepared data."""
        rows = data.references(name)
        waveforms = [data.waveform(item) for item in rows.itertuples()]
        return cls(waveforms, list(rows["text"]), float(rows["duration_seconds"].sum()))

    @property
    def samples(self) -> list[np.ndarray]:
        """int16 `(samples,)`."""
        return [to_int16(waveform) for waveform in self.waveforms]

    @property
    def words(self) -> np.ndarray:
        """How many each utterance has, `(utterances,)`."""
        return np.array([len(text.split()) for text in self.references])

    def errors(self, texts: Sequence[str]) -> np.ndarray:
        """Return how many errors each text has, `(utterances,)`."""
        pairs = zip(self.references, texts, strict=True)
        return np.array([count_errors(one.split(), other.split()).errors for one, other in pairs])

    def rate(self, texts: Sequence[str]) -> float:
        """Return the WER, in percent."""
        return float(100 * self.errors(texts).sum() / self.words.sum())


def chosen_weight(sphinx: Sphinx, valid: Split) -> str:
    """Give pocketsphinx the weight that validation chooses, and say how it was chosen."""
    rates = {}
    for weight in LANGUAGE_WEIGHTS:
        sphinx.decoder = sphinx.with_weight(weight)
        rates[weight] = valid.rate(sphinx.hear(valid.samples))
    best = min(rates, key=lambda weight: rates[weight])
    sphinx.decoder = sphinx.with_weight(best)
    tried = ", ".join(f"{weight:g}: {rate:.1f} %" for weight, rate in rates.items())
    return f"language weight {best:g}; on validation {tried}"


def error_rows(test: Split, student: Sequence[str], other: Sequence[str], how: str) -> list[Any]:
    """Return the rows about errors."""
    words, own, others = test.words, test.errors(student), test.errors(other)
    rates = {}
    for name, errors in (("student", own), ("pocketsphinx", others)):
        low, high = bootstrap_interval(errors, words, RESAMPLES, CONFIDENCE, SEED)
        rates[name] = 100 * errors.sum() / words.sum(), f"[{100 * low:.1f}, {100 * high:.1f}]"
    fewer = paired_bootstrap(others, own, words, RESAMPLES, CONFIDENCE, SEED)
    wer, interval = rates["student"]
    about = f"{interval}; {FORMAT} with its decoder, {len(words)} utterances, {words.sum()} words"
    goal = f"<= {MAX_WER:g} %"
    apart = f"[{100 * fewer.low:.1f}, {100 * fewer.high:.1f}], paired bootstrap"
    points, holds = 100 * fewer.difference, fewer.difference > 0
    sphinx_wer, sphinx_interval = rates["pocketsphinx"]
    return [
        row("WER of the student, test", wer, "%", goal, wer <= MAX_WER, about),
        row("WER of pocketsphinx, test", sphinx_wer, "%", None, None, f"{sphinx_interval}; {how}"),
        row("WER of pocketsphinx less the student's", points, "points", "> 0", holds, apart),
    ]


def speed_rows(test: Split, taken: Sequence[tuple[float, ...]]) -> list[Any]:
    """Return the rows about time.

    Args:
        test: what was heard.
        taken: CPU seconds of student and pocketsphinx in each round.
    """
    own, other = (statistics.median(times) / test.seconds for times in zip(*taken, strict=True))
    share = statistics.median(first / second for first, second in taken)
    on = f"{test.seconds:.0f} s of audio, median of paired rounds, {len(taken)} of them"
    unit = "CPU s per s"
    goal, holds = f"<= {MAX_TIME_SHARE:g}", share <= MAX_TIME_SHARE
    return [
        row("real-time factor of the student", own, unit, None, None, on),
        row("real-time factor of pocketsphinx", other, unit, None, None, on),
        row("time of the student", share, "of pocketsphinx's", goal, holds, on),
    ]


def size_rows(folder: Path, sphinx: Sphinx) -> list[Any]:
    """Return the rows about bytes."""
    own = {name: (folder / name).stat().st_size for name in PARTS}
    rows = []
    for name, sizes in (("the student", own), ("pocketsphinx", sphinx.sizes)):
        parts = ", ".join(f"{part} {size}" for part, size in sizes.items())
        goal = f"<= {MAX_BYTES}" if sizes is own else None
        total, against = sum(sizes.values()), f"{parts}; libraries not counted"
        holds = total <= MAX_BYTES if sizes is own else None
        rows.append(row(f"bytes of {name}", total, "bytes", goal, holds, against))
    return rows


def measure(folder: Path, prepared: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    data, student = PreparedData.open(prepared), OnnxRecogniser(folder, FORMAT)
    if student.decoder is None:
        raise SystemExit(f"{folder}: has no decoder; set register.decoder, run make evaluate")
    if student.sample_rate_hz != RATE_HZ:
        raise SystemExit(f"{folder}: hears {student.sample_rate_hz} Hz, expected {RATE_HZ}")
    texts = list(data.split("train")["text"].dropna())
    test = Split.of(data, "test")
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1):
        sphinx = Sphinx(texts, Path(temporary))
        how = chosen_weight(sphinx, Split.of(data, "valid"))
        samples, heard = test.samples, {}

        def own() -> None:
            heard["student"] = student.transcribe(test.waveforms)

        def other() -> None:
            heard["pocketsphinx"] = sphinx.hear(samples)

        taken = paired_rounds([own, other], rounds)
        return [
            *error_rows(test, heard["student"], heard["pocketsphinx"], how),
            *speed_rows(test, taken),
            *size_rows(folder, sphinx),
        ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported student")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--packages", type=Path, help="folder that pocketsphinx was installed into")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    if importlib.util.find_spec("pocketsphinx") is None:
        parser.error("pocketsphinx is not installed; see --packages in the head of this file")
    report("pocketsphinx", measure(options.model, options.data, options.rounds))


if __name__ == "__main__":
    main()
