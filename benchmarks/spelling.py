"""How near the rule of spelling brings a real Whisper to a corpus's transcripts.

    python -m benchmarks.spelling --model FOLDER --an4 FOLDER [--prompt TEXT] [--heard FILE]

AN4's official test split (130 utterances) is heard by a Whisper in CTranslate2's format, int8, beam
5, language en, one thread. Its texts are compared with the transcripts as written and by each rule.
Of the texts that are right by `digits` and `spell` the share is told that distill.filter's defaults
drop, by several confidences. Needs faster-whisper; what was heard is kept in --heard and taken from
there the next time. Rows go to benchmarks/results/spelling.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from benchmarks.common import report, row
from distillery.corpora.an4 import read_an4
from distillery.data.audio import load_audio
from distillery.data.scoring import count_errors
from distillery.data.spelling import SpellingRule, spell
from distillery.data.text import Vocabulary, normalise
from distillery.distill.filtering import Candidate, fault
from distillery.files import write_json
from distillery.params.distill import FilterParams
from distillery.params.prepare import PrepareParams
from distillery.teachers.spelt import spell_heard

RULES = [SpellingRule(n, s, "en") for n in ("digits", "cardinals") for s in ("spell", "keep")]
LETTERS = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")
RATE_HZ = 16000
BEAMS = 5
MAX_WER = 15.0
MAX_DROPPED = 5.0
LENIENT = 0.4
"""A least confidence that suits Whisper's on utterances of a few words."""


@dataclass(frozen=True)
class Hypothesis:
    """A text without time-stamps."""

    text: str
    log_prob: float
    """ln P of its tokens, the end token included."""
    tokens: int
    """How many these are."""


@dataclass(frozen=True)
class Heard:
    """One utterance, as Whisper heard it."""

    utterance_id: str
    reference: str
    """Normalised."""
    seconds: float
    text: str
    """As the library writes it by itself."""
    confidence: float
    """exp(avg_logprob), over the tokens of all segments, time-stamps included."""
    hypotheses: Sequence[Hypothesis]
    """Of a search without time-stamps, best first."""


def hear(model: Path, an4: Path, prompt: str | None) -> Iterator[Heard]:
    """Yield the test split as a Whisper hears it."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(model), compute_type="int8", cpu_threads=1)
    params = PrepareParams(corpus="an4", source=str(an4))
    for recording in read_an4(params, an4):
        if recording.split == "test":
            assert isinstance(recording.audio, Path)
            waveform = load_audio(recording.audio, RATE_HZ)
            found, _ = whisper.transcribe(
                waveform, language="en", beam_size=BEAMS, initial_prompt=prompt
            )
            segments = list(found)
            tokens = sum(len(segment.tokens) for segment in segments)
            total = sum(segment.avg_logprob * len(segment.tokens) for segment in segments)
            yield Heard(
                recording.utterance_id,
                normalise(recording.text or "", "lower"),
                len(waveform) / RATE_HZ,
                " ".join(segment.text.strip() for segment in segments),
                math.exp(total / tokens) if tokens else 0.0,
                best_texts(whisper, waveform, prompt),
            )


def best_texts(whisper: Any, waveform: np.ndarray, prompt: str | None) -> list[Hypothesis]:
    """Return the texts of a search without time-stamps, best first."""
    from faster_whisper.audio import pad_or_trim
    from faster_whisper.tokenizer import Tokenizer

    tokenizer = Tokenizer(whisper.hf_tokenizer, True, task="transcribe", language="en")
    before = tokenizer.encode(f" {prompt}") if prompt else []
    (found,) = whisper.model.generate(
        whisper.encode(pad_or_trim(whisper.feature_extractor(waveform))),
        [whisper.get_prompt(tokenizer, before, without_timestamps=True)],
        beam_size=BEAMS,
        num_hypotheses=BEAMS,
        return_scores=True,
    )
    return [
        Hypothesis(
            tokenizer.decode([token for token in tokens if token < tokenizer.eot]),
            score * len(tokens),
            len(tokens) + 1,
        )
        for tokens, score in zip(found.sequences_ids, found.scores, strict=True)
    ]


def rate(heard: Sequence[Heard], write: Callable[[Heard], str]) -> float:
    """Return the WER in percent of texts."""
    counts = [count_errors(item.reference.split(), write(item).split()) for item in heard]
    return 100 * sum(c.errors for c in counts) / sum(c.reference_length for c in counts)


def by_rule(text: str, rule: SpellingRule) -> str:
    """Return a text as the rule spells it."""
    return normalise(spell(text, rule), "lower")


def dropped(
    heard: Sequence[Heard],
    write: Callable[[Heard], str],
    sure: Callable[[Heard], float],
    params: FilterParams,
) -> tuple[float, int]:
    """Return the share in percent of right texts that the filter drops, and how many are right."""
    right = [item for item in heard if write(item) == item.reference]
    candidates = [Candidate(write(item), sure(item), item.seconds) for item in right]
    lost = sum(fault(candidate, params) is not None for candidate in candidates)
    return 100 * lost / max(1, len(right)), len(right)


def of_one_form(item: Heard) -> float:
    """Return the confidence in the best text's tokens, without time-stamps."""
    best = item.hypotheses[0]
    return math.exp(best.log_prob / best.tokens)


def of_spelling(item: Heard) -> float:
    """Return the confidence in the best spelling, in whatever forms it was written."""
    heard = [
        (hypothesis.text, hypothesis.log_prob, hypothesis.tokens) for hypothesis in item.hypotheses
    ]
    return spell_heard(heard, RULES[0], LETTERS)[1]


def rows_of(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """Return the rows of the report."""

    def alone(item: Heard) -> str:
        return by_rule(item.hypotheses[0].text, RULES[0])

    def library(item: Heard) -> str:
        return by_rule(item.text, RULES[0])

    rows = [
        wer_row("as written", rate(heard, lambda item: normalise(item.text, "lower")), None),
        *(
            wer_row(str(rule), rate(heard, lambda item, rule=rule: by_rule(item.text, rule)), rule)
            for rule in RULES
        ),
        wer_row("without time-stamps, digits and spell", rate(heard, alone), RULES[0]),
    ]
    default, lenient = FilterParams(), FilterParams(min_confidence=LENIENT)
    for name, write, sure, params in (
        ("the library's confidence, time-stamps included", library, library_confidence, default),
        ("without time-stamps", alone, of_one_form, default),
        ("without time-stamps, of all forms of a spelling", alone, of_spelling, default),
        (f"the same, min_confidence {LENIENT:g}", alone, of_spelling, lenient),
        (f"the library's, min_confidence {LENIENT:g}", library, library_confidence, lenient),
    ):
        share, right = dropped(heard, write, sure, params)
        rows.append(
            row(
                f"right texts that the filter drops, {name}",
                share,
                "%",
                f"at most {MAX_DROPPED:g} %",
                share <= MAX_DROPPED,
                f"{right} of {len(heard)} texts are right",
            )
        )
    return rows


def library_confidence(item: Heard) -> float:
    """Return what faster-whisper says by itself."""
    return item.confidence


def wer_row(name: str, wer: float, rule: SpellingRule | None) -> dict[str, Any]:
    """Return the row of one way to spell; the goal is for `digits` and `spell`."""
    return row(
        f"WER of AN4's test split, {name}",
        wer,
        "%",
        f"at most {MAX_WER:g} %",
        wer <= MAX_WER,
        "the official transcripts",
        is_goal=rule == RULES[0],
    )


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--an4", type=Path, required=True)
    parser.add_argument("--prompt")
    parser.add_argument("--heard", type=Path)
    parser.add_argument("--name", default="spelling")
    options = parser.parse_args()
    if options.heard is not None and options.heard.exists():
        heard = TypeAdapter(list[Heard]).validate_json(options.heard.read_bytes())
    else:
        heard = list(hear(options.model, options.an4, options.prompt))
        if options.heard is not None:
            write_json(options.heard, [asdict(item) for item in heard])
    report(options.name, rows_of(heard))


if __name__ == "__main__":
    main()
