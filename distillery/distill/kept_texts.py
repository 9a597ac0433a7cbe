"""Texts for a language model: transcripts, and what the teacher wrote and the filter keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from distillery.data.manifest import PreparedData, labelled
from distillery.distill.filtering import Candidate, filter_hypotheses
from distillery.errors import CorpusError
from distillery.params.distill import FilterParams
from distillery.teacher_cache.store import ROWS_AT_ONCE, TeacherCache


def candidates_of(cache: TeacherCache, rows: pd.DataFrame) -> Iterator[Candidate]:
    """Yield what the filter looks at of each utterance.

    Args:
        cache: what the teacher said.
        rows: the utterances, copies at other speeds included.

    Raises:
        CacheMismatch: one is not cached.
    """
    cached = cache.rows(rows["audio_key"])
    seconds, texts = rows["duration_seconds"], rows["text"]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        here = cached[part]
        best = [items[0].text if items else None for items in cache.hypotheses(here)]
        columns = zip(
            cache.greedy_texts(here),
            cache.confidences(here).tolist(),
            seconds.iloc[part],
            (None if pd.isna(text) else text for text in texts.iloc[part]),
            best,
            strict=True,
        )
        yield from (Candidate(*values) for values in columns)


def language_model_texts(
    data: PreparedData, cache: Path, params: FilterParams, learns_from: str
) -> list[str]:
    """Return what a language model is estimated from, in manifest order.

    Args:
        data: prepared data.
        cache: folder of the teacher cache; not read where transcripts are enough.
        params: which of its texts are kept; all that hold a word, where the filter is off.
        learns_from: `transcripts`, `teacher`, or `both`: transcripts, and the teacher's text of
            what has none; `files`: neither, for its texts are read elsewhere.

    Raises:
        CorpusError: there are none.
        CacheMismatch: an utterance is not cached.
    """
    if learns_from == "files":
        return []
    if learns_from == "transcripts":
        return list(labelled(data, "train")["text"])
    opened = partial(TeacherCache.open_current, cache)
    texts = kept_texts(data, opened, params, with_transcripts=learns_from == "both")
    if not texts:
        count = len(data.split("train"))
        raise CorpusError(
            f"register.decoder.language_model.learns_from is {learns_from}: the filter "
            f"keeps none of the teacher's {count} texts, and there are no transcripts; "
            "expected texts to learn from: loosen distill.filter, or set learns_from to files "
            "and name some"
        )
    return texts


def kept_texts(
    data: PreparedData,
    opened: Callable[[], TeacherCache],
    params: FilterParams,
    *,
    with_transcripts: bool = True,
) -> list[str]:
    """Return the teacher's texts of the training split that the filter keeps, in manifest order.

    Args:
        data: prepared data.
        opened: returns what the teacher said; not asked where every text is a transcript.
        params: the filter; all that hold a word, where it is off.
        with_transcripts: whether a transcript takes the place of the teacher's text.

    Raises:
        CacheMismatch: an utterance is not cached.
    """
    rows = data.split("train")
    if with_transcripts and rows["text"].notna().all():
        return list(rows["text"])
    candidates = list(candidates_of(opened(), rows))
    fit = [True] * len(candidates)
    if params.enabled:
        fit = list(filter_hypotheses(candidates, params, data.unit).fit)
    texts = []
    for candidate, is_fit in zip(candidates, fit, strict=True):
        if with_transcripts and candidate.reference is not None:
            texts.append(candidate.reference)
        elif is_fit and candidate.hypothesis:
            texts.append(candidate.hypothesis)
    return texts
