"""A CTC bundle of torchaudio.pipelines as the teacher: wav2vec 2.0, HuBERT, VoxPopuli.

Sources: Baevski et al. (2020), "wav2vec 2.0", arXiv 2006.11477; Hsu et al. (2021), "HuBERT",
arXiv 2106.07447; Wang et al. (2021), "VoxPopuli", arXiv 2101.00390.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from distillery.errors import ModelError
from distillery.files import digest_of_file
from distillery.models.base import Teacher
from distillery.params.teacher import BundleParams, TorchaudioTeacherParams
from distillery.teachers.adapting import adapt
from distillery.teachers.backend import Published, TorchBackend, receptive_field
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.pretrained import load_saved
from distillery.teachers.token_map import TokenTable
from distillery.teachers.weights import download, fit_state, nearest, read_state

KIND = "torchaudio"
PUBLISHED_AT = "https://download.pytorch.org/torchaudio/models/"
VARIANCE_FLOOR = 1e-5  # of the layer norm that bundles with _normalize_waveform put in front
OUTPUT = ("aux.weight", "aux.bias")


class TorchaudioBackend(TorchBackend):
    """torchaudio's Wav2Vec2Model with an output layer."""

    @classmethod
    def build(cls, architecture: Published, table: TokenTable) -> TorchaudioBackend:
        """Return the model that `architecture` describes, its weights random.

        Args:
            architecture: `model_type`, `params` of its factory, `sample_rate_hz` and
                `normalise_waveform`.
            table: its tokens.
        """
        params, model_type = architecture["params"], architecture["model_type"]
        factory = {
            "Wav2Vec2": torchaudio.models.wav2vec2_model,
            "WavLM": torchaudio.models.wavlm_model,
        }
        module = factory[model_type](**params).eval()
        hop, window = receptive_field(params["extractor_conv_layer_config"])
        return cls(
            module,
            table,
            architecture["sample_rate_hz"],
            hop,
            window,
            VARIANCE_FLOOR if architecture["normalise_waveform"] else None,
            # Group norm averages over all of time, padding included; torchaudio's WavLM takes no
            # mask.
            params["extractor_mode"] == "layer_norm" and model_type != "WavLM",
            json.loads(json.dumps(architecture)),  # equal before and after it was saved
        )

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The Transformer's layers."""
        module: Any = self.module
        return list(module.encoder.transformer.layers)

    @property
    def output(self) -> nn.Linear:
        """The output layer."""
        output: Any = self.module.aux
        return output  # type: ignore[no-any-return]

    @property
    def above(self) -> Sequence[nn.Module]:
        """The output layer, and the norm below it where there is one."""
        module: Any = self.module
        transformer = module.encoder.transformer
        # Where this is true, torchaudio applies that norm beneath the layers.
        return (
            [self.output] if transformer.layer_norm_first else [transformer.layer_norm, self.output]
        )

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over the waveform."""
        module: Any = self.module
        return module.feature_extractor  # type: ignore[no-any-return]

    @property
    def masks_frames(self) -> bool:
        """Whether `encode` can tell padding from frames; torchaudio's WavLM cannot."""
        return bool(self.architecture["model_type"] != "WavLM")

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return what the convolutions give `(batch, frames, channels)`."""
        convolved: Tensor = self.extractor(waveforms, None)[0]
        return convolved

    def encode(self, convolved: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`."""
        module: Any = self.module
        scores: Tensor = self.output(module.encoder(convolved, lengths))
        return scores

    def scores(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`."""
        scores: Tensor = self.module(waveforms, lengths)[0]
        return scores


def take_bundle(params: TorchaudioTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return a bundle as the teacher, its weights from a local file or torchaudio's host.

    Raises:
        ModelError: there is no such bundle, it is no CTC model, or its weights are not here and
            cannot be fetched, are damaged or another model's.
    """
    bundle = find_bundle(params.bundle)
    path = find_weights(bundle, params, place.root, "teacher")
    labels, outputs = bundle.get_labels(), bundle._params["aux_num_out"]
    if len(labels) != outputs:
        raise ModelError(
            f"teacher: bundle {params.bundle}: has {len(labels)} labels for {outputs} outputs; "
            "name another"
        )
    table = TokenTable(tuple(labels), 0)
    backend = TorchaudioBackend.build(architecture_of(bundle, outputs), table)
    state = _without_unused(read_state(path), outputs, bundle._remove_aux_axis)
    fit_state(backend.module, state, path)
    source = {"bundle": params.bundle, "weights": path.name, "sha256": digest_of_file(path)}
    return adapt(KIND, backend, params, place, source)


def find_weights(bundle: Any, params: BundleParams, root: Path, section: str) -> Path:
    """Return a bundle's weight file: the one that the settings name, or torchaudio's, downloaded.

    Args:
        bundle: of torchaudio.pipelines.
        params: its settings.
        root: where file names start from.
        section: where those settings stand, for errors.

    Raises:
        ModelError: it is not here, and cannot be fetched.
    """
    if params.weights is not None:
        return root / params.weights
    # Underscored fields: the public get_model() downloads by itself and checks less.
    url = bundle._path if "://" in bundle._path else PUBLISHED_AT + bundle._path
    kept = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    what, instead = (
        f"{section}: bundle {params.bundle}",
        f"or set {section}.weights to where it lies",
    )
    return download(url, kept, what, instead)


def architecture_of(bundle: Any, num_outputs: int) -> Published:
    """Return what `TorchaudioBackend.build` makes a bundle's model of."""
    return {
        "model_type": bundle._model_type,
        "params": {**bundle._params, "aux_num_out": num_outputs},
        "sample_rate_hz": round(bundle.sample_rate),
        "normalise_waveform": bundle._normalize_waveform,
    }


def find_encoder(name: str) -> Any:
    """Return a bundle of torchaudio.pipelines whose model is an encoder, with outputs or without.

    Raises:
        ModelError: there is none of this name, or it has no encoder.
    """
    pipelines = torchaudio.pipelines
    found = getattr(pipelines, name, None)
    if isinstance(found, pipelines.Wav2Vec2Bundle):
        return found
    usable = [
        item
        for item in dir(pipelines)
        if isinstance(getattr(pipelines, item), pipelines.Wav2Vec2Bundle)
    ]
    what = f"teacher.base.bundle: {name!r}"
    if name.isupper() and found is not None:
        raise ModelError(
            f"{what} is a {type(found).__name__}, which has no encoder of waveforms; expected one "
            f"of {', '.join(usable)}"
        )
    raise ModelError(
        f"{what}: torchaudio {torchaudio.__version__} has no such bundle; {nearest(name, usable)}"
    )


def find_bundle(name: str) -> Any:
    """Return a CTC bundle of torchaudio.pipelines.

    Raises:
        ModelError: there is none of this name, or it is no CTC model.
    """
    pipelines = torchaudio.pipelines
    found = getattr(pipelines, name, None)
    usable = [item for item in dir(pipelines) if _is_ctc(getattr(pipelines, item))]
    if _is_ctc(found):
        return found
    what = f"teacher.bundle: {name!r}"
    if isinstance(found, pipelines.Wav2Vec2FABundle):
        reason = "aligns given texts and has no word boundary"
    elif isinstance(found, pipelines.Wav2Vec2Bundle):
        raise ModelError(
            f"{what} is an encoder without an output layer, which gives no text; set teacher.kind "
            "to fine_tuned to train one on your transcripts, or name a bundle with ASR in its name"
        )
    elif name.isupper() and found is not None:
        reason = f"is a {type(found).__name__}, no CTC recogniser"
    else:
        raise ModelError(
            f"{what}: torchaudio {torchaudio.__version__} has no such bundle; "
            f"{nearest(name, usable)}"
        )
    raise ModelError(f"{what} {reason}; expected one of {', '.join(usable)}")


def _is_ctc(found: object) -> bool:
    pipelines = torchaudio.pipelines
    return isinstance(found, pipelines.Wav2Vec2ASRBundle) and not isinstance(
        found, pipelines.Wav2Vec2FABundle
    )


def _without_unused(
    state: dict[str, Tensor], num_outputs: int, unused: Sequence[int]
) -> dict[str, Tensor]:
    """Return the state without the outputs that published files have and bundles cut off."""
    if "aux.bias" not in state or len(state["aux.bias"]) != num_outputs + len(unused):
        return state
    kept = [i for i in range(len(state["aux.bias"])) if i not in unused]
    return {name: value[kept] if name in OUTPUT else value for name, value in state.items()}


def load(folder: Path, device: str) -> Teacher:
    """Load a saved teacher of this kind.

    Raises:
        ModelError: a file is missing, damaged, or does not fit the others.
    """
    return load_saved(folder, device, TorchaudioBackend.build)
