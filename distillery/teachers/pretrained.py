"""A CTC model that somebody else trained, as a teacher.

A `Backend` is the model alone: waveforms at its own rate in, scores over its own tokens out. All
that lies between it and the corpus is here, the same for every kind of model, and part of the
teacher's configuration, hence of its fingerprint: resampling, normalisation, the cutting of long
audio, the map from its tokens to the corpus's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor, nn

from distillery.data.features import pad
from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import write_json
from distillery.models.decoding import confidence, greedy_text
from distillery.models.recogniser import (
    CONFIG_FILE,
    TOKENS_FILE,
    WEIGHTS_FILE,
    Outputs,
    digest_of_weights,
    save_weights,
)
from distillery.params.whole import PretrainedTeacherParams
from distillery.teachers.base import ReadyTeacher, Workplace, check_layers, check_rate
from distillery.teachers.token_map import NoMap, TokenMap, TokenTable, match_tokens, texts_of
from distillery.teachers.weights import fit_state, read_state

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MASS_UTTERANCES = 256
"""At most so many validation utterances tell how much mass dropped tokens have."""
MUCH_DROPPED = 1e-2
"""Mean mass a frame, above which dropped tokens are worth a warning."""
BATCH_UTTERANCES = 8
SEARCH = {"num_hypotheses": 1, "beam_size": 1}
"""Settings that change nothing where frames are given: `cache` searches texts in those."""

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """A CTC model as published, without anything of ours."""

    table: TokenTable
    """Its own tokens."""
    sample_rate_hz: int
    """Of the audio that it was trained on."""
    samples_per_frame: int
    """Distance between the starts of its frames, in samples."""
    window_samples: int
    """What the first frame's convolutions hear, in samples; less gives no frame at all."""
    variance_floor: float | None
    """Waveforms are brought to zero mean and unit variance, with this added to the variance; None:
    they are taken as they are."""
    masks_padding: bool
    """Whether a batch's padding changes no output. If not, every utterance is heard alone."""

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden layers that it can give; `last` is what the output layer reads."""

    @property
    def num_parameters(self) -> int:
        """Parameters."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""

    @property
    def config(self) -> dict[str, Any]:
        """What `load` of its kind builds it from, in JSON, beside the weights; no paths."""

    def forward(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores `(batch, frames, tokens)` and hidden states `(batch, frames, width)`.

        Args:
            waveforms: `(batch, samples)`, zeros behind the ends.
            lengths: `(batch,)` in samples; all equal where `masks_padding` is false.
            layers: hidden layers wanted, of `layer_widths`.
        """

    def save_weights(self, folder: Path) -> None:
        """Write the weights into an existing folder; equal models give equal bytes."""


@dataclass
class TorchBackend:
    """A backend whose model is a PyTorch module; subclasses say where its layers are."""

    module: nn.Module
    table: TokenTable
    sample_rate_hz: int
    samples_per_frame: int
    window_samples: int
    variance_floor: float | None
    masks_padding: bool
    architecture: dict[str, Any]
    """What it is built from."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's layers, each giving `(batch, frames, width)`, or a tuple that begins so."""
        raise NotImplementedError

    @property
    def output(self) -> nn.Linear:
        """The output layer."""
        raise NotImplementedError

    def scores(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`; without lengths nothing is masked."""
        raise NotImplementedError

    @property
    def above(self) -> Sequence[nn.Module]:
        """What lies above the layers, the output layer included; the rest lies beneath them."""
        raise NotImplementedError

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over the waveform."""
        raise NotImplementedError

    @property
    def masks_frames(self) -> bool:
        """Whether `encode` can tell padding from frames."""
        raise NotImplementedError

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return what the convolutions give `(batch, frames, channels)`."""
        raise NotImplementedError

    def encode(self, convolved: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)` of what `convolve` gives.

        Args:
            convolved: `(batch, frames, channels)`, any padding behind.
            lengths: `(batch,)` in frames; None: nothing is padding.
        """
        raise NotImplementedError

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Every encoder layer, and what the output layer reads."""
        width = self.output.in_features
        return {**{f"layers.{i}": width for i in range(len(self.blocks))}, "last": width}

    @property
    def num_parameters(self) -> int:
        """Parameters."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""
        return digest_of_weights(self.module)

    @property
    def config(self) -> dict[str, Any]:
        """What the module is built from."""
        return self.architecture

    def save_weights(self, folder: Path) -> None:
        """Write the weights."""
        save_weights(self.module, folder)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores and hidden states."""
        alone = bool((lengths == waveforms.shape[1]).all())
        with self._recording(layers) as hidden:
            scores = self.scores(waveforms, None if alone else lengths)
        return scores, hidden

    @contextmanager
    def _recording(self, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        hidden: dict[str, Tensor] = {}
        hooks = []
        for name in layers:
            if name == "last":
                hooks.append(self.output.register_forward_pre_hook(_keep_input(hidden)))
            else:
                block = self.blocks[int(name.removeprefix("layers."))]
                hooks.append(block.register_forward_hook(_keep_output(hidden, name)))
        try:
            yield hidden
        finally:
            for hook in hooks:
                hook.remove()


def _keep_input(hidden: dict[str, Tensor]) -> Callable[..., None]:
    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden["last"] = inputs[0]

    return keep


def _keep_output(hidden: dict[str, Tensor], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden[name] = output if isinstance(output, Tensor) else output[0]

    return keep


@dataclass(frozen=True)
class Piece:
    """A stretch of one utterance that the model hears at once, and the frames that are kept."""

    row: int
    start: int
    """First sample."""
    stop: int
    """Sample behind the last one."""
    skip: int
    """Frames of context in front, thrown away."""
    keep: int
    """Frames kept; those behind them are context, too."""


@dataclass(frozen=True)
class Hearing:
    """How long audio is cut, and how texts are searched."""

    chunk_seconds: float | None
    context_seconds: float
    longest_seconds: float
    num_hypotheses: int
    beam_size: int

    @classmethod
    def of(cls, params: PretrainedTeacherParams) -> Hearing:
        """Return what settings say."""
        return cls(**{name: getattr(params, name) for name in cls.__dataclass_fields__})


def plan_pieces(row: int, num_samples: int, backend: Backend, hearing: Hearing) -> list[Piece]:
    """Return the pieces of one utterance; together they keep each of its frames once.

    Pieces start at whole frames, so that their frames lie where those of the whole would.

    Args:
        row: its place in the batch.
        num_samples: its length at the model's rate.
        backend: for the distance between frames and what each hears.
        hearing: how long pieces and their context are.
    """
    hop, window = backend.samples_per_frame, backend.window_samples
    frames = num_frames(num_samples, backend)
    rate = backend.sample_rate_hz
    size = frames
    if hearing.chunk_seconds is not None:
        size = max(1, round(hearing.chunk_seconds * rate / hop))
    if frames <= size:
        return [Piece(row, 0, num_samples, 0, frames)]
    context = round(hearing.context_seconds * rate / hop)
    pieces = []
    for first in range(0, frames, size):
        last = min(first + size, frames)
        begin, end = max(0, first - context), min(frames, last + context)
        stop = num_samples if end == frames else (end - 1) * hop + window
        pieces.append(Piece(row, begin * hop, stop, first - begin, last - first))
    return pieces


def num_frames(num_samples: int, backend: Backend) -> int:
    """Return the frames that so many samples at the model's rate give."""
    return max(0, (num_samples - backend.window_samples) // backend.samples_per_frame + 1)


@dataclass
class PretrainedTeacher:
    """A backend and everything between it and the corpus; see `Teacher`."""

    kind: str
    backend: Backend
    vocabulary: Vocabulary
    sample_rate_hz: int
    hearing: Hearing
    token_map: TokenMap | None
    """None: its tokens are none of the corpus's, so it gives texts and hidden states alone."""
    device: str = "cpu"

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one output frame to the next, in seconds."""
        return self.backend.samples_per_frame / self.backend.sample_rate_hz

    @property
    def num_parameters(self) -> int:
        """Parameters."""
        return self.backend.num_parameters

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden layers that it can give."""
        return self.backend.layer_widths

    @property
    def gives_frames(self) -> bool:
        """Whether its tokens could be mapped."""
        return self.token_map is not None

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""
        return self.backend.weights_digest

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json holds."""
        backend, token_map = self.backend, self.token_map
        return {
            "kind": self.kind,
            "architecture": backend.config,
            "sample_rate_hz": self.sample_rate_hz,
            "model": {
                "sample_rate_hz": backend.sample_rate_hz,
                "samples_per_frame": backend.samples_per_frame,
                "window_samples": backend.window_samples,
                "variance_floor": backend.variance_floor,
                "masks_padding": backend.masks_padding,
            },
            "tokens": list(backend.table.tokens),
            "blank": backend.table.blank,
            "token_map": None
            if token_map is None
            else {
                "groups": [list(group) for group in token_map.groups],
                "dropped": list(token_map.dropped),
            },
            "hearing": {
                name: value
                for name, value in asdict(self.hearing).items()
                if token_map is None or name not in SEARCH
            },
        }

    @classmethod
    def restore(
        cls, folder: Path, config: Mapping[str, Any], backend: Backend, device: str
    ) -> PretrainedTeacher:
        """Return a saved teacher, its backend already loaded.

        Args:
            folder: where it was saved.
            config: of its config.json.
            backend: built of `config`.
            device: where it is to run.

        Raises:
            ModelError: tokens.txt is missing, or does not fit config.json.
            KeyError: an entry of `config` is missing.
        """
        vocabulary, saved = Vocabulary.load(folder / TOKENS_FILE), config["token_map"]
        token_map = None
        if saved is not None:
            token_map = TokenMap(
                vocabulary, tuple(map(tuple, saved["groups"])), tuple(saved["dropped"])
            )
            if len(token_map.groups) != len(vocabulary):
                raise ModelError(
                    f"{folder / CONFIG_FILE}: maps {len(token_map.groups)} tokens, {TOKENS_FILE} "
                    f"holds {len(vocabulary)}; run make teacher"
                )
        return cls(
            config["kind"],
            backend,
            vocabulary,
            config["sample_rate_hz"],
            Hearing(**{**SEARCH, **config["hearing"]}),
            token_map,
            device,
        )

    def save(self, folder: Path) -> None:
        """Write config.json, the weights and tokens.txt; the folder needs no other file."""
        self.backend.save_weights(folder)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio has the rate of the corpus that the teacher was prepared for.

        Raises:
            ModelError: it has another.
        """
        check_rate(self.sample_rate_hz, sample_rate_hz)

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return waveforms at the model's rate `(batch, samples)` and their lengths `(batch,)`.

        Args:
            waveforms: float32 audio in [-1, 1) at `sample_rate_hz`, each `(samples,)`.

        Raises:
            ModelError: one is longer than the model takes at once, and long audio is not cut.
        """
        return pad([self.hear(torch.from_numpy(waveform)) for waveform in waveforms])

    def hear(self, waveform: Tensor) -> Tensor:
        """Return one waveform `(samples,)` as the model hears it, at the model's rate.

        Raises:
            ModelError: it is longer than the model takes at once, and long audio is not cut.
        """
        seconds, hearing = len(waveform) / self.sample_rate_hz, self.hearing
        if hearing.chunk_seconds is None and seconds > hearing.longest_seconds:
            raise ModelError(
                f"teacher: audio of {seconds:.1f} s, it takes {hearing.longest_seconds:g} s at "
                "once; set teacher.chunk_seconds to cut it, teacher.longest_seconds higher where "
                "memory allows, or prepare.max_duration_seconds lower"
            )
        backend = self.backend
        waveform = resampled(waveform, self.sample_rate_hz, backend.sample_rate_hz)
        if backend.variance_floor is not None:
            centred = waveform - waveform.mean()
            variance = centred.square().mean()
            waveform = centred / torch.sqrt(variance + backend.variance_floor)
        # Silence behind the end: n samples give n // samples_per_frame frames, one at least, as
        # students have them; convolutions without padding would give up to two less.
        missing = backend.window_samples - min(backend.samples_per_frame, len(waveform))
        return nn.functional.pad(waveform, (0, missing))

    @torch.inference_mode()
    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return what the model says about one batch.

        Args:
            inputs: waveforms at the model's rate `(batch, samples)`.
            lengths: `(batch,)`.
            layers: hidden layers wanted.
            precision: arithmetic: fp32, bf16 or fp16.

        Raises:
            ModelError: it has no such layer.
        """
        check_layers(self, layers)
        scores, hidden = self._run(inputs, lengths, layers, precision)
        own = [item.float().log_softmax(dim=-1) for item in scores]
        counts = [len(item) for item in own]
        states = {
            name: pad([item.float().cpu() for item in items])[0].numpy()
            for name, items in hidden.items()
        }
        if self.token_map is not None:
            log_probs = pad([self.token_map.apply(item).cpu() for item in own])[0].numpy()
            return Outputs(log_probs, counts, states)
        arrays = [item.cpu().numpy() for item in own]
        hearing, table = self.hearing, self.backend.table
        texts = [
            texts_of(item, table, self.vocabulary, hearing.num_hypotheses, hearing.beam_size)
            for item in arrays
        ]
        return Outputs(None, counts, states, texts, [confidence(item) for item in arrays])

    def own_log_probs(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Return log-probabilities `(frames, tokens)` over the model's own tokens."""
        with torch.inference_mode():
            scores, _ = self._run(*self.extract(waveforms), (), "fp32")
        return [item.float().log_softmax(dim=-1).cpu() for item in scores]

    def _run(
        self, inputs: Tensor, lengths: Tensor, layers: Sequence[str], precision: str
    ) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Return scores and hidden states `(frames, …)` of each utterance."""
        pieces = [
            piece
            for row, length in enumerate(lengths.tolist())
            for piece in plan_pieces(row, length, self.backend, self.hearing)
        ]
        together = self.backend.masks_padding and len(pieces) == len(lengths)
        groups = [pieces] if together else [[piece] for piece in pieces]
        scores: list[list[Tensor]] = [[] for _ in lengths]
        hidden: dict[str, list[list[Tensor]]] = {name: [[] for _ in lengths] for name in layers}
        dtype = DTYPES[precision]
        for group in groups:
            batch, sizes = pad([inputs[p.row, p.start : p.stop] for p in group])
            batch, sizes = batch.to(self.device), sizes.to(self.device)
            with torch.autocast(batch.device.type, dtype, enabled=dtype is not None):
                said, states = self.backend.forward(batch, sizes, layers)
            _check_finite({"scores": said, **states}, precision)
            for place, piece in enumerate(group):
                kept = slice(piece.skip, piece.skip + piece.keep)
                scores[piece.row].append(said[place, kept])
                for name, values in states.items():
                    hidden[name][piece.row].append(values[place, kept])
        return (
            [torch.cat(parts) for parts in scores],
            {name: [torch.cat(parts) for parts in rows] for name, rows in hidden.items()},
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, spelt as the corpus is."""
        outputs = self.forward(*self.extract(waveforms))
        if outputs.hypotheses is not None:
            return [items[0][0] for items in outputs.hypotheses]
        return [greedy_text(item, self.vocabulary) for item in outputs.items]


def load_saved(
    folder: Path, device: str, build: Callable[[Mapping[str, Any], TokenTable], TorchBackend]
) -> PretrainedTeacher:
    """Load a saved teacher; neither the network nor the original files are needed.

    Args:
        folder: as `PretrainedTeacher.save` left it.
        device: where it is to run.
        build: makes the backend, its weights random, of its configuration and its tokens.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
        table = TokenTable(tuple(config["tokens"]), config["blank"])
        backend = build(config["architecture"], table)
        teacher = PretrainedTeacher.restore(folder, config, backend, device)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: cannot be used: {error!r}; run make teacher") from None
    fit_state(backend.module, read_state(weights), weights)
    backend.module.to(device)
    return teacher


def _check_finite(values: Mapping[str, Tensor], precision: str) -> None:
    for name, tensor in values.items():
        if not bool(tensor.isfinite().all()):
            what = name if name == "scores" else f"layer {name!r}"
            raise ModelError(
                f"teacher: {what} are NaN or infinite in arithmetic {precision}, expected numbers; "
                + (
                    "its weights are damaged, or it is another model's configuration"
                    if precision == "fp32"
                    else "set cache.precision to fp32"
                )
            )


def resampled(waveform: Tensor, rate_hz: int, target_hz: int) -> Tensor:
    """Return float samples `(samples,)` at another rate."""
    if rate_hz == target_hz:
        return waveform
    changed: Tensor = _resampler(rate_hz, target_hz)(waveform)
    return changed


@lru_cache(maxsize=4)
def _resampler(rate_hz: int, target_hz: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate_hz, target_hz)


def adapt(
    kind: str,
    backend: Backend,
    params: PretrainedTeacherParams,
    place: Workplace,
    source: Mapping[str, Any],
) -> ReadyTeacher:
    """Return a backend as a teacher of the prepared corpus, and say what that costs.

    Args:
        kind: as the settings call it.
        backend: the model.
        params: its settings.
        place: for the corpus's tokens, transcripts and rate.
        source: where the model comes from, for source.json.
    """
    data = place.data
    found = match_tokens(backend.table, data.vocabulary, data.frame["text"].dropna())
    token_map = found if isinstance(found, TokenMap) else None
    teacher = PretrainedTeacher(
        kind,
        backend,
        data.vocabulary if token_map is None else token_map.vocabulary,
        data.sample_rate_hz,
        Hearing.of(params),
        token_map,
    )
    warn_of_rate(backend.sample_rate_hz, data.sample_rate_hz)
    if isinstance(found, NoMap):
        logger.warning(
            "teacher: no frames for students, %s; what works are its texts (sequence) and its "
            "hidden states (hidden), so frame.weight must be 0",
            found.reason,
        )
        return ReadyTeacher(teacher, source={**source, "tokens": found.reason})
    mass = dropped_mass(teacher, found, data)
    return ReadyTeacher(teacher, source={**source, **mass})


def warn_of_rate(model_hz: int, data_hz: int) -> None:
    if data_hz < model_hz:
        logger.warning(
            "teacher: made for %d Hz, the corpus has %d Hz and is resampled: nothing above %d Hz "
            "is there, which speech of the teacher's training had, so expect a higher WER than "
            "published; compare it with the validation WER, or take a teacher made for %d Hz",
            model_hz,
            data_hz,
            data_hz // 2,
            data_hz,
        )


def dropped_mass(
    teacher: PretrainedTeacher, token_map: TokenMap, data: PreparedData
) -> dict[str, Any]:
    """Return what students never learn of a teacher: the mass of tokens that the corpus lacks.

    Args:
        teacher: the teacher.
        token_map: its tokens' map.
        data: prepared data; their validation split is heard.

    Returns:
        `dropped_tokens`; mean and largest mass a frame as `dropped_mass_mean` and
        `dropped_mass_max`, null where no token was dropped.
    """
    names = [teacher.backend.table.tokens[index] for index in token_map.dropped]
    if not names or data.split("valid").empty:
        return {"dropped_tokens": names, "dropped_mass_mean": None, "dropped_mass_max": None}
    masses = torch.cat(
        [
            token_map.dropped_mass(item)
            for waveforms in _sample(data)
            for item in teacher.own_log_probs(waveforms)
        ]
    )
    mean, largest = float(masses.mean()), float(masses.max())
    logger.log(
        logging.WARNING if mean > MUCH_DROPPED else logging.INFO,
        "teacher: %d of its tokens (%s) are none of the corpus's and were dropped; they had %.2g "
        "of a frame's probability on average, at most %.2g%s",
        len(names),
        ", ".join(names[:8]),
        mean,
        largest,
        "; that much of it students cannot learn, see prepare.alphabet"
        if mean > MUCH_DROPPED
        else "",
    )
    return {"dropped_tokens": names, "dropped_mass_mean": mean, "dropped_mass_max": largest}


def _sample(data: PreparedData) -> Iterator[list[np.ndarray]]:
    rows: pd.DataFrame = data.split("valid").sort_values("audio_key")[:MASS_UTTERANCES]
    listed = list(rows.sort_values(["num_samples", "audio_key"]).itertuples())
    for start in range(0, len(listed), BATCH_UTTERANCES):
        yield [data.waveform(row) for row in listed[start : start + BATCH_UTTERANCES]]
