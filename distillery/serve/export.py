"""A student as ONNX, in 32-bit floats and in 8-bit integers, from features to log-probabilities.

    model.onnx       as trained, batch norm folded into the convolutions
    model.int8.onnx  weights as signed 8-bit integers, a scale for each output channel; what goes
                     into convolutions and matrix products, and what comes out, as unsigned ones,
                     whose ranges are those of some validation utterances; recurrent layers and the
                     output layer compute in floats, from weights in 8 bits

Both take `features` `(batch, feature_frames, mels)` of any length and give `log_probs`
`(batch, frames, vocab)`. All rows of a batch are equally long: without padding there is nothing to
mask, and the integer kernels follow each other unbroken. Equal students give equal bytes.
docs/decisions/0016-export.md has the measurements behind this.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from distillery.data.manifest import PreparedData
from distillery.files import write_bytes
from distillery.models.layers import Network
from distillery.models.recogniser import Recogniser
from distillery.serve.onnx_recogniser import INPUT, MODEL_FILES, OUTPUT

if TYPE_CHECKING:
    import onnx

OPSET = 20
TRACED_FRAMES = 57  # any number: the exported network takes every length
NUM_CALIBRATION_UTTERANCES = 32
INTEGER_OPERATORS = ("Conv", "MatMul", "Gemm")
OUTPUT_AXES = {"Conv": 0, "MatMul": 1, "Gemm": 0, "LSTM": 1, "GRU": 1}
"""Where in an operator's weights its outputs are counted, as PyTorch exports them."""
RECURRENT_OPERATORS = ("LSTM", "GRU")
INT8_MAX = 127


def export_student(recogniser: Recogniser, data: PreparedData, folder: Path) -> None:
    """Write a student as model.onnx and model.int8.onnx beside its config.json and tokens.txt.

    Args:
        recogniser: the student.
        data: prepared data, whose validation split tells the ranges of the activations.
        folder: an existing folder.
    """
    floats = to_onnx(recogniser.network, recogniser.features.num_mels)
    waveforms = calibration_waveforms(data)
    calibration = [recogniser.extract([waveform])[0].numpy() for waveform in waveforms]
    write_bytes(folder / MODEL_FILES["onnx"], floats)
    write_bytes(folder / MODEL_FILES["onnx-int8"], to_int8(floats, calibration))


def calibration_waveforms(data: PreparedData) -> list[np.ndarray]:
    """Return the validation utterances of the lowest SHA-256: new data moves few of them.

    Where nothing validates, they are of the training split.
    """
    rows = data.split("valid")
    rows = rows if len(rows) else data.split("train")
    digests = rows["audio_key"].map(lambda key: hashlib.sha256(str(key).encode()).hexdigest())
    chosen = rows.loc[digests.sort_values(kind="stable").index[:NUM_CALIBRATION_UTTERANCES]]
    return [data.waveform(row) for row in chosen.itertuples()]


# --- floats ------------------------------------------------------------------------------------


class _Alone(nn.Module):
    """A network over features without padding, to log-probabilities."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        return self.network.scores(features, None).log_softmax(dim=-1)


class _Attention(nn.Module):
    """Self-attention with the weights of a MultiheadAttention, in steps that take every length.

    Tracing PyTorch's own writes the number of frames that it was traced with into the graph.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self, query: Tensor, key_padding_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Return `(frames, batch, width)` for the same shape, which is key and value as well.

        Args:
            query: the sequence.
            key_padding_mask: `(batch, frames)`, True where a frame is none.
        """
        attention = self.attention
        joint = nn.functional.linear(query, attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (
            part.reshape(*part.shape[:2], attention.num_heads, -1).permute(1, 2, 0, 3)
            for part in joint.chunk(3, dim=-1)
        )  # (batch, heads, frames, width of a head)
        similarities = queries @ keys.transpose(-1, -2) / math.sqrt(attention.head_dim)
        if key_padding_mask is not None:
            similarities = similarities.masked_fill(key_padding_mask[:, None, None], -torch.inf)
        mixed = (similarities.softmax(dim=-1) @ values).permute(2, 0, 1, 3).flatten(-2)
        return attention.out_proj(mixed), None


def to_onnx(network: Network, num_mels: int) -> bytes:
    """Return a network as an ONNX file's content.

    Args:
        network: the network; it stays as it is.
        num_mels: width of the features.
    """
    return traced(
        _Alone(network),
        {INPUT: torch.zeros(1, TRACED_FRAMES, num_mels)},
        [OUTPUT],
        {INPUT: {0: "batch", 1: "feature_frames"}, OUTPUT: {0: "batch", 1: "frames"}},
    )


def traced(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """Return a module as an ONNX file's content.

    Args:
        module: takes the inputs in order; it stays as it is.
        inputs: by name, examples of any length along their dynamic axes.
        outputs: names, in order.
        dynamic_axes: by name of an input or output, the axes that may be of any length, named.
    """
    copied = copy.deepcopy(module).cpu().eval()
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, _Attention(child))
    with (
        tempfile.TemporaryDirectory() as temporary,
        warnings.catch_warnings(),
        torch.inference_mode(),
    ):
        path = Path(temporary) / "model.onnx"
        # The tracing exporter announces its successor, which needs one more package and does not
        # know that a recurrent layer's batch may differ from the traced one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copied,
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic_axes.items()},
        )
        return path.read_bytes()


# --- integers ----------------------------------------------------------------------------------


def to_int8(
    floats: bytes, calibration: Sequence[np.ndarray] | Sequence[Mapping[str, np.ndarray]]
) -> bytes:
    """Return an exported network with its weights, and most of its arithmetic, in 8-bit integers.

    Args:
        floats: what `to_onnx` returned.
        calibration: features `(1, feature_frames, mels)` whose activations span the ranges, or all
            inputs by name.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter(calibration)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            item = next(self.items, None)
            return {INPUT: item} if isinstance(item, np.ndarray) else item

    model = onnx.load_from_string(floats)
    output = [node for node in model.graph.node if node.op_type in INTEGER_OPERATORS][-1]
    with tempfile.TemporaryDirectory() as temporary, _quiet():
        path = Path(temporary) / "model.onnx"
        quantization.quantize_static(
            model,
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(INTEGER_OPERATORS),
            nodes_to_exclude=[output.name],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(str(path))
    for node in list(model.graph.node):
        if node.op_type in RECURRENT_OPERATORS or node.name == output.name:
            _shrink_weights(model.graph, node)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about its own tools from the log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _shrink_weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Store an operator's weights in 8 bits, a scale for each output; it goes on using floats.

    ONNX Runtime has no integer form of recurrent layers, and scores in 256 steps would make close
    decisions at random.
    """
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    num_inputs = 3 if node.op_type in RECURRENT_OPERATORS else 2  # also those from the past
    axis = OUTPUT_AXES[node.op_type]
    for name in node.input[1:num_inputs]:
        weights = np.moveaxis(numpy_helper.to_array(stored[name]), axis, -1)
        scales = np.abs(weights).reshape(-1, weights.shape[-1]).max(axis=0) / INT8_MAX
        scales = np.where(scales > 0, scales, 1).astype(np.float32)  # (outputs,)
        integers = np.moveaxis(np.rint(weights / scales).astype(np.int8), -1, axis)
        graph.initializer.remove(stored[name])
        parts = {f"{name}.int8": np.ascontiguousarray(integers), f"{name}.scales": scales}
        graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in parts.items())
        graph.node.insert(0, helper.make_node("DequantizeLinear", [*parts], [name], axis=axis))
