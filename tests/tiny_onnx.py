"""CTC models as ONNX files, tiny and with random weights, made operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOKENS = ("<blank>", "|", "a", "b", "c")
HOP, WINDOW, WIDTH = 160, 200, 6
"""Samples from frame to frame, samples that one hears, and width of the hidden output."""


def write_onnx(
    path: Path,
    *,
    tokens: Sequence[str] = TOKENS,
    scores: str = "logits",
    lengths: str | None = None,
    samples: int | str = "samples",
    batch: int | str = "batch",
    pads: int = 0,
    hop: int = HOP,
    over_time: bool = False,
    stretch: float | None = None,
    max_frames: int | None = None,
    domain: str = "",
    seed: int = 0,
) -> Path:
    """Write a model and, beside it, tokens.txt; return the path of the model.

    Args:
        path: where to.
        tokens: the outputs.
        scores: `logits`, `log_probs` or `probabilities`.
        lengths: a second input, `lengths` `(batch,)` or `mask` `(batch, samples)`, by which
            waveforms are brought to a mean amplitude of 1; None: no such input.
        samples: size of axis 1.
        batch: size of axis 0.
        pads: zeros put at both ends of the audio.
        hop: samples from frame to frame.
        over_time: whether every frame depends on the whole, padding included.
        stretch: frames given for each frame heard; None: one.
        max_frames: more are cut off.
        domain: of an operator that is none of ONNX's.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    constants = {
        "filters": random.normal(0, 0.3, (WIDTH, 1, WINDOW)),
        "weights": random.normal(0, 2.0, (WIDTH, len(tokens))),
    }
    initialisers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    ]
    initialisers.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    inputs = [helper.make_tensor_value_info("audio", TensorProto.FLOAT, [batch, samples])]
    nodes = [helper.make_node("Abs", ["audio"], ["loudness"])]
    heard = "audio"
    if lengths is not None:
        shape = [batch] if lengths == "lengths" else [batch, samples]
        inputs.append(helper.make_tensor_value_info(lengths, TensorProto.INT64, shape))
        nodes.append(helper.make_node("Cast", [lengths], ["counted"], to=TensorProto.FLOAT))
        if lengths == "lengths":
            nodes.append(helper.make_node("Unsqueeze", ["counted", "one"], ["count"]))
        else:
            nodes.append(helper.make_node("ReduceSum", ["counted", "one"], ["count"]))
        nodes += [
            helper.make_node("ReduceSum", ["loudness", "one"], ["total"]),
            helper.make_node("Div", ["total", "count"], ["mean"]),
            helper.make_node("Div", ["audio", "mean"], ["level"]),
        ]
        heard = "level"
    nodes += [
        helper.make_node("Unsqueeze", [heard, "one"], ["channels"]),
        helper.make_node(
            "Conv", ["channels", "filters"], ["heard"], strides=[hop], pads=[pads, pads]
        ),
        helper.make_node("Tanh", ["heard"], ["bent"]),
        helper.make_node("Transpose", ["bent"], ["hidden"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["hidden", "weights"], ["plain"]),
    ]
    last = "plain"
    if stretch is not None:
        scales = np.array([1, stretch, 1], np.float32)
        initialisers.append(numpy_helper.from_array(scales, "scales"))
        nodes.append(helper.make_node("Resize", [last, "", "scales"], ["stretched"]))
        last = "stretched"
    if max_frames is not None:
        for name, value in (("start", 0), ("stop", max_frames)):
            initialisers.append(numpy_helper.from_array(np.array([value], np.int64), name))
        nodes.append(helper.make_node("Slice", [last, "start", "stop", "one"], ["cut"]))
        last = "cut"
    if over_time:
        nodes += [
            helper.make_node("ReduceMean", [last, "one"], ["average"]),
            helper.make_node("Sub", [last, "average"], ["centred"]),
        ]
        last = "centred"
    if domain:
        nodes.append(helper.make_node("Magic", [last], ["magic"], domain=domain))
        last = "magic"
    operator = {"logits": "Identity", "log_probs": "LogSoftmax", "probabilities": "Softmax"}[scores]
    options = {} if scores == "logits" else {"axis": 2}
    nodes.append(helper.make_node(operator, [last], ["scores"], **options))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, "frames", width])
        for name, width in (("scores", len(tokens)), ("hidden", WIDTH))
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initialisers)
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    (path.parent / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
    return path
