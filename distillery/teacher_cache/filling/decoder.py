"""The decoder that the teacher's texts come from, in the cache's folder `decoder`.

The stage `cache` makes it before it asks the teacher: what it writes is what students learn. It
stands in the namespace, as everything does that decides what the cache holds.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.data.judged import judged
from distillery.data.manifest import PreparedData, labelled
from distillery.errors import ModelError
from distillery.files import whole_folder
from distillery.language_model.settings import DECODER_FILES, read_tuned
from distillery.models.fingerprint import digest_of, read_fingerprint
from distillery.params.cache import CacheParams
from distillery.params.language_model import LanguageModelParams
from distillery.teacher_cache.filling.expected import Places

if TYPE_CHECKING:  # where none is wanted, no model code is needed
    from distillery.models.base import LoadTeacher

logger = logging.getLogger(__name__)


def ready_teacher_decoder(
    places: Places, load: LoadTeacher, params: LanguageModelParams, cache: CacheParams
) -> None:
    """Make the decoder that the teacher's texts come from; remove it where none is wanted.

    One that was made from the same transcripts and settings, for the same teacher, stays.

    Args:
        places: prepared data, teacher and cache.
        load: loads the teacher.
        params: settings of the language model.
        cache: settings of the stage `cache`, for where the teacher runs.

    Raises:
        ModelError: the teacher gives texts, not frames, or its files are damaged.
        CorpusError: no training transcript holds a word, or no validation utterance has one.
    """
    if not params.for_teacher:
        shutil.rmtree(places.decoder, ignore_errors=True)
        return
    teacher = read_fingerprint(places.teacher)
    if not teacher.gives_frames:
        raise ModelError(
            "language_model.for_teacher is true, but this teacher gives texts, decoded its own "
            "way: there are no frames to search; set language_model.for_teacher to false"
        )
    data = judged(PreparedData.open(places.data), places.teacher)
    made_from = digest_of(
        [
            teacher.fingerprint,
            params.model_dump(exclude={"for_teacher"}),
            sorted(labelled(data, "train")["text"]),
            labelled(data, "valid")[["audio_key", "text"]].to_numpy().tolist(),
            *data.unit_if_unusual,
        ]
    )
    if _was_made_from(places.decoder, made_from):
        return
    # These bring PyTorch.
    from distillery.device import choose_device, num_threads
    from distillery.language_model.tuning import (
        describe,
        tune_for,
        untuned_decoder,
        write_language_model,
    )

    recogniser = load(places.teacher, choose_device(cache.device))
    recogniser.check_sample_rate(data.sample_rate_hz)
    with whole_folder(places.decoder) as folder, num_threads(cache.num_threads):
        write_language_model(data, recogniser.vocabulary, params, folder)
        decoder = untuned_decoder(folder, recogniser.vocabulary, params)
        tuned = tune_for(decoder, data, recogniser, params)
        replace(tuned, made_from=made_from).save(folder)
    for line in describe("teacher", tuned, data.unit_of("valid")):
        logger.info("%s", line)


def _was_made_from(folder: Path, digest: str) -> bool:
    try:
        whole = all((folder / name).exists() for name in DECODER_FILES)
        return whole and read_tuned(folder).made_from == digest
    except ModelError:
        return False
