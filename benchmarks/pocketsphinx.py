"""A student as it is served, beside pocketsphinx: WER, computing time and bytes, in one run.

    python -m benchmarks.pocketsphinx --model models/exported/conv [--data data/prepared]
        [--packages FOLDER]

The student is a folder that `make evaluate` exported, with its decoder: 8-bit integers, run by ONNX
Runtime. pocketsphinx has what its wheel ships for English, the generic acoustic model and CMU's
pronouncing dictionary, of which it is given the words of the training transcripts with all their
pronunciations (of `a` the letter's name alone), and a bigram of these transcripts, smoothed after
Witten and Bell:

    p(w|h) = (c(hw) + t(h) p(w)) / (c(h) + t(h)),   p(w) = (c(w) + t / v) / (c + t)

with c the count of an n-gram, t(h) how many different words follow h, t how many there are at all,
and v = t with the end of a sentence. Source: Witten and Bell (1991), "The zero-frequency problem",
method C, interpolated.

Both hear each utterance as a whole, at 16 kHz, on one thread, and both have the weights of their
search chosen on the validation split: the student's were, pocketsphinx's are here. Times are CPU
time from samples to text, both in turns on each utterance of the test split. Intervals are of the
bootstrap over utterances. pocketsphinx is no dependency of this project: --packages names a folder
that `uv pip install --target FOLDER --no-deps pocketsphinx==5.1.1` filled. Rows go to
benchmarks/results/pocketsphinx.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import cpu_seconds, report, row
from benchmarks.shipped_decoder import PARTS
from distillery.data.audio import to_int16
from distillery.data.manifest import PreparedData
from distillery.data.scoring import bootstrap_interval, count_errors, paired_bootstrap
from distillery.language_model.ngrams import ARPA_FILE, END, START, NGram, NGramModel
from distillery.serve.onnx_recogniser import OnnxRecogniser

FORMAT = "onnx-int8"
MAX_WER, MAX_TIME_SHARE, MAX_BYTES = 11.0, 1 / 20, 1_000_000
SETTINGS = ({}, {"wip": 0.1}, {"lw": 10.0}, {"lw": 10.0, "wip": 0.1})
"""Of pocketsphinx, to choose from: weight of the n-grams (6.5 by default) and what a word more
multiplies a text's probability by (0.65)."""
ARTICLE = ("a", "AH")
"""No text of AN4 has it: there `a` is a letter."""
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
    """Return a dictionary of some words, with all ways in which a larger one says them.

    Of `a` it is the letter's name alone.
    """
    found: dict[str, list[str]] = {word: [] for word in words}
    for line in dictionary.read_text("utf-8").splitlines():
        written, said = line.split(maxsplit=1)
        word = ALTERNATIVE.sub("", written)
        if word in found and (word, said) != ARTICLE:
            found[word].append(said)
    if missing := sorted(word for word, ways in found.items() if not ways):
        raise SystemExit(f"{dictionary.name}: has no pronunciation of {missing}, expected all")
    return "".join(
        f"{word}{'' if number == 1 else f'({number})'} {said}\n"
        for word, ways in found.items()
        for number, said in enumerate(ways, 1)
    )


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
        self.set_up({})

    def set_up(self, settings: Mapping[str, float]) -> None:
        """Take a decoder with some settings, all others as the library has them."""
        config = self._library.Config(
            hmm=str(self._hmm),
            dict=str(self._words),
            lm=str(self._lm),
            samprate=float(RATE_HZ),
            loglevel="FATAL",
            **settings,
        )
        self._decoder = self._library.Decoder(config)

    def hear(self, samples: np.ndarray) -> str:
        """Return the text of an utterance, int16 `(samples,)`."""
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)

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


def choose(sphinx: Sphinx, valid: Split) -> str:
    """Give pocketsphinx the settings that validation chooses, and say how they were chosen."""
    rates = []
    for settings in SETTINGS:
        sphinx.set_up(settings)
        rates.append(valid.rate([sphinx.hear(item) for item in valid.samples]))
    best = SETTINGS[int(np.argmin(rates))]
    sphinx.set_up(best)
    named = [
        " and ".join(f"{name} {value:g}" for name, value in item.items()) or "as it comes"
        for item in SETTINGS
    ]
    tried = "; ".join(f"{name} {rate:.1f} %" for name, rate in zip(named, rates, strict=True))
    return f"{named[SETTINGS.index(best)]}; on validation {tried}"


@dataclass(frozen=True)
class Heard:
    """What both heard of a split, each utterance in turns."""

    student: Sequence[str]
    sphinx: Sequence[str]
    seconds: np.ndarray
    """CPU time of student and pocketsphinx `(utterances, 2)`."""

    @classmethod
    def of(cls, split: Split, student: OnnxRecogniser, sphinx: Sphinx) -> Heard:
        """Have both hear it."""
        own: list[str] = []
        other: list[str] = []
        student.transcribe(split.waveforms[:1])  # what the first one brings into memory
        seconds = [
            (
                cpu_seconds(lambda item=waveform: own.extend(student.transcribe([item]))),
                cpu_seconds(lambda item=samples: other.append(sphinx.hear(item))),
            )
            for waveform, samples in zip(split.waveforms, split.samples, strict=True)
        ]
        return cls(own, other, np.array(seconds))


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


def speed_rows(test: Split, seconds: np.ndarray) -> list[Any]:
    """Return the rows about time.

    Args:
        test: what was heard.
        seconds: of `Heard`.
    """
    own, other = seconds.sum(axis=0)
    on, unit = f"{test.seconds:.0f} s of audio, utterances in turns", "CPU s per s"
    goal, holds = f"<= {MAX_TIME_SHARE:g}", own / other <= MAX_TIME_SHARE
    return [
        row("real-time factor of the student", own / test.seconds, unit, None, None, on),
        row("real-time factor of pocketsphinx", other / test.seconds, unit, None, None, on),
        row("time of the student", own / other, "of pocketsphinx's", goal, holds, on),
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


def measure(folder: Path, prepared: Path) -> list[dict[str, Any]]:
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
        how = choose(sphinx, Split.of(data, "valid"))
        heard = Heard.of(test, student, sphinx)
        return [
            *error_rows(test, heard.student, heard.sphinx, how),
            *speed_rows(test, heard.seconds),
            *size_rows(folder, sphinx),
        ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported student")
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--packages", type=Path, help="folder that pocketsphinx was installed into")
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    if importlib.util.find_spec("pocketsphinx") is None:
        parser.error("pocketsphinx is not installed; see --packages in the head of this file")
    report("pocketsphinx", measure(options.model, options.data))


if __name__ == "__main__":
    main()
