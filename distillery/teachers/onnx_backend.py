"""A CTC model in an ONNX file, run by onnxruntime; see `Backend`.

A file with foreign operators, or with data outside its folder, is refused.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from distillery.errors import ModelError
from distillery.files import digest_of_file
from distillery.teachers.backend import Published
from distillery.teachers.token_map import TokenTable

MODEL_FILE = "onnx/model.onnx"
"""Where a saved teacher has the file; its external data lie beside it."""
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operators that onnxruntime brings along."""
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


@dataclass(frozen=True)
class OnnxArchitecture:
    """What a file's inputs and outputs are, by their names in it."""

    input: str
    """The waveforms."""
    lengths: str | None
    """Their lengths or mask, if the file wants them."""
    output: str
    """The scores."""
    hidden: Mapping[str, str]
    """Hidden outputs by what the settings call them."""
    scores: str
    """logits, log_probs or probabilities; auto until a run has told."""
    widths: Mapping[str, int]
    """Of the hidden outputs; a run tells."""
    type: str = "onnx"


@dataclass
class OnnxBackend:
    """An ONNX file in a running session; see `Backend`."""

    file: Path
    session: Any
    table: TokenTable
    sample_rate_hz: int
    variance_floor: float | None
    architecture: OnnxArchitecture
    samples_per_frame: int = 1
    window_samples: int = 1
    masks_padding: bool = False

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden outputs."""
        return self.architecture.widths

    @cached_property
    def num_parameters(self) -> int:
        """Numbers in the file's floating-point tensors."""
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        tensors = onnx.load(self.file, load_external_data=False).graph.initializer
        return sum(math.prod(item.dims) for item in tensors if item.data_type in floats)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over the file and its external data."""
        digests = [digest_of_file(self.file)]
        digests += [f"{name} {digest_of_file(self.file.parent / name)}" for name in self._data]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def config(self) -> Published:
        """What the session is made with."""
        return asdict(self.architecture)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores `(batch, frames, tokens)` and hidden states `(batch, frames, width)`.

        Raises:
            ModelError: other arithmetic than the file's own is wanted.
        """
        if torch.is_autocast_enabled(waveforms.device.type):
            raise ModelError(
                "cache.precision: an ONNX file computes in the precision that it was exported in; "
                "set it to fp32"
            )
        names = self.architecture
        hidden = [names.hidden[layer] for layer in layers]
        scores, *states = self._run(waveforms, lengths, [names.output, *hidden])
        if names.scores == "probabilities":
            scores = scores.clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores, dict(zip(layers, states, strict=True))

    def save_weights(self, folder: Path) -> None:
        """Copy the file and its external data into an existing folder."""
        target = folder / MODEL_FILE
        for name in (None, *self._data):
            copy = target if name is None else target.parent / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file if name is None else self.file.parent / name, copy)

    @cached_property
    def _data(self) -> list[str]:
        return external_files(onnx.load(self.file, load_external_data=False))

    def _run(self, waveforms: Tensor, lengths: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        """Return outputs as float32 tensors."""
        names = self.architecture
        kinds = {item.name: item for item in self.session.get_inputs()}
        waves = waveforms.cpu().numpy().astype(FLOATS[kinds[names.input].type])
        feed = {names.input: waves}
        if names.lengths is not None:
            wanted = kinds[names.lengths]
            values = lengths.cpu().numpy()
            if len(wanted.shape) == 2:
                values = np.arange(waves.shape[1]) < values[:, None]
            feed[names.lengths] = values.astype(INTEGERS[wanted.type])
        found = self.session.run(list(outputs), feed)
        return [torch.from_numpy(np.ascontiguousarray(item, np.float32)) for item in found]


def open_session(file: Path, device: str) -> Any:
    """Return a session of a file that brings all that it needs, with as many threads as torch has.

    Raises:
        ModelError: it is missing, damaged, or needs foreign operators or data.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file; set teacher.model to the path of an .onnx file")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's, which onnx does not name
        raise ModelError(
            f"{file}: cannot be read as ONNX ({str(error).strip()[:120]}); it was cut short or "
            "damaged, copy or export it again"
        ) from None
    check_operators(file, model)
    check_data(file, model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    place = torch.device(device)
    wanted: list[tuple[str, dict[str, int]]] = [("CPUExecutionProvider", {})]
    if place.type == "cuda":
        wanted.insert(0, ("CUDAExecutionProvider", {"device_id": place.index or 0}))
    providers = [item for item in wanted if item[0] in available]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's have no base of their own
        raise ModelError(
            f"{file}: onnxruntime {onnxruntime.__version__} cannot open it: "
            f"{str(error).strip()[:300]}; export it again, or for an older opset"
        ) from None


def check_operators(file: Path, model: Any) -> None:
    """Make sure that a model needs no operators but onnxruntime's and its own functions.

    Raises:
        ModelError: it does.
    """
    imports = [*model.opset_import, *(item for f in model.functions for item in f.opset_import)]
    own = {function.domain for function in model.functions}
    foreign = sorted({item.domain for item in imports} - own - set(KNOWN_DOMAINS))
    if foreign:
        raise ModelError(
            f"{file}: refused: it uses operators of {', '.join(map(repr, foreign))}, which are "
            "code from elsewhere that would have to be loaded with it; export the model with "
            "standard operators"
        )


def external_files(model: Any) -> list[str]:
    """Return the files that hold tensors of a model, as it names them."""
    return sorted(
        {
            entry.value
            for tensor in _tensors(model)
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )


def check_data(file: Path, model: Any) -> None:
    """Make sure that a model's external data lie in its own folder.

    Raises:
        ModelError: a file lies elsewhere, or is not there.
    """
    folder = file.parent.resolve()
    for name in external_files(model):
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise ModelError(
                f"{file}: refused: its tensors lie in {name!r}, outside its own folder, so it "
                "could read any file here; save the model in one piece, or with its data beside it"
            )
        if not path.is_file():
            raise ModelError(f"{path}: no such file, but {file.name} has tensors there; copy both")


def _tensors(model: Any) -> list[Any]:
    """Return the tensors of a model, those of sub-graphs and functions included."""
    found, graphs = [], [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            found += list(graph.initializer)
            nodes += list(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            found += [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return found
