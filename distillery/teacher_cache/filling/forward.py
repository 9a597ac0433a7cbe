"""One partition of a teacher pass: audio in, the teacher's forward, shards out, all three at once.

While the teacher works on one batch, one thread reads the next and extracts its features, and
another decodes, packs and writes the one before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from distillery.data.copies import key_of, waveform_of
from distillery.data.manifest import PreparedData, shard_name
from distillery.device import choose_device
from distillery.errors import CacheError
from distillery.files import digest_of_file
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.models.base import LoadTeacher, Teacher, hears_originals
from distillery.models.decoding import confidence, greedy_text, n_best, score_texts
from distillery.models.fingerprint import FINGERPRINT_FILE
from distillery.models.recogniser import Outputs
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import LANGUAGE_MODEL
from distillery.teacher_cache.filling.plan import OpenShard, Partition, PartitionReport
from distillery.teacher_cache.filling.reach import check_here
from distillery.teacher_cache.filling.turns import Turn
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry, Hypothesis, ShardWriter
from distillery.teacher_cache.stopping import stop_held_back
from distillery.teacher_cache.store import TeacherCache, writing

BATCHES_AHEAD = 2  # read, and waiting to be written: what bounds memory beside the forward pass
Heard = tuple[np.ndarray, Tensor, Tensor]
"""Row positions of a batch, with what the teacher makes of their audio, and its lengths."""


def run_partition(
    partition: Partition, on_progress: Callable[[float], object] | None = None
) -> PartitionReport:
    """Run the teacher over a partition's batches that are not cached yet, and write its shards.

    Args:
        partition: what to do; finished batches of an earlier try are skipped.
        on_progress: called with the audio just written, or found there, in seconds.

    Raises:
        CacheError: this host has other folders or other prepared audio than where the pass was
            planned, another worker has taken over, the teacher's outputs make no sense, or the
            disk is full.
        ManifestError: there is less of it than there.
        ModelError: the teacher is damaged.
    """
    params, places, rows = partition.params, partition.places, partition.rows
    folder = places.cache / partition.namespace
    check_here(places, folder, partition.of_pass)
    torch.set_num_threads(params.num_threads)
    fingerprint = digest_of_file(places.teacher / FINGERPRINT_FILE)
    teacher = _teacher(partition.load, places.teacher, fingerprint, params.device)
    data = PreparedData.with_rows(places.data, rows)
    teacher.check_sample_rate(data.sample_rate_hz)
    namespace = Namespace.read(folder)
    decoder = None
    if LANGUAGE_MODEL in namespace.teacher:
        decoder = LanguageModelDecoder.load(places.decoder, teacher.vocabulary)
    turn = Turn(folder, partition)
    teacher_pass = TeacherPass(teacher, data, rows, namespace, params, turn, decoder)
    progress = on_progress or (lambda _: None)
    seconds = rows["duration_seconds"].to_numpy()
    former = turn.take()
    batches = partition.batches if former is None else _not_done(partition, folder)
    progress(partition.audio_seconds - float(sum(seconds[batch].sum() for batch in batches)))
    teacher_pass.run(batches, folder, progress)
    return teacher_pass.report + (former or PartitionReport())


def _not_done(partition: Partition, folder: Path) -> Sequence[np.ndarray]:
    """Return the batches that an earlier try at a partition has not finished.

    All were missing when the pass was planned. So what the cache holds is looked at by who takes
    over from a worker that died, and by nobody else: the cache grows with the data. It may have
    died with all shards written and its report unread.
    """
    cache, keys = TeacherCache(folder), partition.rows["audio_key"].to_numpy()
    return [batch for batch in partition.batches if cache.missing(keys[batch])]


@lru_cache(maxsize=1)
def _teacher(load: LoadTeacher, folder: Path, _fingerprint: str, device: str) -> Teacher:
    """Return a saved teacher; a worker loads it once for all its partitions."""
    return load(folder, choose_device(device))


class TeacherPass:
    """The three things that happen at once, for one shard after another."""

    def __init__(
        self,
        teacher: Teacher,
        data: PreparedData,
        rows: pd.DataFrame,
        namespace: Namespace,
        params: CacheParams,
        turn: Turn,
        decoder: LanguageModelDecoder | None = None,
    ) -> None:
        self.teacher = teacher
        self.decoder = decoder
        self.data = data
        self.rows = list(rows.itertuples())
        self.namespace = namespace
        self.params = params
        self.durations = rows["duration_seconds"].to_numpy()
        self.turn = turn
        self.report = PartitionReport()
        self._seconds = self._seconds_ahead = 0.0  # in the teacher: forwards, features

    def run(
        self,
        batches: Sequence[np.ndarray],
        folder: Path,
        progress: Callable[[float], object],
    ) -> None:
        """Put the teacher's outputs for batches of row positions into shards.

        Args:
            batches: row positions.
            folder: of the namespace, which receives the shards.
            progress: called with the audio that was just written, in seconds.
        """
        reader = ThreadPoolExecutor(1)
        try:
            ahead = self._read_ahead(reader, batches)
            heard = next(ahead, None)
            while heard is not None:
                with writing(folder, self.namespace, self.turn.publishing) as writer:
                    heard, languages = self._fill(writer, heard, ahead, progress)
                self._note(PartitionReport(languages=languages))
        finally:
            reader.shutdown(cancel_futures=True)

    def _fill(
        self,
        writer: ShardWriter,
        heard: Heard,
        ahead: Iterator[Heard],
        progress: Callable[[float], object],
    ) -> tuple[Heard | None, Mapping[str, int]]:
        """Fill one shard; return what the next one begins with, and the languages of this one.

        Args:
            writer: of the shard.
            heard: its first batch.
            ahead: those behind it.
            progress: as in `run`.
        """
        layers = list(self.namespace.hidden)
        shard = OpenShard(self.params.shard_seconds, 60 * self.params.shard_minutes)
        languages: Counter[str] = Counter()
        scribe = ThreadPoolExecutor(1)
        try:
            written: list[tuple[Future[None], float]] = []
            following: Heard | None = heard
            while following is not None:
                batch, features, lengths = following
                started = time.perf_counter()
                outputs = self.teacher.forward(features, lengths, layers, self.params.precision)
                self._seconds += time.perf_counter() - started
                spent = self._seconds + self._seconds_ahead - self.report.teacher_seconds
                self._note(PartitionReport(len(batch), spent))
                languages.update(outputs.languages)
                seconds = self._audio(batch)
                written.append((scribe.submit(self._store, batch, outputs, writer), seconds))
                while len(written) > BATCHES_AHEAD:
                    _finish(written, progress)
                shard.add(seconds)
                following = next(ahead, None)
                if following is not None and not shard.takes(self._audio(following[0])):
                    break
            while written:
                _finish(written, progress)
        finally:
            with stop_held_back():  # a second signal must not leave a record half done
                scribe.shutdown()
        return following, languages

    def _note(self, heard: PartitionReport) -> None:
        self.report += heard
        self.turn.note(heard)

    def _audio(self, batch: np.ndarray) -> float:
        return float(self.durations[batch].sum())

    def _read_ahead(
        self, reader: ThreadPoolExecutor, batches: Sequence[np.ndarray]
    ) -> Iterator[Heard]:
        waiting: list[tuple[np.ndarray, Future[tuple[Tensor, Tensor]]]] = []
        for batch in batches:
            waiting.append((batch, reader.submit(self._features, batch)))
            if len(waiting) > BATCHES_AHEAD:
                first, features = waiting.pop(0)
                yield first, *features.result()
        for first, features in waiting:
            yield first, *features.result()

    def _features(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        started = time.perf_counter()
        with torch.inference_mode():
            original = hears_originals(self.teacher)
            rows = [self.rows[index] for index in batch]
            for row in rows:
                self._check_audio(row)
            waveforms = [waveform_of(self.data, row, original=original) for row in rows]
            features = self.teacher.extract(waveforms)
        self._seconds_ahead += time.perf_counter() - started
        return features

    def _check_audio(self, row: Any) -> None:
        """Make sure that a worker hears what the pass was planned with: keys are of the audio."""
        if (found := key_of(self.data, row)) != row.audio_key:
            raise CacheError(
                f"{self.data.folder / shard_name(row.shard)}: the {row.num_samples} samples from "
                f"{row.offset_samples} on have the key {found[:12]}, this pass was planned with "
                f"{row.audio_key[:12]}; all workers need the same folders, start again when they "
                "have them. Where there is one, the file is damaged: run make prepare"
            )

    def _store(self, batch: np.ndarray, outputs: Outputs, writer: ShardWriter) -> None:
        kept = outputs.items
        if self.namespace.payload["kind"] == "none":
            kept = [np.zeros((len(item), 0), np.float32) for item in kept]
        for row, (index, said) in enumerate(zip(batch, self._said(outputs), strict=True)):
            hidden = {
                name: values[row, : outputs.num_frames[row]]
                for name, values in outputs.hidden.items()
            }
            writer.add(Entry(self.rows[index].audio_key, kept[row], *said, hidden))

    def _said(self, outputs: Outputs) -> list[tuple[str, float, list[Hypothesis]]]:
        """Return best text, confidence and hypotheses, best first, of each utterance."""
        wanted, beam_size = self.namespace.num_hypotheses, self.namespace.beam_size
        if outputs.hypotheses is not None and self.decoder is None:
            assert outputs.confidences is not None
            given = [[Hypothesis(*item) for item in items] for items in outputs.hypotheses]
            return [
                (items[0].text if items else "", value, items[:wanted])
                for items, value in zip(given, outputs.confidences, strict=True)
            ]
        assert outputs.log_probs is not None  # there is no decoder where there are no frames
        vocabulary, decoder = self.teacher.vocabulary, self.decoder
        best = [greedy_text(item, vocabulary) for item in outputs.items]
        texts = [[text] for text in best]
        if decoder is not None:
            texts = decoder.n_best(outputs.items, wanted)
        elif beam_size is not None:
            texts = n_best(outputs.items, vocabulary, wanted, beam_size)
        scores = score_texts(outputs.log_probs, outputs.num_frames, texts, vocabulary)
        if decoder is not None:
            scores = [
                [score + decoder.text_score(text) for score, text in zip(*pair, strict=True)]
                for pair in zip(scores, texts, strict=True)
            ]
        ranked = [list(map(Hypothesis, *pair)) for pair in zip(texts, scores, strict=True)]
        if vocabulary.is_of_characters:  # a text in subwords is scored by one cut of several
            ranked = [sorted(items, key=lambda item: -item.score) for items in ranked]
        if decoder is not None:
            best = [items[0].text for items in ranked]
        return list(zip(best, map(confidence, outputs.items), ranked, strict=True))


def _finish(written: list[tuple[Future[None], float]], progress: Callable[[float], object]) -> None:
    future, seconds = written.pop(0)
    future.result()
    progress(seconds)
