"""TODO: contest."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from distillery.augmentations.augmenter import Effects
from distillery.data.copies import training_rows
from distillery.data.manifest import PreparedData, labelled
from distillery.data.text import Vocabulary
from distillery.device import choose_device
from distillery.distill.distillation import Distillation, Trained
from distillery.errors import CorpusError, DistilleryError
from distillery.evaluate.evaluate import SECONDS_PER_HOUR
from distillery.evaluate.latency import listen
from distillery.evaluate.listening import batches
from distillery.files import digest_of_file, write_json
from distillery.models.fingerprint import read_fingerprint
from distillery.models.recogniser import TOKENS_FILE
from distillery.params import whole as params
from distillery.params.base import INIT_TEACHER
from distillery.params.teacher import TeacherParams
from distillery.studies import data_curve
from distillery.studies.examination import examine
from distillery.studies.fit import Fit, TeacherFacts, fit_of, pilot_cache, pilot_settings
from distillery.studies.teacher_choice import Candidate, PilotResult
from distillery.teacher_cache.filling.decoder import ready_teacher_decoder
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache, all_namespaces
from distillery.teachers.base import Workplace
from distillery.teachers.saved import load_teacher
from distillery.tracking.fetched import REGISTERED, SOURCE_FILE, read_source
from distillery.training.curves import run_digest
from tasks.code import code_of_architecture, code_of_teacher, digests
from tasks.stage import snapshot
from tasks.teacher import KeptCheckpoint, make_teacher

ROLE = "teachers"
logger = logging.getLogger(__name__)
FOLDER = "scratch/teachers"
MADE_FROM_FILE = "made_from.json"
PHASES = 3  # of every candidate: made, examined, cached; its pilots come on top
Progress = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """All candidates of a workspace, and what they have in common."""

    root: Path
    settings: params.Params
    data: PreparedData

    @cached_property
    def valid_rows(self) -> pd.DataFrame:
        """The utterances that everybody is measured on."""
        return labelled(self.data, "valid")

    @cached_property
    def share(self) -> PreparedData:
        """The data with the pilot's share of the training split.

        Raises:
            CorpusError: the share holds nothing that is transcribed.
        """
        fraction = self.settings.teacher_candidates.pilot.fraction
        share = data_curve.draw(self.data, fraction)
        if not share.split("train")["text"].notna().any():
            raise CorpusError(
                f"teacher_candidates.pilot.fraction: {fraction:g} draws no transcribed utterance "
                f"of the {len(self.data.split('train'))} in the training split, expected one at "
                "least; raise it"
            )
        return share

    @cached_property
    def code(self) -> Mapping[str, Any]:
        """Content of all code that teachers and the pilot's student are made by.

        But for what one kind of teacher has to itself, see `Entry.code`.
        """
        student = self.settings.pilot_student
        states = {
            **snapshot(self.root, "teacher"),
            **snapshot(self.root, "cache"),
            **snapshot(self.root, "distill", student, "0"),
        }
        architecture = self.settings.distill.students[student].architecture.type
        own = digests(self.root, code_of_architecture(self.root, architecture))
        return {name: state for name, state in states.items() if name.endswith(".py")} | own

    @cached_property
    def sounds(self) -> Mapping[str, str]:
        """Digests of the recordings that augmentation draws from."""
        wanted = self.settings.distill.augmentation
        return Effects.build(wanted, self.root, self.data.sample_rate_hz).digests

    def rows_digest(self, data: PreparedData, *splits: str) -> str:
        """Return a digest of some splits: audio and transcripts."""
        parts = [data.split(split) for split in splits]
        return run_digest(
            [[*part["audio_key"], *part["text"]] for part in parts], data.sample_rate_hz
        )

    def run(self, failed: Mapping[str, str]) -> list[Candidate]:
        """Try all candidates, the ones made of others behind these."""
        _ = self.share, self.valid_rows  # raise before anything is made
        all_settings = self.settings.all_candidates
        seeds = self.settings.teacher_candidates.pilot.seeds
        entries = [
            Entry(self, name, settings, self.root / FOLDER / name)
            for name, settings in sorted(
                all_settings.items(), key=lambda item: str(item[1].kind) == "ensemble"
            )
        ]
        found = {
            entry.name: Candidate(entry.name, entry.settings.kind, failed.get(entry.name))
            for entry in entries
        }
        self._remove_outdated_checkpoints(entries)
        total = len(entries) * (PHASES + len(seeds))
        with logging_redirect_tqdm(), tqdm(total=total, desc="teachers", unit="step") as bar:
            # Teachers first: what is wrong with the last one shows before the first pilot.
            for phase in (Entry.examine, Entry.teach):
                for entry in entries:
                    candidate, done = found[entry.name], bar.n
                    if candidate.problem is None:
                        found[entry.name] = _attempt(phase, entry, candidate, bar.update)
                    steps = 2 if phase is Entry.examine else PHASES - 2 + len(seeds)
                    bar.update(max(0, done + steps - bar.n))
        return [found[name] for name in all_settings]

    def _remove_outdated_checkpoints(self, entries: Sequence[Entry]) -> None:
        """Remove what was trained by other code or on other data, and would be gone on with."""
        wanted = set(KeptCheckpoint(self.root).checkpoints)
        wanted.update(path for entry in entries if entry.is_made for path in entry.checkpoints)
        for entry in entries:
            for path in entry.checkpoints:
                if path not in wanted:
                    path.unlink(missing_ok=True)


def _attempt(
    phase: Callable[[Entry, Candidate, Progress], Candidate],
    entry: Entry,
    candidate: Candidate,
    progress: Progress,
) -> Candidate:
    """Return what a phase found out; what goes wrong with one candidate stops no other."""
    try:
        return phase(entry, candidate, progress)
    except DistilleryError as error:
        why = str(error)
    except Exception as error:  # a library's, perhaps for want of memory: the others may well work
        logger.exception("%s: failed", entry.name)
        why = f"{type(error).__name__}: {error}"
    logger.warning("%s: %s", entry.name, why)
    if candidate.texts is None:
        return replace(candidate, problem=why)
    return replace(candidate, pilot_problem=why)


@dataclass(frozen=True)
class Entry:
    """One candidate's part of a contest."""

    contest: Contest
    name: str
    settings: TeacherParams
    folder: Path

    @property
    def is_configured(self) -> bool:
        """Whether the stages make this teacher and its cache."""
        return self.contest.settings.is_configured(self.settings)

    @property
    def places(self) -> Places:
        """Where its teacher and cache lie."""
        places = Places.in_workspace(self.contest.root)
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
        settings, fingerprint = self.contest.settings, read_fingerprint(self.places.teacher)
        tokens = Vocabulary.load(self.places.teacher / TOKENS_FILE)
        facts = TeacherFacts.of(fingerprint, len(tokens))
        heard = self._heard(str(fingerprint["fingerprint"]))
        progress()
        return replace(
            candidate,
            num_parameters=heard["parameters"],
            num_tokens=facts.num_tokens,
            frame_shift_seconds=facts.frame_shift_seconds,
            gives_frames=facts.gives_frames,
            texts=heard["texts"],
            calibration_error=heard["calibration_error"],
            calibrated_over=heard["calibrated_over"],
            seconds_per_hour=(SECONDS_PER_HOUR * heard["teacher_seconds"] / heard["audio_seconds"]),
            fits=tuple(fit_of(facts, settings, name) for name in settings.distill.students),
        )

    @property
    def _place(self) -> Workplace:
        """What the teacher may be made from, and where."""
        return Workplace(
            self.contest.data,
            self.contest.root / "scratch",
            self.folder / "registered/teacher",
            self.folder / "curves.jsonl",
            root=self.contest.root,
        )

    @cached_property
    def code(self) -> Mapping[str, Any]:
        """Content of all code that this teacher is made by."""
        root = self.contest.root
        own = code_of_teacher(root, self.settings, self._place.registered)
        return {**self.contest.code, **digests(root, own)}

    @cached_property
    def _digest(self) -> str:
        """Of all that the teacher is made from."""
        contest, registered = self.contest, self._place.registered
        return run_digest(
            self.code,
            contest.rows_digest(contest.data, "train", "valid"),
            self.settings.model_dump(exclude={"allow_poor"}),
            dict(_files_named(contest.root, self.settings.model_dump())),
            sorted(
                (str(path.relative_to(registered)), digest_of_file(path))
                for path in registered.rglob(SOURCE_FILE)
            ),
        )

    @property
    def _note(self) -> Mapping[str, Any]:
        return _read(self.places.teacher / MADE_FROM_FILE)

    @property
    def is_made(self) -> bool:
        """Whether the teacher that is there was made from the same."""
        return self.is_configured or self._note.get("digest") == self._digest

    @property
    def checkpoints(self) -> list[Path]:
        """What its training left, or that of its members."""
        return [self.contest.root / name for name in self._note.get("checkpoints", [])]

    def _make(self) -> None:
        """Make the teacher, unless the one that is there was made from the same."""
        if self.is_made:
            return
        logger.info("%s: the teacher is made, kind %s", self.name, self.settings.kind)
        folder, root = self.places.teacher, self.contest.root
        # They stay: an ensemble may have this one among its members, which then is not trained.
        left = [
            str(path.relative_to(root)) for path in make_teacher(self.settings, self._place, folder)
        ]
        write_json(folder / MADE_FROM_FILE, {"digest": self._digest, "checkpoints": left})

    def _heard(self, fingerprint: str) -> dict[str, Any]:
        """Return what the teacher hears on the validation split, and what it costs."""
        contest, cache = self.contest, self.contest.settings.cache
        how = cache.model_dump(include={"batch_seconds", "precision", "num_threads", "device"})
        digest = run_digest(self.code, fingerprint, contest.rows_digest(contest.data, "valid"), how)

        def hear() -> dict[str, Any]:
            teacher = load_teacher(self.places.teacher, choose_device(cache.device))
            teacher.check_sample_rate(contest.data.sample_rate_hz)
            found = examine(teacher, contest.data, contest.valid_rows, cache)
            return {**asdict(found), "parameters": teacher.num_parameters}

        return _kept(self.folder / "heard.json", digest, hear)

    # --- what a student learns from it

    def teach(self, candidate: Candidate, progress: Progress) -> Candidate:
        """Return what a pilot's students and controls heard.

        Raises:
            DistilleryError: the cache cannot be filled, or a student not be trained.
        """
        settings = self.contest.settings
        fit = candidate.fit_of(settings.pilot_student)
        assert fit is not None
        cache = self._cache(fit, gives_frames=bool(candidate.gives_frames))
        candidate = replace(candidate, cache_bytes_per_hour=self._bytes_per_hour(cache))
        progress()
        pilots = []
        if fit.objective.uses_teacher:
            for seed in settings.teacher_candidates.pilot.seeds:
                pilots.append(Pilot(self, cache, fit, seed).result())
                progress()
        return replace(candidate, pilots=tuple(pilots))

    def _cache(self, fit: Fit, *, gives_frames: bool) -> TeacherCache:
        """Return the teacher's outputs over the pilot's share, made where they are missing."""
        places, contest = self.places, self.contest
        if self.is_configured:
            cache = TeacherCache.open_current(places.cache)
            wanted = expected_namespace(places, contest.settings.cache, cache.namespace.tokens)
            cache.namespace.check(wanted)
            return cache
        settings, search = pilot_cache(contest.settings.cache, fit), contest.settings.language_model
        if not gives_frames:  # there is nothing to search
            search = search.model_copy(update={"for_teacher": False})
        ready_teacher_decoder(places, load_teacher, search, settings)
        rows = training_rows(contest.share, settings.speed_factors)
        fill_cache(places, load_teacher, settings, only=set(rows["audio_key"]))
        cache = TeacherCache.open_current(places.cache)
        for other in all_namespaces(places.cache):  # of the teacher as it was before
            if other.name != cache.folder.name:
                shutil.rmtree(other)
        return cache

    def _bytes_per_hour(self, cache: TeacherCache) -> float:
        rows = training_rows(self.contest.share, self.contest.settings.cache.speed_factors)
        files = [path for path in cache.folder.rglob("*") if path.is_file()]
        per_utterance = sum(path.stat().st_size for path in files) / len(cache)
        return float(per_utterance * SECONDS_PER_HOUR / rows["duration_seconds"].mean())


@dataclass(frozen=True)
class Pilot:
    """A short distillation from one candidate, and its control."""

    entry: Entry
    cache: TeacherCache
    fit: Fit
    seed: int

    @cached_property
    def run(self) -> Distillation:
        """What student and control are trained by."""
        contest, student = self.entry.contest, self.fit.student
        settings = pilot_settings(contest.settings, self.fit)
        own_layers = settings.students[student].init == INIT_TEACHER
        return Distillation(
            contest.share,
            self.cache,
            student,
            settings.for_seed(self.seed),
            contest.root / "scratch",
            self.entry.places.teacher.parent if own_layers else contest.root / "models",
            speed_factors=contest.settings.cache.speed_factors,
            root=contest.root,
        )

    def result(self) -> PilotResult:
        """Return what student and control heard, trained where they have not been."""
        student = self._student()
        control = self._control(student["num_epochs"])
        return PilotResult(self.seed, student["texts"], control["texts"])

    def _common(self) -> tuple[object, ...]:
        """Return what student and control are both made from."""
        run, contest = self.run, self.entry.contest
        return (
            contest.code,
            contest.rows_digest(contest.share, "train", "valid"),
            contest.sounds,
            str(read_source(contest.root / REGISTERED / "students" / run.name)),
            contest.settings.evaluate.stream_chunk_seconds,
        )

    def _student(self) -> dict[str, Any]:
        run = self.run
        digest = run_digest(*self._common(), run.params.model_dump(), self.cache.manifest_digest)
        curves = self.entry.folder / f"pilot-seed-{self.seed}.jsonl"
        path = curves.with_suffix(".json")
        return _kept(path, digest, lambda: self._tried(run.train_student(curves), curves))

    def _control(self, num_epochs: int) -> dict[str, Any]:
        """Return what the control heard; it knows of its teacher the tokens and the steps alone."""
        run = self.run
        student = run.params.students[run.name]
        digest = run_digest(
            *self._common(),
            run.params.model_dump(exclude={"students", "objective", "filter"}),
            [student.architecture.model_dump(), run.features.model_dump(), student.registered_init],
            run.vocabulary.tokens,
            list(run.student_rows()["audio_key"]),
            num_epochs,
        )
        curves = self.entry.contest.root / FOLDER / "controls" / f"{digest}.jsonl"
        path = curves.with_suffix(".json")

        def train() -> dict[str, Any]:
            return self._tried(run.train_control(curves, num_epochs), curves)

        return _kept(path, digest, train)

    def _tried(self, trained: Trained, curves: Path) -> dict[str, Any]:
        """Return what a model hears on the validation split, and clean up behind its training."""
        contest = self.entry.contest
        rows, chunk = contest.valid_rows, contest.settings.evaluate.stream_chunk_seconds
        listed, texts = list(rows.itertuples()), [""] * len(rows)
        for batch in batches(rows["duration_seconds"].to_numpy()):
            waveforms = [contest.data.waveform(listed[row]) for row in batch]
            heard = listen(trained.recogniser, waveforms, chunk)
            for row, item in zip(batch, heard, strict=True):
                texts[row] = item.text
        trained.checkpoint.unlink(missing_ok=True)
        curves.unlink(missing_ok=True)
        return {"texts": texts, "num_epochs": trained.num_epochs}


def _kept(path: Path, digest: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds if it was made from the same, else make it."""
    content = _read(path)
    if content.get("digest") != digest:
        content = {**make(), "digest": digest}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    return dict(content)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _files_named(root: Path, settings: object) -> Iterator[tuple[str, object]]:
    """Yield the state of every file and folder that settings name."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from _files_named(root, value)
    if not isinstance(settings, str) or not settings or not (root / settings).exists():
        return
    path = root / settings
    if path.is_file():
        yield settings, digest_of_file(path)
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            status = file.stat()
            yield str(file.relative_to(path)), (status.st_size, status.st_mtime_ns)
