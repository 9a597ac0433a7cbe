"""A teacher of convolutions and bidirectional LSTM layers, after Deep Speech 2 (Amodei, 2015)."""

from __future__ import annotations

from torch import nn

from distillery.models.layers import ConvRecurrent
from distillery.params.models import ConvBiLSTMParams


class ConvBiLSTM(ConvRecurrent):
    """Convolutional front end, bidirectional LSTM, linear output."""

    def __init__(self, params: ConvBiLSTMParams, num_mels: int, num_tokens: int) -> None:
        super().__init__(nn.LSTM, params, num_mels, num_tokens)
