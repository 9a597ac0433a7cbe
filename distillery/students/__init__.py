"""Student architectures by the name they have in params.yaml."""

from collections.abc import Callable
from typing import Any

from distillery.networks import Network
from distillery.students.crnn import CRNN
from distillery.students.separable_conv import SeparableConv

STUDENTS: dict[str, Callable[[Any, int, int], Network]] = {
    "separable_conv": SeparableConv,
    "crnn": CRNN,
}
