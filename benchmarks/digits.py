"""Spoken digits, alone and in strings, as the benchmarks of training need them.

The recordings are the Free Spoken Digit Dataset's, 8 kHz. The teacher has random weights: it
recognises nothing, and costs what a trained one costs.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.common import ROOT
from distillery.architectures.known import ARCHITECTURES
from distillery.architectures.separable_conv import SeparableConv
from distillery.corpora.fsdd import DIGITS, NUM_TEST_TAKES
from distillery.data.feature_store import StoredFeatures
from distillery.data.features import gather, pack_features
from distillery.data.manifest import MANIFEST_FILE, PreparedData, labelled
from distillery.distill.objective import DistillationObjective
from distillery.distill.targets import CachedTargets
from distillery.models.decoding import BLANK_INDEX
from distillery.models.fingerprint import fingerprint
from distillery.models.layers import Network
from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams
from distillery.params.models import ConformerParams, FeatureParams, SeparableConvParams
from distillery.params.objective import FrameLossParams, ObjectiveParams
from distillery.params.prepare import PrepareParams
from distillery.params.training import TrainingParams
from distillery.prepare.prepare import prepare
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.batches import Features, TeacherFrames, TrainingSet
from distillery.training.curves import Curves, Validation
from distillery.training.datasets import validation_set
from distillery.training.objective import Objective
from distillery.training.trainer import Trainer

SOURCES = (ROOT / "data/raw/fsdd", ROOT.parent / "shared/data/fsdd")
RATE_HZ = 8000
FEATURES = FeatureParams(num_mels=40, normalise="level")
STUDENT = SeparableConvParams(type="separable_conv", time_reduction=2)
TEACHER = ConformerParams(type="conformer", model_size=168, num_layers=8, time_reduction=2)
OBJECTIVE = ObjectiveParams(teacher_share=0.5, frame=FrameLossParams(type="kl", weight=1.0))
TRAINING = TrainingParams(num_epochs=1, num_threads=1)
FSDD_BATCH_SECONDS, STRING_BATCH_SECONDS = 20.0, 60.0
MIN_DIGITS, MAX_DIGITS = 2, 11  # of a string; 2.9 s on average
BLANK_FRACTION = 0.8  # of the teacher's frames
NUM_HEARD = 32  # utterances, to set that
NUM_VALID = 2  # so that an epoch's validation costs next to nothing


def recordings(source: Path | None) -> Path:
    """Return the folder that holds recordings/, or end the benchmark where there is none."""
    for folder in SOURCES if source is None else (source,):
        if (folder / "recordings").is_dir():
            return folder
    if source is not None:
        raise SystemExit(f"error: {source}: holds no recordings/; give the published FSDD folder")
    print(f"skipped: needs the Free Spoken Digit Dataset at {SOURCES[0]}, or --source FOLDER")
    sys.exit(0)


def write_strings(source: Path, folder: Path, count: int) -> None:
    """Write a manifest corpus of strings of digits, each joined from one speaker's recordings.

    Args:
        source: the folder that holds recordings/.
        folder: where the corpus goes.
        count: strings to train on.
    """
    random = np.random.default_rng(0)
    takes: dict[str, list[Path]] = {}
    for path in sorted((source / "recordings").glob("*.wav")):
        _, speaker, take = path.stem.split("_")
        if int(take) >= NUM_TEST_TAKES:
            takes.setdefault(speaker, []).append(path)
    speakers = sorted(takes)
    folder.mkdir(parents=True)
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "split"))
        for index in range(count + NUM_VALID + 1):
            clips = takes[speakers[random.integers(len(speakers))]]
            size = int(random.integers(MIN_DIGITS, MAX_DIGITS + 1))
            drawn = [clips[place] for place in random.integers(0, len(clips), size)]
            samples = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in drawn])
            soundfile.write(folder / f"{index:05d}.wav", samples, RATE_HZ)
            words = " ".join(DIGITS[int(path.stem[0])] for path in drawn)
            split = "train" if index < count else "valid" if index > count else "test"
            writer.writerow((f"{index:05d}.wav", words, split))


@dataclass(frozen=True)
class Digits:
    """A workspace of digits with a teacher, and what trains on it."""

    source: Path
    """What the paths in the manifest count from."""
    places: Places
    batch_seconds: float
    kind: str

    @classmethod
    def fsdd(
        cls,
        source: Path,
        root: Path,
        num_train: int | None = None,
        num_valid: int | None = NUM_VALID,
        teacher: ConformerParams = TEACHER,
    ) -> Digits:
        """Return single digits: whole splits (None), or so many utterances drawn from them."""
        write_workspace(root, "fsdd", source, teacher)
        keep_some(root, {"train": num_train, "valid": num_valid})
        return cls(source, Places.in_workspace(root), FSDD_BATCH_SECONDS, "FSDD")

    @classmethod
    def strings(
        cls, source: Path, root: Path, num_train: int, teacher: ConformerParams = TEACHER
    ) -> Digits:
        """Return so many strings of 2 to 11 digits."""
        folder = root / "data/raw/strings"
        write_strings(source, folder, num_train)
        write_workspace(root, "manifest", folder, teacher)
        return cls(folder, Places.in_workspace(root), STRING_BATCH_SECONDS, "strings of digits")

    @cached_property
    def data(self) -> PreparedData:
        """The prepared audio."""
        return PreparedData.open(self.places.data)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """What is trained on."""
        return labelled(self.data, "train")

    @cached_property
    def teacher(self) -> Recogniser:
        """The teacher, loaded."""
        return Recogniser.load(self.places.teacher, ARCHITECTURES)

    @cached_property
    def packed(self) -> StoredFeatures:
        """Features of what is trained on, for student and teacher alike."""
        return pack_features(self.data, self.rows, FEATURES, self.scratch)

    @cached_property
    def validation(self) -> Validation:
        """What an epoch is judged by."""
        return validation_set(self.data, FEATURES, TRAINING, self.scratch, self.data.vocabulary)

    @property
    def scratch(self) -> Path:
        """Folder for packed features and checkpoints."""
        return self.places.data.parent / "scratch"

    @property
    def description(self) -> str:
        """Corpus and sizes in a few words."""
        seconds = self.rows["duration_seconds"].sum()
        return (
            f"{self.kind}, {len(self.rows):,} utterances, {seconds:.0f} s; student "
            f"{num_parameters(self.student()) / 1e3:.0f} k, teacher of random weights "
            f"{self.teacher.num_parameters / 1e6:.1f} M parameters"
        )

    def student(self, kind: type[SeparableConv] = SeparableConv, seed: int = 0) -> SeparableConv:
        """Return a student with its first weights."""
        torch.manual_seed(seed)
        return kind(STUDENT, FEATURES.num_mels, len(self.data.vocabulary))

    def cache_pass(self) -> None:
        """Run the stage `cache` into an empty folder."""
        shutil.rmtree(self.places.cache, ignore_errors=True)
        fill_cache(self.places, load_teacher, CacheParams(num_threads=1))

    def cached(self) -> CachedTargets:
        """Return what the cache says; the pass must have run."""
        return CachedTargets(
            TeacherCache.open_current(self.places.cache),
            list(self.rows["audio_key"]),
            self.data.vocabulary,
        )

    def live(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return what the teacher says about some utterances now, and lengths."""
        outputs = self.teacher.forward(*gather([self.packed[row] for row in rows]))
        return torch.from_numpy(outputs.log_probs), torch.tensor(outputs.num_frames)

    def training_set(
        self,
        targets: CachedTargets | None,
        features: Features | None = None,
        kind: type[TrainingSet] = TrainingSet,
        seed: int = 0,
    ) -> TrainingSet:
        """Return the training split with a teacher's outputs.

        Args:
            targets: where the teacher's outputs come from; None: transcripts alone.
            features: where the features come from; None takes the packed ones.
            kind: how batches are made.
            seed: fixes the order.
        """
        encode = self.data.vocabulary.encode
        return kind(
            [features or self.packed],
            [encode(text) for text in self.rows["text"]],
            FEATURES.hop_seconds,
            self.batch_seconds,
            seed,
            targets,
        )

    def train(
        self, network: Network, data: TrainingSet, objective: Objective, training: TrainingParams
    ) -> None:
        """Let the trainer fit a network from the start, checkpoints and validation included."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, curves = Path(folder, "checkpoint.pt"), Curves(Path(folder, "curves.jsonl"))
            Trainer(
                network, data, objective, self.validation, training, checkpoint, curves, self.kind
            ).fit()


class OtherFrames(CachedTargets):
    """As the cache, but for the frames, which come from elsewhere."""

    def __init__(
        self, cached: CachedTargets, read: Callable[[Sequence[int]], tuple[Tensor, Tensor]]
    ) -> None:
        """Take what is known of the utterances over.

        Args:
            cached: the cache's view.
            read: returns log-probabilities `(batch, frames, vocab)` and lengths `(batch,)`.
        """
        self.__dict__.update(cached.__dict__)
        self.read = read

    def frames(self, rows: Sequence[int]) -> TeacherFrames:
        """Return what the teacher says frame by frame."""
        return TeacherFrames(*self.read(rows))


@dataclass
class Epoch:
    """The trainer's first epoch, from the same weights each time that it is called."""

    digits: Digits
    data: TrainingSet
    student: type[SeparableConv] = SeparableConv
    training: TrainingParams = TRAINING
    losses: list[float] = field(default_factory=list)
    """Of every step of the last call."""

    def __call__(self) -> None:
        """Train."""
        found: list[Tensor] = []
        objective = DistillationObjective(OBJECTIVE, rate_ratio=1)
        objective.register_forward_hook(lambda _m, _i, terms: found.append(terms["loss"].detach()))
        network = self.digits.student(self.student)
        self.digits.train(network, self.data, objective, self.training)
        self.losses[:] = torch.stack(found).tolist()


def num_parameters(network: nn.Module) -> int:
    """Return how many parameters are trained."""
    return sum(p.numel() for p in network.parameters())


def write_workspace(root: Path, corpus: str, source: Path, architecture: ConformerParams) -> None:
    """Prepare a corpus and save a teacher of random weights beside it."""
    places = Places.in_workspace(root)
    places.data.parent.mkdir(parents=True, exist_ok=True)
    places.teacher.mkdir(parents=True)
    params = PrepareParams(
        corpus=corpus,  # type: ignore[arg-type]  # a string is checked when the model is built
        source=str(source),
        sample_rate_hz=RATE_HZ,
        ctc_frame_shift_seconds=FEATURES.hop_seconds * STUDENT.time_reduction,
    )
    prepare(params, source, places.data, root)
    tokens = PreparedData.open(places.data).vocabulary
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture.type](architecture, FEATURES.num_mels, len(tokens)).eval()
    teacher = Recogniser(network, architecture, FEATURES, tokens, RATE_HZ)
    make_blank(teacher, PreparedData.open(places.data))
    teacher.save(places.teacher)
    fingerprint(teacher).save(places.teacher)


def make_blank(teacher: Recogniser, data: PreparedData) -> None:
    """Move the teacher's bias so that most frames are blank, as a trained teacher's are.

    Otherwise its texts would be far longer than real ones, and so would the losses on them take.
    """
    rows = data.split("train")[:NUM_HEARD].itertuples()
    scores = np.concatenate(teacher.log_probs([data.waveform(row) for row in rows]))
    lead = np.delete(scores, BLANK_INDEX, axis=1).max(axis=1) - scores[:, BLANK_INDEX]
    with torch.no_grad():
        teacher.network.output.bias[BLANK_INDEX] += float(np.quantile(lead, BLANK_FRACTION))


def keep_some(root: Path, counts: Mapping[str, int | None]) -> None:
    """Leave so many utterances of these splits in the manifest, drawn at random."""
    folder = Places.in_workspace(root).data
    frame = PreparedData.open(folder).frame
    parts = []
    for name, part in frame.groupby("split"):
        count = counts.get(str(name))
        parts.append(part if count is None else part.sample(min(count, len(part)), random_state=0))
    pd.concat(parts).sort_index().to_parquet(folder / MANIFEST_FILE)
