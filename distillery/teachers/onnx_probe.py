"""What an ONNX file takes and gives, found by its shapes and by running it on noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.errors import ModelError
from distillery.params.teacher import OnnxTeacherParams
from distillery.teachers.hearing import num_frames
from distillery.teachers.onnx_backend import FLOATS, INTEGERS, OnnxArchitecture, OnnxBackend

SUM_TOLERANCE = 1e-2  # of probabilities in half precision
PADDING_TOLERANCE = 1e-3
CHECKED_SECONDS = (0.73, 1.31, 2.09)


def find_names(file: Path, session: Any, params: OnnxTeacherParams) -> OnnxArchitecture:
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
    return OnnxArchitecture(
        input=waveform,
        lengths=rest[0] if rest else None,
        output=scores,
        hidden=dict(params.hidden_outputs),
        scores=params.scores,
        widths={},
    )


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
        outputs = [names.output, *names.hidden.values()]
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
    _check_scores(backend, scores)
    backend.samples_per_frame, backend.window_samples = _frames_of(frames, rate, file)
    widths = {}
    for name, values in zip(names.hidden, hidden, strict=True):
        if values.ndim != 3 or values.shape[:2] != scores.shape[:2]:
            raise ModelError(
                f"{file}: output {names.hidden[name]!r} has shape {tuple(values.shape)}, "
                f"expected (1, {scores.shape[1]}, width), frames as the scores have them"
            )
        widths[name] = values.shape[2]
    backend.architecture = replace(names, widths=widths)
    for seconds in CHECKED_SECONDS:
        num_samples = round(seconds * rate)
        found, expected = frames(num_samples), num_frames(num_samples, backend)
        if found - expected not in (0, 1):
            raise ModelError(
                f"{file}: gives {found} frames for {num_samples} samples, expected {expected} with "
                f"one every {backend.samples_per_frame} samples; its frames must be evenly spaced"
            )
    if names.scores == "auto":
        sums = scores.sum(dim=-1)
        is_mass = bool((scores >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
        kind = "probabilities" if is_mass else "logits"
        backend.architecture = replace(backend.architecture, scores=kind)
    backend.masks_padding = names.lengths is not None and _ignores_padding(backend, noise)


def _check_scores(backend: OnnxBackend, scores: Tensor) -> None:
    """Make sure that one utterance's scores are one number a token, `(1, frames, tokens)`."""
    num_tokens = len(backend.table.tokens)
    if scores.ndim != 3 or scores.shape[0] != 1 or scores.shape[2] != num_tokens:
        raise ModelError(
            f"{backend.file}: output {backend.architecture.output!r} has shape "
            f"{tuple(scores.shape)} for one utterance, expected (1, frames, {num_tokens}), for "
            f"teacher.tokens holds {num_tokens} tokens; they are another model's, or its axes are "
            "in another order"
        )


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
    short, output = len(noise) // 4, [backend.architecture.output]
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
