"""Students with random weights that say something, for tests in which nothing is trained."""

from __future__ import annotations

import torch

from distillery.architectures.known import STUDENTS
from distillery.data.text import Vocabulary
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, FeatureParams
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
