"""A tiny language of tones: every letter is a pitch, so a small network learns it in seconds."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

ROOT = Path(__file__).resolve().parents[1]
RATE_HZ = 8000
LETTERS = "abc"
PITCH_HZ = {"a": 500.0, "b": 1200.0, "c": 2400.0}
WORDS = ("ab", "ba", "cab", "abc", "bca", "cc")


def speak(text: str, seed: int) -> np.ndarray:
    """Return float samples `(samples,)` at RATE_HZ: a tone per letter, silence per space."""
    random = np.random.default_rng(seed)
    length = int(0.12 * RATE_HZ)
    time = np.arange(length) / RATE_HZ
    envelope = np.hanning(length)
    detune = random.uniform(0.95, 1.05)
    pieces = [
        envelope * np.sin(2 * np.pi * PITCH_HZ[c] * detune * time) if c in PITCH_HZ else 0 * time
        for c in f" {text} "
    ]
    speech = 0.3 * np.concatenate(pieces)
    noisy: np.ndarray = speech + random.normal(0, 0.01, len(speech))
    return noisy.astype(np.float32)


def utterance_text(random: np.random.Generator) -> str:
    """Return one to three words."""
    return " ".join(random.choice(WORDS, size=random.integers(1, 4)))


def write_corpus(
    folder: Path, *, num_speakers: int = 12, per_speaker: int = 4, unlabelled: int = 0
) -> Path:
    """Write WAV files and manifest.csv for the corpus kind `manifest`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    rows = []
    for speaker in range(num_speakers):
        for take in range(per_speaker):
            text = utterance_text(random)
            name = f"s{speaker:02d}-{take}.wav"
            soundfile.write(folder / name, speak(text, 100 * speaker + take), RATE_HZ)
            split = ("test" if speaker < 2 else "valid") if speaker < 4 else "train"
            shown = "" if split == "train" and take < unlabelled else text
            rows.append(
                {
                    "path": name,
                    "text": shown,
                    "speaker": f"s{speaker:02d}",
                    "split": split,
                }
            )
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "text", "speaker", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def tiny_params(source: str = "corpus", **changes: Any) -> dict[str, Any]:
    """Return settings small enough for seconds; `changes` are merged over whole sections."""
    training = {
        "num_epochs": 3,
        "batch_seconds": 8.0,
        "num_threads": 1,
        "learning_rate": 5e-3,
    }
    features = {"num_mels": 16}
    params: dict[str, Any] = {
        "prepare": {
            "corpus": "manifest",
            "source": source,
            "sample_rate_hz": RATE_HZ,
            "alphabet": LETTERS,
        },
        "teacher": {
            "allow_poor": True,  # it is trained as briefly as its students
            "architecture": {
                "type": "conv_bilstm",
                "conv_channels": 4,
                "hidden_size": 24,
                "num_layers": 1,
            },
            "features": dict(features),
            "training": dict(training),
        },
        "cache": {
            "payload": {},
            "speed_factors": [],
            "precision": "fp32",
            "batch_seconds": 8.0,
            "shard_seconds": 12.0,
            "num_threads": 1,
        },
        "distill": {
            "seeds": [0],
            "control": True,
            "fall_back": False,  # tests compare students with controls; test_fall_back has the rule
            "generations": 1,
            "filter": {"enabled": False},  # three epochs teach the teacher to say nothing
            # Else a student whose teacher has nothing to say were its control, byte for byte.
            "objective": {"sequence": {"where_transcribed": "teacher"}},
            "features": dict(features),
            "augmentation": {},
            "training": dict(training),
            "students": {
                "conv": {
                    "architecture": {
                        "type": "separable_conv",
                        "channels": 16,
                        "num_blocks": 1,
                        "kernel_size": 5,
                    }
                }
            },
        },
        "evaluate": {"num_resamples": 200, "speed_seconds": 1.0, "speed_repeats": 2},
        "register": {
            "experiment": "tiny",
            "model_name": "tiny",
            "decoder": False,
            # Such students say nothing, in 8 utterances, and machines that run tests have no time
            # to measure.
            "gate": {"max_wer": 5.0, "max_slowdown_factor": None, "min_utterances": 0},
        },
        "language_model": {},
    }
    for section, values in changes.items():
        params[section] = {**params[section], **values}
    return params


def write_params(root: Path, params: dict[str, Any]) -> None:
    """Write params.yaml into a workspace."""
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def copy_code(root: Path) -> None:
    """Start a workspace with a copy of the code, and of what DVC knows of it."""
    root.mkdir(exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", root)
    for name in ("distillery", "tasks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
