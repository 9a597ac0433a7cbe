"""A recurrent student: small convolutions in front of a bidirectional GRU."""

from __future__ import annotations

from torch import Tensor, nn

from distillery.networks import BidirectionalRecurrent, ConvFrontEnd, Network
from distillery.params import CRNNParams


class CRNN(Network):
    """Convolutional front end, bidirectional GRU, linear output."""

    def __init__(self, params: CRNNParams, num_mels: int, num_tokens: int) -> None:
        super().__init__()
        self.time_reduction = params.time_reduction
        self.front = ConvFrontEnd(num_mels, params.conv_channels, params.time_reduction)
        self.project = nn.Linear(self.front.num_outputs, params.hidden_size)
        self.recurrent = BidirectionalRecurrent(
            nn.GRU,
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
