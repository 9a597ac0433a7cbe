"""What augmentation costs in each step: features made from audio in place of packed ones.

    python -m benchmarks.augmentation [--rounds 9]

The audio is noise as long as sentences: what is computed does not depend on what is said. Rows go
to benchmarks/results/augmentation.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import key, paired_medians, report, row
from distillery.architectures.known import STUDENTS
from distillery.augmentations.augmenter import Augmenter, Effects
from distillery.data.features import LogMel, PackedFeatures, unpacked_features
from distillery.params.augmentation import AugmentationParams
from distillery.params.models import FeatureParams, SeparableConvParams
from distillery.training.batches import TrainingSet
from distillery.training.objective import NetworkOutputs, TranscriptObjective

RATE_HZ, BATCH = 16_000, 16
SHORTEST, LONGEST = 1.5, 4.5  # seconds
FEATURES = FeatureParams(num_mels=40)
STUDENT = SeparableConvParams(type="separable_conv", channels=96, num_blocks=4)
NUM_TOKENS = 29
ALWAYS: dict[str, dict[str, Any]] = {
    "features from audio": {"gain": {"gain_db": [0, 0]}},
    "gain": {"gain": {}},
    "generated noise": {"noise": {}},
    "generated reverberation": {"reverberation": {}},
    "concatenation": {"concatenate": {}},
    "noise, gain, reverberation and concatenation": {
        "noise": {},
        "gain": {},
        "reverberation": {},
        "concatenate": {},
    },
}
"""Settings whose probability is 1 here; crops only make batches smaller."""


def utterances(count: int) -> list[np.ndarray]:
    """Return noise as long as sentences."""
    random = np.random.default_rng(0)
    lengths = random.uniform(SHORTEST, LONGEST, count) * RATE_HZ
    return [random.normal(0, 0.1, int(length)).astype(np.float32) for length in lengths]


def augmented(audio: list[np.ndarray], settings: dict[str, Any]) -> TrainingSet:
    """Return a training set of which every utterance is changed in every step."""
    always = {name: {**section, "probability": 1.0} for name, section in settings.items()}
    params = AugmentationParams.model_validate(always)
    extractor = LogMel(FEATURES, RATE_HZ)
    augmenter = Augmenter(
        Effects.build(params, Path(), RATE_HZ),
        audio.__getitem__,
        [key(index) for index in range(len(audio))],
        extractor,
        STUDENT.time_reduction,
        1,
        [1],
        0,
    )
    num_frames = extractor.num_frames(np.array([len(item) for item in audio]))
    return training_set(unpacked_features(num_frames), augment=augmenter)


def training_set(features: PackedFeatures, **changes: Any) -> TrainingSet:
    """Return utterances with transcripts of ten tokens."""
    labels = [[2 + index % 20 for index in range(10)]] * len(features)
    return TrainingSet([features], labels, FEATURES.hop_seconds, 60.0, 0, **changes)


def packed(audio: list[np.ndarray]) -> TrainingSet:
    """Return the same utterances with features that were made once."""
    extractor = LogMel(FEATURES, RATE_HZ)
    parts = [extractor(torch.from_numpy(item)).half().numpy() for item in audio]
    offsets = np.cumsum([0, *map(len, parts)])
    return training_set(PackedFeatures(np.concatenate(parts), offsets))


def student_step(data: TrainingSet) -> Callable[[], object]:
    """Return the forward and backward pass of a small student, for comparison."""
    network = STUDENTS["separable_conv"](STUDENT, FEATURES.num_mels, NUM_TOKENS)
    objective, batch = TranscriptObjective(), data.batch(range(BATCH))

    def step() -> None:
        scores, lengths = network(batch.features, batch.feature_lengths)
        outputs = NetworkOutputs(scores.log_softmax(dim=-1), lengths)
        torch.autograd.backward(objective(outputs, batch)["loss"])

    return step


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    torch.set_num_threads(1)
    audio = utterances(BATCH)
    plain, items = packed(audio), range(BATCH)
    sets = {name: augmented(audio, settings) for name, settings in ALWAYS.items()}
    works: list[Callable[[], object]] = [student_step(plain), lambda: plain.batch(items)]
    works += [lambda data=data: data.batch(items) for data in sets.values()]  # type: ignore[misc]
    step, gathered, *changed = paired_medians(works, rounds)
    seconds = sum(map(len, audio)) / RATE_HZ
    return [
        row(
            f"a batch with {name}",
            1000 * value,
            "ms of CPU time",
            None,
            None,
            f"packed features: {1000 * gathered:.2f} ms; forward and backward pass of a student of "
            f"96 channels and 4 blocks: {1000 * step:.0f} ms; {BATCH} utterances, {seconds:.0f} s, "
            f"16 kHz, median of {rounds}",
        )
        for name, value in zip(sets, changed, strict=True)
    ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    report("augmentation", rows)


if __name__ == "__main__":
    main()
