"""Frame-wise losses by the name they have in params.yaml."""

from collections.abc import Callable

from torch import nn

from distillery.losses.kl import FrameKL, SparseKL
from distillery.losses.logit_mse import LogitMSE
from distillery.params.objective import FrameLossParams

FRAME_LOSSES: dict[str, Callable[[FrameLossParams], nn.Module]] = {
    "kl": lambda params: FrameKL(params.temperature),
    "logit_mse": lambda params: LogitMSE(),
}
# Those that can learn from a cache which keeps a frame's likeliest tokens alone.
SPARSE_FRAME_LOSSES: dict[str, Callable[[FrameLossParams], nn.Module]] = {
    "kl": lambda params: SparseKL(params.temperature),
}
