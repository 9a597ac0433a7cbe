"""A CTC model in an ONNX file as the teacher, run by onnxruntime.

The file takes waveforms `(batch, samples)`, and lengths or a mask if it wants them, and gives
`(batch, frames, tokens)`: logits, log-probabilities or probabilities. Distance and reach of its
frames are found by running it. The saved teacher holds the file itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from distillery.models.recogniser import CONFIG_FILE
from distillery.params.whole import OnnxTeacherParams
from distillery.teachers.base import ReadyTeacher, Teacher, Workplace
from distillery.teachers.pretrained import PretrainedTeacher, adapt, num_frames
from distillery.teachers.token_map import TokenTable

KIND = "onnx"
MODEL_FILE = "onnx/model.onnx"
"""Where a saved teacher has the file; its external data lie beside it."""
KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operators that onnxruntime brings along."""
VARIANCE_FLOOR = 1e-7
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
SUM_TOLERANCE = 1e-2  # of probabilities in half precision
PADDING_TOLERANCE = 1e-3
CHECKED_SECONDS = (0.73, 1.31, 2.09)


@dataclass
class OnnxBackend:
    """An ONNX file in a running session; see `Backend`."""

    file: Path
    session: Any
    table: TokenTable
    sample_rate_hz: int
    variance_floor: float | None
    architecture: dict[str, Any]
    """Names of inputs and outputs, what the scores are, and the widths of hidden outputs."""
    samples_per_frame: int = 1
    window_samples: int = 1
    masks_padding: bool = False

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden outputs."""
        return dict(self.architecture["widths"])

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
    def config(self) -> dict[str, Any]:
        """What the session is made with."""
        return self.architecture

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
        hidden = [names["hidden"][layer] for layer in layers]
        scores, *states = self._run(waveforms, lengths, [names["output"], *hidden])
        if names["scores"] == "probabilities":
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
        waves = waveforms.cpu().numpy().astype(FLOATS[kinds[names["input"]].type])
        feed = {names["input"]: waves}
        if names["lengths"] is not None:
            wanted = kinds[names["lengths"]]
            values = lengths.cpu().numpy()
            if len(wanted.shape) == 2:
                values = np.arange(waves.shape[1]) < values[:, None]
            feed[names["lengths"]] = values.astype(INTEGERS[wanted.type])
        found = self.session.run(list(outputs), feed)
        return [torch.from_numpy(np.ascontiguousarray(item, np.float32)) for item in found]


def take_onnx(params: OnnxTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return the model in an ONNX file as the teacher.

    Raises:
        ModelError: a file is missing or damaged, needs code or data that it does not bring, takes
            or gives something else than expected, or its tokens are another model's.
    """
    file = place.root / params.model
    table = read_table(place.root / params.tokens, params.blank)
    session = open_session(file, "cpu")
    names = find_names(file, session, params)
    backend = OnnxBackend(
        file,
        session,
        table,
        params.sample_rate_hz,
        VARIANCE_FLOOR if params.normalise else None,
        {"type": KIND, **names, "scores": params.scores, "widths": {}},
    )
    measure(backend)
    source = {
        "model": params.model,
        "sha256": digest_of_file(file),
        "tokens_sha256": digest_of_file(place.root / params.tokens),
    }
    return adapt(KIND, backend, params, place, source)


def load(folder: Path, device: str) -> Teacher:
    """Load a saved teacher of this kind.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
        heard = config["model"]
        backend = OnnxBackend(
            folder / MODEL_FILE,
            open_session(folder / MODEL_FILE, device),
            TokenTable(tuple(config["tokens"]), config["blank"]),
            heard["sample_rate_hz"],
            heard["variance_floor"],
            config["architecture"],
            heard["samples_per_frame"],
            heard["window_samples"],
            heard["masks_padding"],
        )
        return PretrainedTeacher.restore(folder, config, backend, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be used: {error!r}; run make teacher") from None


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
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [item for item in [*wanted, "CPUExecutionProvider"] if item in available]
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


def find_names(file: Path, session: Any, params: OnnxTeacherParams) -> dict[str, Any]:
    """Return the names of waveform and length inputs, of scores and of hidden outputs.

    Raises:
        ModelError: there is none, or several and none is named, or it has another shape.
    """
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    waveform = _pick(file, "input", params.input, inputs, lambda item: item.type in FLOATS)
    shape = inputs[waveform].shape
    if len(shape) != 2:
        raise ModelError(
            f"{file}: input {waveform!r} has shape {shape}, expected (batch, samples); a model of "
            "features must be exported together with what makes them"
        )
    if isinstance(shape[1], int):
        raise ModelError(
            f"{file}: input {waveform!r} takes exactly {shape[1]} samples, expected any number; "
            "export it with a dynamic axis 1"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(
            f"{file}: input {waveform!r} takes exactly {shape[0]} utterances, expected any number "
            "or one; export it with a dynamic axis 0"
        )
    rest = [name for name in inputs if name != waveform]
    if len(rest) > 1 or any(inputs[name].type not in INTEGERS for name in rest):
        kinds = ", ".join(f"{name} {inputs[name].type}" for name in rest)
        raise ModelError(
            f"{file}: wants further inputs ({kinds}), expected none, or integer lengths `(batch,)` "
            "or a mask `(batch, samples)`; export it without them"
        )
    if missing := sorted(set(params.hidden_outputs.values()) - set(outputs)):
        raise ModelError(
            f"teacher.hidden_outputs: {file.name} has no output {missing[0]!r}, expected some of "
            f"{sorted(outputs)}"
        )
    candidates = {k: v for k, v in outputs.items() if k not in params.hidden_outputs.values()}
    scores = _pick(file, "output", params.output, candidates, lambda item: len(item.shape) == 3)
    return {
        "input": waveform,
        "lengths": rest[0] if rest else None,
        "output": scores,
        "hidden": dict(params.hidden_outputs),
    }


def _pick(
    file: Path, what: str, name: str | None, items: Mapping[str, Any], fits: Callable[[Any], bool]
) -> str:
    """Return the item that is named, or the only one that fits."""
    if name is not None:
        if name not in items:
            raise ModelError(
                f"teacher.{what}: {file.name} has no {what} {name!r}, expected one of "
                f"{sorted(items)}"
            )
        return name
    fitting = [key for key, item in items.items() if fits(item)]
    if len(fitting) != 1:
        shapes = ", ".join(f"{key} {item.type}{item.shape}" for key, item in items.items())
        wanted = (
            "float waveforms (batch, samples)" if what == "input" else "(batch, frames, tokens)"
        )
        raise ModelError(
            f"{file}: {len(fitting)} {what}s could be the {wanted}, expected one, of {shapes}; "
            f"name it in teacher.{what}"
        )
    return fitting[0]


def measure(backend: OnnxBackend) -> None:
    """Run a model to find its frames, widths, kind of scores and whether it masks padding.

    Frames are counted for lengths found by bisection: the shortest that give n frames and those
    that give m lie exactly m - n frame shifts apart.

    Raises:
        ModelError: it cannot be run, its output has not one number a token, or its frames do not
            follow one another evenly.
    """
    file, rate, names = backend.file, backend.sample_rate_hz, backend.architecture
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 4 * rate).astype(np.float32))

    def run(num_samples: int) -> list[Tensor]:
        outputs = [names["output"], *names["hidden"].values()]
        return backend._run(noise[None, :num_samples], torch.tensor([num_samples]), outputs)

    def frames(num_samples: int) -> int:
        try:
            return run(num_samples)[0].shape[1]
        except Exception:  # too short for its convolutions
            return 0

    try:
        scores, *hidden = run(2 * rate)
    except Exception as error:  # onnxruntime's have no base of their own
        raise ModelError(
            f"{file}: cannot be run on 2 s of audio: {str(error).strip()[:300]}; export it with "
            "dynamic axes, and check teacher.sample_rate_hz"
        ) from None
    num_tokens = len(backend.table.tokens)
    if scores.ndim != 3 or scores.shape[0] != 1 or scores.shape[2] != num_tokens:
        raise ModelError(
            f"{file}: output {names['output']!r} has shape {tuple(scores.shape)} for one "
            f"utterance, expected (1, frames, {num_tokens}), for teacher.tokens holds {num_tokens} "
            "tokens; they are another model's, or its axes are in another order"
        )
    backend.samples_per_frame, backend.window_samples = _frames_of(frames, rate, file)
    for name, values in zip(names["hidden"], hidden, strict=True):
        if values.ndim != 3 or values.shape[:2] != scores.shape[:2]:
            raise ModelError(
                f"{file}: output {names['hidden'][name]!r} has shape {tuple(values.shape)}, "
                f"expected (1, {scores.shape[1]}, width), frames as the scores have them"
            )
        names["widths"][name] = values.shape[2]
    for seconds in CHECKED_SECONDS:
        num_samples = round(seconds * rate)
        found, expected = frames(num_samples), num_frames(num_samples, backend)
        if found - expected not in (0, 1):
            raise ModelError(
                f"{file}: gives {found} frames for {num_samples} samples, expected {expected} with "
                f"one every {backend.samples_per_frame} samples; its frames must be evenly spaced"
            )
    if names["scores"] == "auto":
        sums = scores.sum(dim=-1)
        is_mass = bool((scores >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
        names["scores"] = "probabilities" if is_mass else "logits"
    backend.masks_padding = names["lengths"] is not None and _ignores_padding(backend, noise)


def _frames_of(frames: Callable[[int], int], rate: int, file: Path) -> tuple[int, int]:
    """Return the samples from one frame to the next, and those that the first one needs."""
    first, second = frames(rate), frames(2 * rate)
    if not 0 < first < second:
        raise ModelError(
            f"{file}: gives {first} frames for 1 s and {second} for 2 s of audio, expected more "
            "for more; export it with dynamic axes, and check teacher.sample_rate_hz"
        )
    shortest = [_shortest(frames, first, rate), _shortest(frames, second, 2 * rate)]
    hop, rest = divmod(shortest[1] - shortest[0], second - first)
    if rest:
        raise ModelError(
            f"{file}: {first} frames need {shortest[0]} samples and {second} need {shortest[1]}, "
            "expected a whole number of samples from frame to frame; its frames must be evenly "
            "spaced"
        )
    # A model that pads its input gives a frame for less than a shift of audio; that last one is
    # left out.
    return hop, max(hop, shortest[0] - (first - 1) * hop)


def _shortest(frames: Callable[[int], int], wanted: int, enough: int) -> int:
    """Return the fewest samples that give so many frames, by bisection."""
    too_few = 0
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if frames(middle) >= wanted:
            enough = middle
        else:
            too_few = middle
    return enough


def _ignores_padding(backend: OnnxBackend, noise: Tensor) -> bool:
    """Return whether an utterance gives the same alone and beside a longer one."""
    short, output = len(noise) // 4, [backend.architecture["output"]]
    batch = torch.stack([noise[: 2 * short], noise[: 2 * short]])
    batch[0, short:] = 0
    lengths = torch.tensor([short, 2 * short])
    try:
        (together,) = backend._run(batch, lengths, output)
    except Exception:  # one utterance at a time
        return False
    (alone,) = backend._run(noise[None, :short], lengths[:1], output)
    kept = num_frames(short, backend)
    return torch.allclose(together[0, :kept], alone[0, :kept], atol=PADDING_TOLERANCE)


def read_table(path: Path, blank: int | str) -> TokenTable:
    """Return the tokens of a model.

    Args:
        path: one token a line, in the order of the outputs; lines of token and index; or JSON,
            an object from token to index.
        blank: the CTC blank, its index or the token.

    Raises:
        ModelError: it is missing or no such file, or has no such blank.
    """
    try:
        text = path.read_text("utf-8")
        tokens = _tokens_of(text, path.suffix == ".json")
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; set teacher.tokens to the model's tokens"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: cannot be read ({error}); expected one token a line, or JSON that gives "
            "every token an index, from 0 on without gaps"
        ) from None
    index = tokens.index(blank) if blank in tokens else blank
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise ModelError(
            f"teacher.blank: {blank!r}, but {path.name} holds {len(tokens)} tokens, such as "
            f"{', '.join(map(repr, tokens[:4]))}; give the blank's index or its token"
        )
    return TokenTable(tokens, index)


def _tokens_of(text: str, is_json: bool) -> tuple[str, ...]:
    if not is_json:
        lines = text.splitlines()
        numbered = [re.fullmatch(r"(\S+)[ \t]+(\d+)", line) for line in lines]
        if not lines or not all(numbered):
            return tuple(lines)
        indices = {match[1]: int(match[2]) for match in numbered if match}
    else:
        indices = {str(token): int(index) for token, index in json.loads(text).items()}
    by_index = {index: token for token, index in indices.items()}
    return tuple(by_index[index] for index in range(len(indices)))
