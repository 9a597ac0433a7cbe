from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.architectures.known import ARCHITECTURES
from distillery.data.text import Vocabulary
from distillery.distill.start import SlicedTeacher, initialise, spaced_layers
from distillery.errors import ModelError, StageError
from distillery.models.recogniser import Recogniser
from distillery.params.models import (
    ConformerParams,
    ConvBiLSTMParams,
    CRNNParams,
    FeatureParams,
    SeparableConvParams,
)
from tests.tiny import speak

FEATURES = FeatureParams(num_mels=16)
VOCABULARY = Vocabulary.from_alphabet("abc")
LSTM = ConvBiLSTMParams(type="conv_bilstm", conv_channels=4, hidden_size=8, num_layers=4)
CONFORMER = ConformerParams(
    type="conformer", conv_channels=4, model_size=8, num_heads=2, num_layers=5, kernel_size=3
)

CONVOLUTIONS = SeparableConvParams(type="separable_conv", channels=8, num_blocks=3, kernel_size=3)


def recogniser(architecture: Any, seed: int = 0, **changes: Any) -> Recogniser:
    torch.manual_seed(seed)
    values = {"features": FEATURES, "vocabulary": VOCABULARY, "sample_rate_hz": 8000, **changes}
    sizes = values["features"].num_mels, len(values["vocabulary"])
    network = ARCHITECTURES[architecture.type](architecture, *sizes).eval()
    return Recogniser(network, architecture, **values)


def saved_teacher(models: Path, architecture: Any = LSTM) -> Recogniser:
    teacher = recogniser(architecture, seed=1)
    for norm in teacher.network.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    (models / "teacher").mkdir(parents=True)
    teacher.save(models / "teacher")
    return teacher


@pytest.mark.parametrize(
    ("num_source", "num_wanted", "layers"),
    [
        (12, 4, [0, 3, 7, 11]),  # 0, 3.67, 7.33, 11
        (24, 2, [0, 23]),
        (5, 3, [0, 2, 4]),
        (3, 3, [0, 1, 2]),
        (6, 1, [5]),
        (1, 1, [0]),
    ],
)
def test_layers_are_evenly_spaced_and_the_last_is_kept(num_source, num_wanted, layers) -> None:
    assert spaced_layers(num_source, num_wanted) == layers


@pytest.mark.parametrize(
    ("architecture", "chosen", "stacks"),
    [
        (LSTM, [0, 3], ("recurrent.forwards", "recurrent.backwards")),
        (CONVOLUTIONS, [0, 2], ("blocks",)),
        (CONFORMER, [0, 2, 4], ("blocks.conformer_layers",)),
    ],
    ids=["conv_bilstm", "separable_conv", "conformer"],
)
def test_a_sliced_student_is_made_of_its_teachers_parts(
    tmp_path: Path, architecture, chosen: list[int], stacks: tuple[str, ...]
) -> None:
    teacher = saved_teacher(tmp_path, architecture)
    depth = "num_blocks" if architecture is CONVOLUTIONS else "num_layers"
    student = recogniser(architecture.model_copy(update={depth: len(chosen)}))
    record = initialise(student, "slim", "teacher", tmp_path, teacher.weights_digest)
    assert record == SlicedTeacher("teacher", teacher.weights_digest, chosen)
    theirs, own = teacher.network.state_dict(), student.network.state_dict()
    seen = 0
    for index, source in enumerate(chosen):
        for stack in stacks:
            prefix = f"{stack}.{index}."
            for name in [name for name in own if name.startswith(prefix)]:
                assert torch.equal(own[name], theirs[f"{stack}.{source}.{name[len(prefix) :]}"])
                seen += 1
    others = [name for name in own if not name.startswith(stacks)]
    assert all(torch.equal(own[name], theirs[name]) for name in others)
    front = "norms" if architecture is CONVOLUTIONS else "front.norms"
    assert {"output.weight", f"{front}.0.running_var"} <= set(others)
    assert seen + len(others) == len(own)


def test_with_all_layers_it_says_what_its_teacher_says(tmp_path: Path) -> None:
    teacher, student = saved_teacher(tmp_path), recogniser(LSTM)
    waveforms = [speak("abc", 0)]
    assert not np.allclose(student.log_probs(waveforms)[0], teacher.log_probs(waveforms)[0])
    initialise(student, "slim", "teacher", tmp_path, teacher.weights_digest)
    np.testing.assert_array_equal(student.log_probs(waveforms)[0], teacher.log_probs(waveforms)[0])


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            recogniser(LSTM.model_copy(update={"num_layers": 6})),
            "the student has 6 layers, the teacher 4, expected no more",
        ),
        (
            recogniser(LSTM.model_copy(update={"hidden_size": 12})),
            r"project.weight has the shape \[12, 16\], the teacher's project.weight has \[8, 16\]",
        ),
        (
            recogniser(LSTM.model_copy(update={"num_layers": 1})),
            r"recurrent.forwards.0.weight_ih_l0 has the shape \[32, 8\], the teacher's "
            r"recurrent.forwards.3.weight_ih_l0 has \[32, 16\]",
        ),
        (
            recogniser(CRNNParams(type="crnn")),
            "the student's architecture is crnn, the teacher's conv_bilstm, expected the same",
        ),
        (
            recogniser(LSTM, features=FeatureParams(num_mels=16, normalise="level")),
            "the student's features is .*'level'.*, the teacher's .*'bands'",
        ),
        (
            recogniser(LSTM, vocabulary=Vocabulary.from_alphabet("abd")),
            "the student's tokens is .*'d'.*, the teacher's .*'c'",
        ),
        (
            recogniser(LSTM, sample_rate_hz=16000),
            "the student's sample rate is 16000, the teacher's 8000",
        ),
    ],
    ids=["layers", "width", "first layer", "architecture", "features", "tokens", "rate"],
)
def test_what_does_not_fit_is_named_on_both_sides(tmp_path: Path, student, message: str) -> None:
    teacher = saved_teacher(tmp_path)
    before = student.weights_digest
    with pytest.raises(ModelError, match=message):
        initialise(student, "slim", "teacher", tmp_path, teacher.weights_digest)
    assert student.weights_digest == before


def test_another_teacher_than_the_cached_one_is_refused(tmp_path: Path) -> None:
    saved_teacher(tmp_path)
    with pytest.raises(ModelError, match="the cache was made with 0123; run make teacher, then"):
        initialise(recogniser(LSTM), "slim", "teacher", tmp_path, "0123")


def test_a_missing_teacher_and_a_model_that_was_not_fetched_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"teacher: holds no config\.json"):
        initialise(recogniser(LSTM), "slim", "teacher", tmp_path, "")
    with pytest.raises(StageError, match="student slim: models:/x@y has not been fetched"):
        initialise(recogniser(LSTM), "slim", "models:/x@y", tmp_path, "")
