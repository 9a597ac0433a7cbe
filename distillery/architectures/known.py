"""Every architecture by the name it has in params.yaml: the one list, of teachers and students."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillery.architectures.causal_conv import CausalConv
from distillery.architectures.conformer import ConvConformer
from distillery.architectures.conv_bilstm import ConvBiLSTM
from distillery.architectures.crnn import CRNN
from distillery.architectures.separable_conv import SeparableConv
from distillery.models.layers import Network
from distillery.models.recogniser import Recogniser

# tasks/code.py reads both as text: the file that an entry names is that architecture's own.
TEACHERS: dict[str, Callable[[Any, int, int], Network]] = {
    "conv_bilstm": ConvBiLSTM,
    "conformer": ConvConformer,
}
STUDENTS: dict[str, Callable[[Any, int, int], Network]] = {
    "separable_conv": SeparableConv,
    "causal_conv": CausalConv,
    "crnn": CRNN,
    **TEACHERS,
}
ARCHITECTURES = STUDENTS


def load_recogniser(folder: Path, device: str = "cpu") -> Recogniser:
    """Load a saved recogniser of any architecture.

    Args:
        folder: as `Recogniser.save` left it.
        device: where it is to run.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    return Recogniser.load(folder, ARCHITECTURES, device)
