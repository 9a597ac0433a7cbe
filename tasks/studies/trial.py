"""One candidate for the teacher: made, examined on the validation split, cached, and piloted.

Each part is made again only where something that it was made from changed. What can go wrong with a
candidate is raised here, and caught by `tasks.studies.teachers`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.copies import training_rows
from distillery.data.text import Vocabulary
from distillery.device import choose_device
from distillery.files import digest_of_file
from distillery.models.fingerprint import read_fingerprint
from distillery.models.recogniser import TOKENS_FILE
from distillery.params.teacher import TeacherParams
from distillery.studies.examination import Examination, examine
from distillery.studies.fit import Fit, TeacherFacts, fit_of, pilot_cache
from distillery.studies.teacher_choice import Candidate
from distillery.teacher_cache.filling.decoder import ready_teacher_decoder
from distillery.teacher_cache.filling.expected import Places, open_expected
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache, all_namespaces
from distillery.teachers.base import Workplace
from distillery.teachers.kinds import load_teacher
from distillery.tracking.fetched import SOURCE_FILE
from distillery.training.curves import run_digest
from tasks.code import code_of_teacher, digests
from tasks.studies.made_from import Note, files_named, kept, read_note, write_note
from tasks.studies.pilot import Pilot
from tasks.studies.teacher_study import TeacherStudy
from tasks.teacher import make_teacher

MADE_FROM_FILE = "made_from.json"
Progress = Callable[[], object]

logger = logging.getLogger(__name__)


class TeacherNote(Note):
    """What is written down of a teacher."""

    checkpoints: tuple[str, ...] = ()
    """Below the workspace: what its training left, or that of its members."""


class ExaminedNote(Examination, Note):
    """What is written down of a teacher's pass over the validation split."""

    parameters: int
    """Numbers that the teacher consists of."""


@dataclass(frozen=True)
class Trial:
    """One candidate's part of a comparison."""

    study: TeacherStudy
    name: str
    """The candidate's, as a key of `teacher_candidates.teachers`."""
    settings: TeacherParams
    """What would stand under `teacher`."""

    @property
    def folder(self) -> Path:
        """Where all lies that is made for it alone."""
        return self.study.folder / self.name

    @property
    def is_configured(self) -> bool:
        """Whether the stages make this teacher and its cache."""
        return self.study.settings.is_configured(self.settings)

    @property
    def places(self) -> Places:
        """Where its teacher and cache lie."""
        places = Places.in_workspace(self.study.root)
        if self.is_configured:
            return places
        return replace(places, teacher=self.folder / "teacher", cache=self.folder / "cache")

    # --- the teacher itself

    def examine(self, candidate: Candidate, progress: Progress) -> Candidate:
        """Return what the teacher is, and what it does on the validation split.

        Raises:
            DistilleryError: it cannot be made or cannot hear the audio.
        """
        self._make()
        progress()
        settings, fingerprint = self.study.settings, read_fingerprint(self.places.teacher)
        tokens = Vocabulary.load(self.places.teacher / TOKENS_FILE)
        facts = TeacherFacts.of(fingerprint, tokens)
        heard = self._heard(fingerprint.fingerprint)
        progress()
        return replace(
            candidate,
            num_parameters=heard.parameters,
            num_tokens=facts.num_tokens,
            frame_shift_seconds=facts.frame_shift_seconds,
            gives_frames=facts.gives_frames,
            texts=heard.texts,
            calibration_error=heard.calibration_error,
            calibrated_over=heard.calibrated_over,
            seconds_per_hour=SECONDS_PER_HOUR * heard.teacher_seconds / heard.audio_seconds,
            fits=tuple(fit_of(facts, settings, name) for name in settings.distill.students),
        )

    @property
    def _place(self) -> Workplace:
        """What the teacher may be made from, and where."""
        return Workplace(
            self.study.data,
            self.study.root / "scratch",
            self.folder / "registered/teacher",
            self.folder / "curves.jsonl",
            root=self.study.root,
            checkpoint_seconds=self.study.settings.training.checkpoint_seconds,
            num_processes=self.study.settings.training.num_processes,
        )

    @cached_property
    def code(self) -> Mapping[str, object]:
        """Content of all code that this teacher is made by."""
        own = code_of_teacher(self.study.root, self.settings, self._place.registered)
        return {**self.study.code, **digests(self.study.root, own)}

    @cached_property
    def _digest(self) -> str:
        """Of all that the teacher is made from."""
        study, registered = self.study, self._place.registered
        return run_digest(
            self.code,
            study.rows_digest(study.data, "train", "valid"),
            self.settings.model_dump(exclude={"allow_poor"}),
            dict(files_named(study.root, self.settings.model_dump())),
            sorted(
                (str(path.relative_to(registered)), digest_of_file(path))
                for path in registered.rglob(SOURCE_FILE)
            ),
        )

    @property
    def _note(self) -> TeacherNote | None:
        return read_note(TeacherNote, self.places.teacher / MADE_FROM_FILE)

    @property
    def is_made(self) -> bool:
        """Whether the teacher that is there was made from the same."""
        if self.is_configured:
            return True
        note = self._note
        return note is not None and note.digest == self._digest

    @property
    def checkpoints(self) -> list[Path]:
        """What its training left, or that of its members."""
        names = note.checkpoints if (note := self._note) else ()
        return [self.study.root / name for name in names]

    def _make(self) -> None:
        """Make the teacher, unless the one that is there was made from the same."""
        if self.is_made:
            return
        logger.info("%s: the teacher is made, kind %s", self.name, self.settings.kind)
        folder, root = self.places.teacher, self.study.root
        # They stay: an ensemble may have this one among its members, which then is not trained.
        left = make_teacher(self.settings, self._place, folder)
        names = tuple(str(path.relative_to(root)) for path in left)
        write_note(folder / MADE_FROM_FILE, TeacherNote(digest=self._digest, checkpoints=names))

    def _heard(self, fingerprint: str) -> ExaminedNote:
        """Return what the teacher hears on the validation split, and what it costs."""
        study, cache = self.study, self.study.settings.cache
        how = cache.model_dump(include={"batch_seconds", "precision", "num_threads", "device"})
        digest = run_digest(self.code, fingerprint, study.rows_digest(study.data, "valid"), how)

        def hear() -> ExaminedNote:
            teacher = load_teacher(self.places.teacher, choose_device(cache.device))
            teacher.check_sample_rate(study.data.sample_rate_hz)
            found = examine(teacher, study.data, study.valid_rows, cache)
            return ExaminedNote(
                digest=digest, parameters=teacher.num_parameters, **found.model_dump()
            )

        return kept(self.folder / "heard.json", digest, hear, ExaminedNote)

    # --- what a student learns from it

    def teach(self, candidate: Candidate, progress: Progress) -> Candidate:
        """Return what a pilot's students and controls heard.

        Raises:
            DistilleryError: the cache cannot be filled, or a student not be trained.
        """
        study, teacher = self.study, self.places.teacher
        fit = candidate.fit_of(study.settings.pilot_student)
        assert fit is not None
        cache = self._cache(fit, gives_frames=bool(candidate.gives_frames))
        candidate = replace(candidate, cache_bytes_per_hour=self._bytes_per_hour(cache))
        progress()
        pilots = []
        if fit.objective.uses_teacher:
            for seed in study.settings.teacher_candidates.pilot.seeds:
                pilots.append(Pilot(study, self.folder, teacher, cache, fit, seed).result())
                progress()
        return replace(candidate, pilots=tuple(pilots))

    def _cache(self, fit: Fit, *, gives_frames: bool) -> TeacherCache:
        """Return the teacher's outputs over the pilot's share, made where they are missing."""
        places, study = self.places, self.study
        if self.is_configured:
            learnt = study.settings.distill.teacher_layers
            return open_expected(places, study.settings.cache, learnt)
        settings, search = pilot_cache(study.settings.cache, fit), study.settings.language_model
        if not gives_frames:  # there is nothing to search
            search = search.model_copy(update={"for_teacher": False})
        ready_teacher_decoder(places, load_teacher, search, settings)
        rows = training_rows(study.share, settings.speed_factors)
        fill_cache(places, load_teacher, settings, only=set(rows["audio_key"]))
        cache = TeacherCache.open_current(places.cache)
        for other in all_namespaces(places.cache):  # of the teacher as it was before
            if other.name != cache.folder.name:
                shutil.rmtree(other)
        return cache

    def _bytes_per_hour(self, cache: TeacherCache) -> float:
        rows = training_rows(self.study.share, self.study.settings.cache.speed_factors)
        files = [path for path in cache.folder.rglob("*") if path.is_file()]
        per_utterance = sum(path.stat().st_size for path in files) / len(cache)
        return float(per_utterance * SECONDS_PER_HOUR / rows["duration_seconds"].mean())
