"""A registered model on one's own recordings: what it hears there, and how wrong that is.

A folder with a manifest, as corpus `manifest` reads it. Transcripts say what is right, or, where
more recordings have these, expected phrases: docs/decisions/0024-no-transcripts.md. Recordings
without that, and those that cannot be decoded, are left out and counted. Transcripts and phrases
are spelt and normalised as those that the model learnt from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.corpora.base import Recording
from distillery.corpora.columns import COLUMNS_WANTED
from distillery.corpora.manifest import read_manifest
from distillery.data.audio import SAMPLE_SCALE, resample
from distillery.data.manifest import audio_key
from distillery.data.spelling import SpellingRule, spell, writes_small_letters
from distillery.data.text import Vocabulary, case_of, normalise
from distillery.data.units import PHRASES_APART, Unit, unit_of
from distillery.errors import AudioError, CorpusError
from distillery.evaluate.predictions import UNKNOWN_SPEAKER, error_columns, rate_over
from distillery.evaluate.records import Estimate
from distillery.params.evaluate import EvaluateParams
from distillery.params.prepare import PrepareParams
from distillery.serve.served import Transcriber

BATCH_SECONDS = 60.0
"""Audio that is recognised at once; a longer recording is a batch by itself."""
MAX_BATCH_FILES = 64
AS_WRITTEN = SpellingRule(numbers="keep", letters="keep")
"""Of versions that were registered before there were rules."""
NAMES = tuple(
    f"{stem}.{ending}"
    for stem in ("manifest", "transcripts")
    for ending in ("csv", "tsv", "jsonl", "json", "parquet")
)
"""What a manifest may be called where a folder is given, in the order in which it is looked for."""


@dataclass(frozen=True)
class Labelled:
    """Recordings of which is known what is spoken, as a manifest lists them."""

    manifest: Path
    recordings: tuple[Recording, ...]
    """Those with a transcript, or with expected phrases where these count."""
    num_unlabelled: int
    """Recordings without one, which are left out."""
    by_phrases: bool = False
    """Whether expected phrases count: more recordings have these than transcripts."""


@dataclass(frozen=True)
class Scored:
    """What a model heard, and what it was told to hear."""

    predictions: pd.DataFrame
    """A row per utterance, as `distillery.evaluate.predictions` says."""
    keys: frozenset[str]
    """Audio keys of what was heard, at the model's rate."""
    digest: str
    """SHA-256 of what was heard and what should be written."""
    failed: tuple[str, ...] = ()
    """Why recordings could not be decoded, a sentence each."""
    num_empty: int = 0
    """Transcripts or phrases of which normalisation left nothing; left out."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Characters of the transcripts that the model cannot write, and how often they stand there."""
    unit: Unit = Unit.WORD
    """What errors are counted in, by the script of most letters of the transcripts; or phrases."""


def find_labelled(place: Path) -> Labelled:
    """Return the recordings that a manifest lists.

    Args:
        place: the manifest, beside or above its audio; or the folder that holds one of NAMES.

    Raises:
        CorpusError: there is none, or it lists neither transcripts nor expected phrases; or as
            `read_manifest`.
        ManifestError: as `read_manifest`.
    """
    manifest = place
    if place.is_dir():
        found = [place / name for name in NAMES if (place / name).is_file()]
        if not found:
            raise CorpusError(
                f"{place}: holds no manifest, expected {', '.join(NAMES[:3])} or the like with "
                f"{COLUMNS_WANTED}; give the folder that holds it, or the file itself"
            )
        manifest = found[0]
    elif not place.exists():
        raise CorpusError(f"{place}: no such folder or manifest")
    source = manifest.parent
    params = PrepareParams(corpus="manifest", source=str(source), manifest=manifest.name)
    listed = list(read_manifest(params, source))
    labelled = tuple(item for item in listed if (item.text or "").strip())
    told = tuple(item for item in listed if item.expected)
    if not labelled and not told:
        raise CorpusError(
            f"{manifest}: lists {len(listed)} recordings and no transcript, expected some: column "
            "text says what is spoken, or column expected names phrases of it"
        )
    by_phrases = len(told) > len(labelled)
    known = told if by_phrases else labelled
    return Labelled(manifest, known, len(listed) - len(known), by_phrases)


def references(
    labelled: Labelled, vocabulary: Vocabulary, rule: SpellingRule = AS_WRITTEN
) -> list[str]:
    """Return what a model should write of each recording, as `prepare` would have spelt it.

    Args:
        labelled: the recordings.
        vocabulary: the model's tokens.
        rule: by which numbers and letter strings of its texts are words.
    """
    case = case_of(vocabulary)
    letters = vocabulary.characters
    cased = writes_small_letters(item.text or "" for item in labelled.recordings)

    def spelt(text: str) -> str:
        return normalise(spell(text, rule, cased), case, letters)

    if not labelled.by_phrases:
        return [spelt(item.text or "") for item in labelled.recordings]
    return [
        PHRASES_APART.join(dict.fromkeys(filter(None, map(spelt, item.expected))))
        for item in labelled.recordings
    ]


def score(
    recogniser: Transcriber,
    vocabulary: Vocabulary,
    labelled: Labelled,
    rule: SpellingRule = AS_WRITTEN,
) -> Scored:
    """Return what a model hears in recordings, and its errors.

    Args:
        recogniser: the model, in any format.
        vocabulary: its tokens.
        labelled: the recordings.
        rule: by which numbers and letter strings of its texts are words.

    Raises:
        CorpusError: none could be scored.
    """
    texts = references(labelled, vocabulary, rule)
    todo = [pair for pair in zip(labelled.recordings, texts, strict=True) if pair[1]]
    rows: list[dict[str, object]] = []
    keys: list[str] = []
    failed: list[str] = []
    with tqdm(total=len(todo), desc="score", unit="file", disable=None) as bar:
        for batch in _decoded(todo, recogniser.sample_rate_hz, failed, bar):
            waveforms = [
                item.samples.astype(np.float32) / np.float32(SAMPLE_SCALE) for item in batch
            ]
            heard = recogniser.transcribe(waveforms)
            for item, hypothesis in zip(batch, heard, strict=True):
                keys.append(audio_key(item.samples))
                rows.append(item.row(recogniser.sample_rate_hz) | {"hypothesis": hypothesis})
    if not rows:
        why = f", the first: {failed[0]}" if failed else ""
        raise CorpusError(
            f"{labelled.manifest}: none of {len(labelled.recordings)} recordings could be scored"
            f"{why}; expected audio and words"
        )
    table = pd.DataFrame(rows)
    characters = Counter("".join(table["text"]))
    if labelled.by_phrases:
        del characters[PHRASES_APART[0]]
    unit = Unit.PHRASE if labelled.by_phrases else unit_of(characters)
    counted = error_columns(table["text"], list(table["hypothesis"]), unit)
    digest = hashlib.sha256()
    for key, text in sorted(zip(keys, table["text"], strict=True)):
        digest.update(f"{key} {text}\n".encode())
    return Scored(
        predictions=table.join(counted),
        keys=frozenset(keys),
        digest=digest.hexdigest(),
        failed=tuple(failed),
        num_empty=len(labelled.recordings) - len(todo),
        unknown=Counter({c: n for c, n in characters.items() if vocabulary.unknown(c)}),
        unit=unit,
    )


@dataclass(frozen=True)
class _Decoded:
    recording: Recording
    text: str
    samples: np.ndarray  # int16 (samples,)

    def row(self, sample_rate_hz: int) -> dict[str, object]:
        return {
            "model": "scored",
            "seed": None,
            "utterance_id": self.recording.utterance_id,
            "speaker": self.recording.speaker,
            "duration_seconds": len(self.samples) / sample_rate_hz,
            "text": self.text,
        }


def _decoded(
    todo: Sequence[tuple[Recording, str]],
    sample_rate_hz: int,
    failed: list[str],
    bar: tqdm[Any],
) -> Iterator[list[_Decoded]]:
    """Yield batches of audio at a rate; what cannot be decoded goes to `failed`."""
    batch: list[_Decoded] = []
    held = 0
    for recording, text in todo:
        bar.update()
        try:
            samples, rate = recording.decode()
            samples = resample(samples, rate, sample_rate_hz)
        except AudioError as error:
            failed.append(str(error))
            continue
        is_full = held + len(samples) > BATCH_SECONDS * sample_rate_hz
        if batch and (is_full or len(batch) == MAX_BATCH_FILES):
            yield batch
            batch, held = [], 0
        batch.append(_Decoded(recording, text, samples))
        held += len(samples)
    if batch:
        yield batch


def by_speaker(predictions: pd.DataFrame, params: EvaluateParams) -> list[tuple[str, Speaker]]:
    """Return the speakers' figures by name, the highest WER first.

    Args:
        predictions: of one model.
        params: how intervals are drawn.
    """
    named = predictions.assign(speaker=predictions["speaker"].fillna(UNKNOWN_SPEAKER))
    found = [
        (
            str(name),
            Speaker(
                utterances=len(rows),
                words=int(rows["words"].sum()),
                wer=_rate(rows, "word_errors", "words", params),
                cer=_rate(rows, "character_errors", "characters", params),
            ),
        )
        for name, rows in named.groupby("speaker", sort=True)
    ]
    return sorted(found, key=lambda item: (-item[1].wer.value, item[0]))


@dataclass(frozen=True)
class Speaker:
    """How a model does on one speaker."""

    utterances: int
    words: int
    """Spoken."""
    wer: Estimate
    cer: Estimate


def _rate(rows: pd.DataFrame, errors: str, lengths: str, params: EvaluateParams) -> Estimate:
    return Estimate.of(rate_over(rows[errors].to_numpy()[None], rows[lengths].to_numpy(), params))
