"""A pre-trained encoder, fine-tuned by CTC on the transcribed training split.

The output layer is new and has the corpus's tokens. Layers below it take smaller steps the deeper
they lie, and some of them none at all.

Sources: Baevski et al. (2020), "wav2vec 2.0", arXiv 2006.11477, for fine-tuning by CTC with frozen
convolutions and masked time and channels; Clark et al. (2020), "ELECTRA", arXiv 2003.10555, for
step sizes by layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from distillery.data.copies import copy_at, waveform_of
from distillery.data.features import pad
from distillery.data.manifest import PreparedData, labelled
from distillery.errors import ModelError
from distillery.files import Json, digest_of_file
from distillery.models.layers import Network
from distillery.params.teacher import BundleParams, FineTunedTeacherParams, PublishedModelParams
from distillery.params.training import SpecAugmentParams
from distillery.teachers import torchaudio_bundle, transformers_ctc
from distillery.teachers.adapting import warn_of_rate
from distillery.teachers.backend import TorchBackend
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.hearing import Hearing
from distillery.teachers.launch import fit
from distillery.teachers.pretrained import PretrainedTeacher
from distillery.teachers.published import (
    find_folder,
    import_transformers,
    read_config,
    weight_files,
)
from distillery.teachers.token_map import TokenMap, TokenTable
from distillery.teachers.torchaudio_bundle import TorchaudioBackend
from distillery.teachers.transformers_ctc import TransformersBackend
from distillery.teachers.weights import fit_state, read_state
from distillery.training.alignment import FixedClock, Texts, check_teacher
from distillery.training.batches import TrainingSet
from distillery.training.curves import Curves, Validation, run_digest
from distillery.training.objective import TranscriptObjective
from distillery.training.processes import Processes
from distillery.training.spec_augment import spec_augment
from distillery.training.trainer import Trainer

SECTION = "teacher.base"
CTC_CLASSES = {
    "Wav2Vec2Model": "Wav2Vec2ForCTC",
    "Wav2Vec2ForPreTraining": "Wav2Vec2ForCTC",
    "Wav2Vec2ForCTC": "Wav2Vec2ForCTC",
    "HubertModel": "HubertForCTC",
    "HubertForCTC": "HubertForCTC",
    "WavLMModel": "WavLMForCTC",
    "WavLMForCTC": "WavLMForCTC",
}
"""By the class that a published configuration names, the one that its encoder is trained in."""
NO_MASKS = SpecAugmentParams(num_time_masks=0, num_frequency_masks=0)
"""Of the trainer: the network has its own."""
NO_ENCODER = rf"lm_head\..*|{transformers_ctc.UNUSED}"
"""Tensors of published models that fine-tuning does without."""


@dataclass(frozen=True)
class Base:
    """A pre-trained model with a new output layer, not trained yet."""

    kind: str
    """Of teacher that the result is saved as; its code loads it."""
    backend: TorchBackend
    source: Json
    """Where it comes from, with digests of its weights."""


class FineTunedNetwork(Network):
    """A pre-trained model as the trainer wants it: waveforms in, scores and lengths out.

    Features are waveforms as the model hears them, `(batch, samples, 1)`. Convolutions hear every
    utterance alone, for group norm averages over padding; the layers above mask it.
    """

    may_leave_layers_out = True  # LayerDrop does, and what only pre-training masks with

    def __init__(
        self,
        backend: TorchBackend,
        params: FineTunedTeacherParams,
    ) -> None:
        """Freeze what the settings say.

        Args:
            backend: the model.
            params: what is frozen, how step sizes fall, and the masks.

        Raises:
            ModelError: more layers are to be frozen than there are.
        """
        super().__init__()
        if params.frozen.layers > len(backend.blocks):
            raise ModelError(
                f"teacher.frozen.layers: {params.frozen.layers}, the base has "
                f"{len(backend.blocks)} layers; expected at most so many"
            )
        self.backend = backend
        self.module = backend.module
        self.time_reduction = backend.samples_per_frame
        self.layer_decay = params.layer_decay
        self.masks: SpecAugmentParams = params.training.specaugment
        frozen = self.levels()[: 1 + params.frozen.layers] if params.frozen.layers else []
        for parameter in [p for level in frozen for p in level]:
            parameter.requires_grad_(False)
        backend.extractor.requires_grad_(not params.frozen.extractor)

    def levels(self) -> list[list[nn.Parameter]]:
        """Return all parameters: those beneath the layers, those of each layer, those above."""
        layers = [list(block.parameters()) for block in self.backend.blocks]
        above = [p for module in self.backend.above for p in module.parameters()]
        known = {id(p) for level in [*layers, above] for p in level}
        beneath = [p for p in self.module.parameters() if id(p) not in known]
        return [beneath, *layers, above]

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return what is trained, from below; each level has a smaller share than the next one."""
        levels = self.levels()
        shares = [self.layer_decay**depth for depth in reversed(range(len(levels)))]
        trained = [[p for p in level if p.requires_grad] for level in levels]
        return [(share, level) for share, level in zip(shares, trained, strict=True) if level]

    def train(self, mode: bool = True) -> FineTunedNetwork:
        """Switch to training or back; batch norms keep the statistics of pre-training."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, vocab)` and their lengths `(batch,)`."""
        trained = any(p.requires_grad for p in self.backend.extractor.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            alone = [
                self.backend.convolve(waveform[None, :length, 0])[0]
                for waveform, length in zip(features, lengths.tolist(), strict=True)
            ]
        convolved, counts = pad(alone)  # (batch, frames, channels), (batch,)
        if self.training:
            convolved = spec_augment(convolved, counts, self.masks)
        if self.backend.masks_frames:
            scores = self.backend.encode(convolved, counts.to(convolved.device))
        else:
            rows = zip(convolved, counts.tolist(), strict=True)
            scores, _ = pad([self.backend.encode(row[None, :n], None)[0] for row, n in rows])
        return scores, counts.to(scores.device)


@dataclass(frozen=True)
class HeardWaveforms:
    """Prepared utterances as a model hears them, made anew whenever they are read."""

    teacher: PretrainedTeacher
    data: PreparedData
    rows: pd.DataFrame
    """Of the manifest, copies at another speed among them."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_frames(self) -> np.ndarray:
        """Samples of each utterance at the model's rate `(utterances,)`, but for rounding."""
        seconds = self.rows["duration_seconds"].to_numpy()
        counts: np.ndarray = np.ceil(seconds * self.teacher.backend.sample_rate_hz)
        return counts.astype(np.int64)

    @cached_property
    def _listed(self) -> list[Any]:
        return list(self.rows.itertuples())

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance `(samples, 1)`, float32."""
        waveform = torch.from_numpy(waveform_of(self.data, self._listed[row]))
        return self.teacher.hear(waveform)[:, None].numpy()


def fine_tune_teacher(params: FineTunedTeacherParams, place: Workplace) -> ReadyTeacher:
    """Fine-tune an encoder, or go on where a killed run stopped; it has its best epoch's weights.

    Raises:
        CorpusError: there are no transcripts to learn from, or none to validate with, or too many
            need more frames than it has.
        ModelError: the base has no encoder, is not here and cannot be fetched, is damaged or does
            not fit the settings; or an utterance is longer than it takes.
    """
    tuning = _tuning(params, place, Processes.wanted(place.num_processes))
    fit(tuning.trainer, partial(_trainer, params, place.to_travel()))
    tuning.trainer.network.to("cpu")
    return ReadyTeacher(tuning.teacher, tuning.trainer.checkpoint, tuning.source)


@dataclass(frozen=True)
class _Tuning:
    """A training of a published encoder, and what it makes."""

    trainer: Trainer
    teacher: PretrainedTeacher
    """With the network that is trained."""
    source: Json
    """Of the base."""


def _trainer(params: FineTunedTeacherParams, place: Workplace, processes: Processes) -> Trainer:
    return _tuning(params, place, processes).trainer


def _tuning(params: FineTunedTeacherParams, place: Workplace, processes: Processes) -> _Tuning:
    """Return the training, for one of the processes that do it."""
    data, vocabulary, training = place.data, place.data.vocabulary, params.training
    rows, held_out = labelled(data, "train"), labelled(data, "valid")
    played = [rows, *(copy_at(rows, speed, data.sample_rate_hz) for speed in params.speed_factors)]
    for heard in [*played, held_out]:
        _check_lengths(heard, params.longest_seconds)
    base = BASES[params.base.kind](params.base, place, TokenTable(vocabulary.tokens, 0))
    backend = base.backend
    teacher = PretrainedTeacher(
        base.kind,
        backend,
        vocabulary,
        data.sample_rate_hz,
        Hearing(params.chunk_seconds, params.context_seconds, params.longest_seconds),
        TokenMap(vocabulary, tuple((index,) for index in range(len(vocabulary))), ()),
    )
    warn_of_rate(backend.sample_rate_hz, data.sample_rate_hz)
    clock = FixedClock(data.sample_rate_hz, backend.samples_per_frame / backend.sample_rate_hz)
    texts = Texts.transcripts(pd.concat(played), vocabulary, data.sample_rate_hz)
    check_teacher(texts, clock, training)
    torch.manual_seed(training.seed)
    backend.output.reset_parameters()
    network = FineTunedNetwork(backend, params)

    def heard_set(parts: list[pd.DataFrame], labels: list[list[int] | None]) -> TrainingSet:
        copies = [HeardWaveforms(teacher, data, part) for part in parts]
        second = backend.sample_rate_hz
        return TrainingSet(copies, labels, 1 / second, training.batch_seconds, training.seed)

    keys = [*rows["audio_key"], *rows["text"]]
    digest = run_digest(
        "teacher", params.model_dump(), base.source, vocabulary.tokens, keys, *data.unit_if_unusual
    )
    trainer = Trainer(
        network,
        heard_set(played, [vocabulary.encode(text) for text in rows["text"]]),
        TranscriptObjective(),
        Validation(
            heard_set([held_out], [None] * len(held_out)),
            list(held_out["text"]),
            vocabulary,
            data.unit_of("valid"),
        ),
        training.model_copy(update={"specaugment": NO_MASKS}),
        place.scratch / f"teacher-{digest}.pt",
        Curves(processes.curves(place.curves), place.earlier, place.prefix),
        "teacher",
        checkpoint_seconds=place.checkpoint_seconds,
        processes=processes,
    )
    return _Tuning(trainer, teacher, base.source)


def _check_lengths(rows: pd.DataFrame, longest_seconds: float) -> None:
    longest = rows.sort_values("duration_seconds").iloc[-1]
    if longest["duration_seconds"] > longest_seconds:
        raise ModelError(
            f"utterance {longest['utterance_id']!r}: {longest['duration_seconds']:.1f} s of audio, "
            f"training takes it whole, up to {longest_seconds:g} s; set teacher.longest_seconds "
            "higher where memory allows, or prepare.max_duration_seconds lower"
        )


def _from_bundle(params: BundleParams, place: Workplace, table: TokenTable) -> Base:
    bundle = torchaudio_bundle.find_encoder(params.bundle)
    path = torchaudio_bundle.find_weights(bundle, params, place.root, SECTION)
    architecture = torchaudio_bundle.architecture_of(bundle, len(table.tokens))
    backend = TorchaudioBackend.build(architecture, table)
    new = {name: backend.module.state_dict()[name] for name in torchaudio_bundle.OUTPUT}
    fit_state(backend.module, {**read_state(path), **new}, path)
    source = {"bundle": params.bundle, "weights": path.name, "sha256": digest_of_file(path)}
    return Base(torchaudio_bundle.KIND, backend, source)


def _from_model(params: PublishedModelParams, place: Workplace, table: TokenTable) -> Base:
    import_transformers()
    folder = find_folder(params, place.root, SECTION)
    config, model_class = read_config(folder, CTC_CLASSES)
    if model_class not in CTC_CLASSES:
        raise ModelError(
            f"{SECTION}.model: {params.model!r} is a {model_class}, expected an encoder of one of "
            f"{', '.join(CTC_CLASSES)}"
        )
    tokens = {"vocab_size": len(table.tokens), "pad_token_id": table.blank}
    architecture = transformers_ctc.architecture_of(
        folder, {**config, **tokens}, CTC_CLASSES[model_class]
    )
    backend = transformers_ctc.build_published(folder, architecture, table)
    paths = weight_files(folder)
    state = {name: value for path in paths for name, value in read_state(path).items()}
    encoder = dict(_of_encoder(state, backend))
    fit_state(backend.base, encoder, paths[0], optional=transformers_ctc.UNUSED)
    files = {path.name: digest_of_file(path) for path in paths}
    source = {"model": params.model, "model_class": model_class, "files": files}
    return Base(transformers_ctc.KIND, backend, source)


def _of_encoder(
    state: Mapping[str, Tensor], backend: TransformersBackend
) -> Iterator[tuple[str, Tensor]]:
    """Yield the encoder's tensors, which have a prefix where a model has more than the encoder."""
    expected = backend.base.state_dict()
    prefix = f"{backend.base.base_model_prefix}."
    for name, value in state.items():
        short = name.removeprefix(prefix)
        if short in expected or not re.fullmatch(NO_ENCODER, short):
            yield short, value


BASES: Mapping[str, Callable[[Any, Workplace, TokenTable], Base]] = {
    torchaudio_bundle.KIND: _from_bundle,
    transformers_ctc.KIND: _from_model,
}
"""By teacher.base.kind."""
