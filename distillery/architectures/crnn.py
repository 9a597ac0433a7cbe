"""A recurrent student: small convolutions in front of a bidirectional GRU."""

from __future__ import annotations

from torch import nn

from distillery.models.layers import ConvRecurrent
from distillery.params.models import CRNNParams


class CRNN(ConvRecurrent):
    """Convolutional front end, bidirectional GRU, linear output."""

    def __init__(self, params: CRNNParams, num_mels: int, num_tokens: int) -> None:
        super().__init__(nn.GRU, params, num_mels, num_tokens)
