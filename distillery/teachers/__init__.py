"""Teacher architectures by the name they have in params.yaml."""

from collections.abc import Callable
from typing import Any

from distillery.networks import Network
from distillery.teachers.conformer import ConvConformer
from distillery.teachers.conv_bilstm import ConvBiLSTM

TEACHERS: dict[str, Callable[[Any, int, int], Network]] = {
    "conv_bilstm": ConvBiLSTM,
    "conformer": ConvConformer,
}
