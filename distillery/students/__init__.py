"""Student architectures by the name they have in params.yaml; teachers' make students, too."""

from collections.abc import Callable
from typing import Any

from distillery.networks import Network
from distillery.students.causal_conv import CausalConv
from distillery.students.crnn import CRNN
from distillery.students.separable_conv import SeparableConv
from distillery.teachers.conformer import ConvConformer
from distillery.teachers.conv_bilstm import ConvBiLSTM

STUDENTS: dict[str, Callable[[Any, int, int], Network]] = {
    "separable_conv": SeparableConv,
    "causal_conv": CausalConv,
    "crnn": CRNN,
    "conformer": ConvConformer,
    "conv_bilstm": ConvBiLSTM,
}
