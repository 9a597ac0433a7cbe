"""A teacher of convolutions and bidirectional LSTM layers, after Deep Speech 2 (Amodei, 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from distillery.networks import BidirectionalRecurrent, ConvFrontEnd, Network
from distillery.params import ConvBiLSTMParams


class ConvBiLSTM(Network):
    """Convolutional front end, bidirectional LSTM, linear output."""

    def __init__(self, params: ConvBiLSTMParams, num_mels: int, num_tokens: int) -> None:
        super().__init__()
        self.time_reduction = params.time_reduction
        self.front = ConvFrontEnd(num_mels, params.conv_channels, params.time_reduction)
        self.project = nn.Linear(self.front.num_outputs, params.hidden_size)
        self.recurrent = BidirectionalRecurrent(
            nn.LSTM,
            params.hidden_size,
            params.hidden_size,
            params.num_layers,
            params.dropout,
        )
        self.dropout = nn.Dropout(params.dropout)
        self.output = nn.Linear(2 * params.hidden_size, num_tokens)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, vocab)` and their lengths `(batch,)`."""
        x, lengths = self.front(features, lengths)
        x = self.dropout(self.project(x).relu())
        return self.output(self.dropout(self.recurrent(x, lengths))), lengths
