"""The task that everybody gets: FSDD's split, a teacher, a student's first weights, an objective.

Sizes are those of examples/fsdd.yaml. The teacher has random weights and costs what a trained one
costs. Two objectives:

    frames   0.5 CTC(transcript) + 0.5 KL(teacher's frames), T = 2, all frames
    hidden   CTC(transcript) + 0.56 (L1 + cosine distance of the last hidden states), which is what
             that example asks for where everything is transcribed
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import yaml

from benchmarks.common import ROOT
from benchmarks.digits import FSDD_BATCH_SECONDS, OBJECTIVE, RATE_HZ, Digits
from benchmarks.peers.shared import PROJECTION_FILE, SPEC_FILE, STUDENT_FILE, TEACHER_FILE
from distillery.architectures.separable_conv import SeparableConv
from distillery.data.feature_constants import LOG_FLOOR, VARIANCE_FLOOR
from distillery.data.features import LogMel
from distillery.distill.objective import DistillationObjective
from distillery.distill.targets import CachedTargets
from distillery.files import write_json
from distillery.params.cache import CacheParams, PayloadParams
from distillery.params.models import ConvBiLSTMParams, FeatureParams, SeparableConvParams
from distillery.params.objective import FrameLossParams, ObjectiveParams, SequenceLossParams
from distillery.params.training import SpecAugmentParams, TrainingParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.batches import TrainingSet

EXAMPLE = yaml.safe_load((ROOT / "examples/fsdd.yaml").read_text("utf-8"))
FEATURES = FeatureParams.model_validate(EXAMPLE["distill"]["features"])
STUDENT = SeparableConvParams.model_validate(EXAMPLE["distill"]["students"]["conv"]["architecture"])
TEACHER = ConvBiLSTMParams.model_validate(EXAMPLE["teacher"]["architecture"])
OBJECTIVES = {
    "frames": ObjectiveParams(
        teacher_share=0.5,
        frame=FrameLossParams(type="kl", blank_mode="all"),
        sequence=SequenceLossParams(weight=0.0),
    ),
    "hidden": ObjectiveParams.model_validate(EXAMPLE["distill"]["objective"]),
}
WEIGHTS = {"frames": {"ctc": 0.5, "kl": 0.5}, "hidden": {"ctc": 1.0, "hidden": 0.56}}
"""What the terms weigh in all; peers sum them up themselves."""
TRAINING = TrainingParams(
    num_epochs=1,
    num_threads=1,
    precision="fp32",
    specaugment=SpecAugmentParams(num_time_masks=0, num_frequency_masks=0),
)
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Material:
    """The task in our own form."""

    folder: Path
    digits: Digits
    kind: str
    """Of OBJECTIVES."""

    @classmethod
    def make(
        cls,
        source: Path,
        folder: Path,
        kind: str,
        num_train: int | None = None,
        teacher: ConvBiLSTMParams = TEACHER,
    ) -> Self:
        """Prepare FSDD, cache a teacher's outputs, pack features, and write the peers' form.

        Args:
            source: FSDD's folder.
            folder: where all of it goes.
            kind: of OBJECTIVES.
            num_train: utterances of the training split; None: all.
            teacher: sizes of the teacher.
        """
        Digits.fsdd(source, folder / "workspace", num_train, teacher=teacher)
        write_json(folder / SETTINGS_FILE, {"source": str(source), "kind": kind})
        made = cls.read(folder)
        made.fill_cache()
        made.write()
        return made

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open what `make` left."""
        settings = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))
        places = Places.in_workspace(folder / "workspace")
        digits = Digits(Path(settings["source"]), places, FSDD_BATCH_SECONDS, "FSDD")
        return cls(folder, digits, settings["kind"])

    @property
    def objective(self) -> ObjectiveParams:
        """What the student is trained towards."""
        return OBJECTIVES[self.kind]

    @property
    def training(self) -> TrainingParams:
        """How: fp32, one thread, no masks, which the peers would have to make, too."""
        return TRAINING

    def fill_cache(self) -> None:
        """Run the stage `cache`, which keeps what the objective reads."""
        shutil.rmtree(self.digits.places.cache, ignore_errors=True)
        layers = tuple(self.objective.hidden.layers.values()) if self.objective.uses_hidden else ()
        payload = PayloadParams(hidden_layers=layers)
        fill_cache(self.digits.places, load_teacher, CacheParams(num_threads=1, payload=payload))

    def training_set(self) -> TrainingSet:
        """Return packed features with what the cache says."""
        objective, digits = self.objective, self.digits
        layers = objective.hidden.layers.values() if objective.uses_hidden else ()
        targets = CachedTargets(
            TeacherCache.open_current(digits.places.cache),
            list(digits.rows["audio_key"]),
            digits.data.vocabulary,
            with_frames=objective.uses_frames,
            temperature=objective.frame.temperature,
            sequence=objective.sequence,
            transcripts=list(digits.rows["text"]),
            hidden_layers=list(layers),
        )
        return digits.training_set(targets)

    def beginning(self) -> tuple[SeparableConv, DistillationObjective]:
        """Return a student and its objective with their first weights."""
        torch.manual_seed(0)
        tokens = len(self.digits.data.vocabulary)
        network = SeparableConv(STUDENT, FEATURES.num_mels, tokens)
        namespace = TeacherCache.open_current(self.digits.places.cache).namespace
        objective = DistillationObjective.for_network(
            network,
            self.objective,
            1,
            sparse_targets=False,
            teacher_widths=namespace.hidden,
            num_tokens=tokens,
            seed=0,
        )
        return network, objective

    def write(self) -> None:
        """Write what the peers read: spec.json and weights."""
        network, objective = self.beginning()
        torch.save(network.state_dict(), self.folder / STUDENT_FILE)
        teacher = self.digits.teacher
        torch.save(teacher.network.state_dict(), self.folder / TEACHER_FILE)
        if objective.hidden is not None:
            (projection,) = objective.hidden.projections
            torch.save(projection.state_dict(), self.folder / PROJECTION_FILE)
        data = self.training_set()
        (self.folder / SPEC_FILE).write_text(json.dumps(self._spec(data)), "utf-8")

    def _spec(self, data: TrainingSet) -> dict[str, Any]:
        digits, window = self.digits, round(FEATURES.window_seconds * RATE_HZ)
        rows = zip(digits.rows["audio_key"], digits.rows["source_path"], data.labels, strict=True)
        return {
            "utterances": [
                {"id": key, "path": str(digits.source / path), "tokens": list(tokens or ())}
                for key, path, tokens in rows
            ],
            "plan": data.plan(0),
            "weights": WEIGHTS[self.kind],
            "temperature": OBJECTIVE.frame.temperature,
            "mel": {
                "sample_rate": RATE_HZ,
                "n_fft": 2 ** math.ceil(math.log2(window)),
                "win_length": window,
                "hop_length": LogMel(FEATURES, RATE_HZ).hop_samples,
                "n_mels": FEATURES.num_mels,
            },
            "log_floor": LOG_FLOOR,
            "variance_floor": VARIANCE_FLOOR,
            "num_tokens": len(digits.data.vocabulary),
            "student": STUDENT.model_dump(),
            "teacher": digits.teacher.architecture.model_dump(),
            "optimiser": {"lr": TRAINING.learning_rate, "weight_decay": TRAINING.weight_decay},
            "max_gradient_norm": TRAINING.max_gradient_norm,
        }
