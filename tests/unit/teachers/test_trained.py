"""A teacher that is trained here, by one process and by several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.data.manifest import PreparedData
from distillery.models.recogniser import Recogniser
from distillery.params.teacher import TrainedTeacherParams
from distillery.teachers.base import Workplace
from distillery.teachers.trained import train_teacher
from tests.together import assert_same_curve

BILSTM = {"type": "conv_bilstm", "conv_channels": 4, "hidden_size": 24, "num_layers": 2}
CONFORMER = {
    "type": "conformer",
    "conv_channels": 4,
    "model_size": 16,
    "num_heads": 2,
    "num_layers": 1,
    "kernel_size": 5,
    "dropout": 0.0,  # torchaudio's layers draw it for the rows that they see
}


def place_of(folder: Path, corpus: Path, num_processes: int) -> Workplace:
    data = PreparedData.open(corpus / "data/prepared")
    return Workplace(
        data,
        folder / "scratch",
        folder,
        folder / f"curves-{num_processes}.jsonl",
        num_processes=num_processes,
    )


@pytest.mark.parametrize("architecture", [BILSTM, CONFORMER], ids=["bilstm", "conformer"])
def test_two_processes_train_to_the_loss_curve_of_one(
    tone_corpus: Path, tmp_path: Path, architecture: dict[str, Any]
) -> None:
    """With dropout, SpecAugment, batch norms, and batches of an odd number of utterances."""
    params = TrainedTeacherParams.model_validate(
        {
            "kind": "trained",
            "architecture": architecture,
            "features": {"num_mels": 16},
            "training": {
                "num_epochs": 3,
                "batch_seconds": 4.0,
                "num_threads": 1,
                "learning_rate": 5e-3,
                "average_steps": 4,
            },
        }
    )
    teachers = []
    for count in (1, 2):
        place = place_of(tmp_path, tone_corpus, count)
        ready = train_teacher(params, place)
        assert isinstance(ready.teacher, Recogniser) and ready.checkpoint is not None
        teachers.append(ready.teacher.network.state_dict())
        if count == 1:
            name = ready.checkpoint
            ready.checkpoint.unlink()
    assert_same_curve(tmp_path / "curves-1.jsonl", tmp_path / "curves-2.jsonl")
    assert ready.checkpoint == name, "the number of processes names no training"
    assert teachers[0].keys() == teachers[1].keys(), "what is saved is the plain network"
    for weight, value in teachers[0].items():
        assert value.shape == teachers[1][weight].shape, weight
    # What has ended is taken up by whatever number of processes, and trained no more.
    kept = name.read_bytes()
    train_teacher(params, replace(place, num_processes=3))
    assert name.read_bytes() == kept
