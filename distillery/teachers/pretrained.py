"""A CTC model that somebody else trained, as a teacher.

A `Backend` is the model alone: waveforms at its own rate in, scores over its own tokens out. All
that lies between it and the corpus is here, the same for every kind of model, and part of the
teacher's configuration, hence of its fingerprint: resampling, normalisation, the cutting of long
audio, the map from its tokens to the corpus's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distillery.data.features import pad
from distillery.data.subwords import load_vocabulary
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, read_json, write_json
from distillery.models.base import check_layers, check_rate
from distillery.models.decoding import confidence, greedy_text
from distillery.models.recogniser import (
    CONFIG_FILE,
    TOKENS_FILE,
    WEIGHTS_FILE,
    Outputs,
)
from distillery.teachers.backend import DTYPES, Backend, Published, TorchBackend
from distillery.teachers.hearing import Hearing, plan_pieces, resampled
from distillery.teachers.token_map import TokenMap, TokenTable, texts_of
from distillery.teachers.weights import fit_state, read_state

SEARCH = ("num_hypotheses", "beam_size")
"""What changes nothing of `Hearing` where frames of characters are given: `cache` searches texts in
those."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedModel:
    """What config.json says of a backend; see `Backend`."""

    sample_rate_hz: int
    samples_per_frame: int
    window_samples: int
    variance_floor: float | None
    masks_padding: bool


@dataclass(frozen=True)
class SavedMap:
    """What config.json says of the map from a model's tokens to the corpus's; see `TokenMap`."""

    groups: Sequence[Sequence[int]]
    dropped: Sequence[int]


@dataclass(frozen=True)
class SavedTeacher:
    """What config.json of a pre-trained teacher holds."""

    kind: str
    """Of teacher; its file loads it."""
    architecture: Published
    """What the backend is built from."""
    sample_rate_hz: int
    """Of the corpus that it was prepared for."""
    model: SavedModel
    tokens: Sequence[str]
    """The model's own."""
    blank: int
    """Index of the CTC blank among them."""
    token_map: SavedMap | None
    """None: its tokens are none of the corpus's."""
    hearing: Hearing


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

    @property
    def _searches(self) -> bool:
        """Whether it finds its texts itself, over its own tokens: a text in subwords can be cut in
        several ways, which only the sequences that were found tell."""
        return self.token_map is None or not self.vocabulary.is_of_characters

    @cached_property
    def config(self) -> Json:
        """What config.json holds, see `SavedTeacher`; settings that change nothing are left out."""
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
                if self._searches or name not in SEARCH
            },
        }

    @classmethod
    def restore(
        cls, folder: Path, saved: SavedTeacher, backend: Backend, device: str
    ) -> PretrainedTeacher:
        """Return a saved teacher, its backend already loaded.

        Args:
            folder: where it was saved.
            saved: its config.json.
            backend: built of that.
            device: where it is to run.

        Raises:
            ModelError: tokens.txt is missing, or does not fit config.json.
        """
        vocabulary, found = load_vocabulary(folder / TOKENS_FILE), saved.token_map
        token_map = None
        if found is not None:
            groups = tuple(tuple(group) for group in found.groups)
            token_map = TokenMap(vocabulary, groups, tuple(found.dropped))
            if len(token_map.groups) != len(vocabulary):
                raise ModelError(
                    f"{folder / CONFIG_FILE}: maps {len(token_map.groups)} tokens, {TOKENS_FILE} "
                    f"holds {len(vocabulary)}; run make teacher"
                )
        return cls(
            saved.kind,
            backend,
            vocabulary,
            saved.sample_rate_hz,
            saved.hearing,
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
        """Return what the model says about waveforms at its rate `(batch, samples)`; see `Teacher`.

        Raises:
            ModelError: it has no such layer, or the model's scores are no numbers.
        """
        check_layers(self, layers)
        scores, hidden = self._run(inputs, lengths, layers, precision)
        own = [item.float().log_softmax(dim=-1) for item in scores]
        counts = [len(item) for item in own]
        states = {
            name: pad([item.float().cpu() for item in items])[0].numpy()
            for name, items in hidden.items()
        }
        log_probs = None
        if self.token_map is not None:
            log_probs = pad([self.token_map.apply(item).cpu() for item in own])[0].numpy()
        if not self._searches:
            return Outputs(log_probs, counts, states)
        arrays = [item.cpu().numpy() for item in own]
        hearing, table = self.hearing, self.backend.table
        texts = [
            texts_of(item, table, self.vocabulary, hearing.num_hypotheses, hearing.beam_size)
            for item in arrays
        ]
        return Outputs(log_probs, counts, states, texts, [confidence(item) for item in arrays])

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
    folder: Path, device: str, build: Callable[[Published, TokenTable], TorchBackend]
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
        saved = read_json(path, SavedTeacher)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    try:
        backend = build(saved.architecture, TokenTable(tuple(saved.tokens), saved.blank))
        teacher = PretrainedTeacher.restore(folder, saved, backend, device)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
