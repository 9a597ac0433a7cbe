"""Students with random weights that say something, for tests in which nothing is trained."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

from distillery.architectures.known import STUDENTS
from distillery.data.text import Vocabulary
from distillery.models.recogniser import Recogniser
from distillery.params.models import CausalConvParams, CRNNParams, FeatureParams
from distillery.serve.export import to_int8, to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.served import SERVED_FILE
from tests.tiny import LETTERS, RATE_HZ, speak


def talking_student(seed: int = 0) -> Recogniser:
    """Return a student whose texts are not empty, as those of random networks are."""
    torch.manual_seed(seed)
    architecture = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)
    vocabulary = Vocabulary.from_alphabet(LETTERS)
    network = STUDENTS["crnn"](architecture, 16, len(vocabulary)).eval()
    student = Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, RATE_HZ)
    with torch.no_grad():
        mean = student.log_probs([speak("abc cab", 0)])[0].mean(axis=0)  # (vocab,)
        network.output.bias -= torch.from_numpy(mean)
    return student


STREAMING_VOCABULARY = Vocabulary.from_alphabet("abc")


@cache
def streaming_student(
    lookahead_frames: int = 0, time_reduction: int = 4, features: str = "log_mel"
) -> Recogniser:
    """Return a random network whose outputs are centred, so that it hears something of all."""
    torch.manual_seed(lookahead_frames)
    architecture = CausalConvParams(
        type="causal_conv",
        channels=12,
        num_blocks=2,
        kernel_size=5,
        lookahead_frames=lookahead_frames,
        time_reduction=time_reduction,
    )
    heard = FeatureParams(type=features, num_mels=16, normalise="running")
    network = STUDENTS["causal_conv"](architecture, 16, len(STREAMING_VOCABULARY))
    model = Recogniser(network, architecture, heard, STREAMING_VOCABULARY, 8000)
    for norm in network.modules():  # as if it had been trained
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean, std=0.3)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
            torch.nn.init.normal_(norm.bias, std=0.5)
    network.eval()
    mean = model.log_probs([speak("abc cab", 0)])[0].mean(axis=0)  # (vocab,)
    with torch.no_grad():
        network.output.bias -= torch.from_numpy(mean)
    return model


def put_exported(student: Recogniser, folder: Path, served_as: str | None = None) -> Path:
    """Save a student with its exported formats in a folder, made if need be; return the folder.

    Args:
        student: the student.
        folder: where to.
        served_as: the format that `load_served` takes; None: PyTorch's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    student.save(folder)
    floats = to_onnx(student.network, student.features.num_mels)
    heard = [student.extract([speak("abc cab", seed)])[0].numpy() for seed in range(4)]
    (folder / MODEL_FILES["onnx"]).write_bytes(floats)
    (folder / MODEL_FILES["onnx-int8"]).write_bytes(to_int8(floats, heard))
    if served_as is not None:
        (folder / SERVED_FILE).write_text(json.dumps({"format": served_as}))
    return folder
