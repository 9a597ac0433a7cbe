"""Whisper as a teacher: it hears 30 s at most and gives texts, no frames over the students' tokens.

Sources: Radford et al. (2022), "Robust speech recognition via large-scale weak supervision", arXiv
2212.04356; transformers' WhisperForConditionalGeneration, in the layout that it is published in.
Students learn its best texts (`sequence`) and the encoder's states (`hidden`).

The search is transformers' beam search, ranked as it ranks: by ln P over the number of tokens. The
scores handed on are plain ln P(tokens | audio), that of the end token included, those of the prompt
not, and what is barred has no part in them; texts that are one once spelt are one hypothesis, with
their probabilities added.

Whisper writes as it likes; then texts are spelt as the corpus is (spelt.py): `2611` becomes words
by the rule of the data. Where the settings say so (`bar`), tokens with letters or digits that
students have no token for are barred from the search instead, so that Whisper writes `twenty`, not
`20`, and sometimes what nobody said. What holds such a character nonetheless is no hypothesis; an
utterance that is left without one gets the empty text with confidence 0, which distill.filter
drops.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.data.manifest import PreparedData
from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, digest_of_file, read_json, write_json
from distillery.models.base import check_layers, check_rate
from distillery.models.recogniser import (
    CONFIG_FILE,
    TOKENS_FILE,
    WEIGHTS_FILE,
    Outputs,
    digest_of_weights,
    save_weights,
)
from distillery.params.teacher import TransformersTeacherParams
from distillery.teachers.adapting import warn_of_rate
from distillery.teachers.backend import DTYPES, Published
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.hearing import check_lengths, resampled
from distillery.teachers.published import (
    PASSING,
    import_transformers,
    read_published,
    weight_files,
)
from distillery.teachers.spelt import (
    check_english,
    check_language,
    default_language,
    spell_heard,
)
from distillery.teachers.weights import fit_state, read_state
from distillery.teachers.whisper_tokens import barred_tokens, digest_of_tokenizer, find_prompt

KIND = "whisper"
MODEL_CLASS = "WhisperForConditionalGeneration"
TOKENIZER = "tokenizer"
"""Folder of the tokenizer in transformers' layout, inside a saved teacher's."""
ENCODER_STRIDE = 2  # feature frames per encoder frame
EXTRACTOR = ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft", "dither")
TIED = ("proj_out.weight", "model.decoder.embed_tokens.weight")
"""One tensor under two names, of which files hold the second alone."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WhisperArchitecture:
    """What transformers builds the model from."""

    config: Published
    """As published, less what says nothing about the model."""
    model_class: str = MODEL_CLASS


@dataclass(frozen=True)
class WhisperSettings:
    """What config.json of a Whisper teacher holds."""

    architecture: WhisperArchitecture
    sample_rate_hz: int
    """Of the corpus that it was prepared for."""
    hears: Published
    """Settings of transformers' feature extractor."""
    prompt: Sequence[int]
    """Tokens that every text begins with."""
    suppress_tokens: Sequence[int]
    """Barred everywhere, as published."""
    begin_suppress_tokens: Sequence[int]
    """Barred at the beginning of a text, as published."""
    beam_size: int
    """Beams of the search, and texts that it gives."""
    tokenizer: str
    """SHA-256 of everything that the tokenizer does."""
    kind: str = KIND
    bar: bool = True
    """Whether what students cannot spell is barred from the search; so it was before there were
    rules of spelling."""
    spelling: SpellingRule | None = None
    """How numbers and letter strings become words; None: they do not."""

    @property
    def entries(self) -> Json:
        """What config.json holds; what was always so before is left out."""
        entries = asdict(self)
        if self.bar:
            del entries["bar"]
        if self.spelling is None:
            del entries["spelling"]
        return entries


def take_whisper(
    params: TransformersTeacherParams, place: Workplace, folder: Path, config: Published
) -> ReadyTeacher:
    """Return a Whisper model as the teacher.

    Args:
        params: where it is, and how it decodes.
        place: for the corpus's tokens and rate.
        folder: the model as published: config.json, generation_config.json,
            preprocessor_config.json, weights and tokenizer.
        config: what its config.json holds.

    Raises:
        ModelError: a file is missing or damaged, they do not fit one another, or the model does not
            know the language.
    """
    library = import_transformers()
    full = json.loads(library.WhisperConfig.from_dict(dict(config)).to_json_string(use_diff=False))
    hears = read_published(folder / "preprocessor_config.json")
    try:
        tokenizer = library.WhisperTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of several libraries; the files are somebody else's
        raise ModelError(
            f"{folder}: the tokenizer cannot be read: {str(error).strip()[:200]}; expected "
            "tokenizer.json, or vocab.json and merges.txt, as published"
        ) from None
    generation = read_published(folder / "generation_config.json")
    params = _with_language(params, place.data)
    settings = WhisperSettings(
        architecture=WhisperArchitecture(
            {name: value for name, value in full.items() if name not in PASSING}
        ),
        sample_rate_hz=place.data.sample_rate_hz,
        hears={name: hears[name] for name in EXTRACTOR if name in hears},
        prompt=find_prompt(folder, tokenizer, generation, params),
        suppress_tokens=generation.get("suppress_tokens") or [],
        begin_suppress_tokens=generation.get("begin_suppress_tokens") or [],
        beam_size=params.whisper.beam_size,
        tokenizer=digest_of_tokenizer(tokenizer),
        bar=params.whisper.bar,
        spelling=place.data.spelling,
    )
    _check_written(params, place.data, multilingual=generation.get("is_multilingual", False))
    module = build(settings.architecture, folder / CONFIG_FILE)
    paths = weight_files(folder)
    state = {name: value for path in paths for name, value in read_state(path).items()}
    fill(module, state, paths[0])
    teacher = WhisperTeacher(settings, module, tokenizer, place.data.vocabulary)
    warn_of_rate(teacher.model_rate_hz, place.data.sample_rate_hz)
    logger.warning(
        "teacher: Whisper gives texts and hidden states, no frames: what works is sequence and "
        "hidden, so frame.weight must be 0"
    )
    source = {
        "model": params.model,
        "model_class": MODEL_CLASS,
        "files": {path.name: digest_of_file(path) for path in paths},
    }
    return ReadyTeacher(teacher, source=source)


def _with_language(
    params: TransformersTeacherParams, data: PreparedData
) -> TransformersTeacherParams:
    """Return the settings with a language: their own, that of the data, or English."""
    own = params.whisper
    language = own.language or default_language(own.task, data) or "en"
    return params.model_copy(update={"whisper": own.model_copy(update={"language": language})})


def _check_written(
    params: TransformersTeacherParams, data: PreparedData, *, multilingual: bool
) -> None:
    """Make sure that the model writes in the language of the data.

    Raises:
        ModelError: it writes in another.
    """
    if not multilingual:
        return check_english(params.model, data)
    written = str(params.whisper.language) if params.whisper.task == "transcribe" else "en"
    return check_language(written, data.spelling, "teacher.whisper.language")


class WhisperTeacher:
    """A Whisper model with what turns its tokens into the corpus's texts."""

    def __init__(
        self,
        settings: WhisperSettings,
        module: Any,
        tokenizer: Any,
        vocabulary: Vocabulary,
        device: str = "cpu",
    ) -> None:
        """Put the parts together.

        Args:
            settings: what config.json is to hold.
            module: the model, with its weights.
            tokenizer: its tokenizer.
            vocabulary: the students' tokens.
            device: where it runs.

        Raises:
            ModelError: the tokenizer or the feature extractor is another model's.
        """
        self.settings = settings
        self.module, self.tokenizer, self.device = module.eval().to(device), tokenizer, device
        self.vocabulary = vocabulary
        self.sample_rate_hz = settings.sample_rate_hz
        self.extractor = import_transformers().WhisperFeatureExtractor(**settings.hears)
        self.model_rate_hz = int(self.extractor.sampling_rate)
        self.max_seconds = self.extractor.n_samples / self.model_rate_hz
        sizes = module.config
        heard = (self.extractor.feature_size, self.extractor.nb_max_frames)
        wanted = (sizes.num_mel_bins, ENCODER_STRIDE * sizes.max_source_positions)
        if heard != wanted:
            raise ModelError(
                f"teacher: preprocessor_config.json gives {heard[0]} mels x {heard[1]} frames, the "
                f"weights take {wanted[0]} x {wanted[1]}; take both from one model"
            )
        if len(tokenizer) > sizes.vocab_size:
            raise ModelError(
                f"teacher: the tokenizer has {len(tokenizer)} tokens, the weights "
                f"{sizes.vocab_size}; take both from one model"
            )
        self.prompt = list(settings.prompt)
        barred = barred_tokens(tokenizer, vocabulary) if settings.bar else []
        self.suppressed = sorted({*settings.suppress_tokens, *barred})
        self.spelling = settings.spelling or SpellingRule("keep", "keep")

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return self.settings.entries

    @property
    def gives_frames(self) -> bool:
        """Never: its tokens have no times."""
        return False

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one encoder frame to the next, in seconds."""
        return float(ENCODER_STRIDE * self.extractor.hop_length / self.model_rate_hz)

    @property
    def num_parameters(self) -> int:
        """Parameters, shared ones once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """The encoder's layers; `last` is what its last one gives, normalised."""
        sizes = self.module.config
        layers = [f"layers.{index}" for index in range(sizes.encoder_layers)]
        return dict.fromkeys([*layers, "last"], int(sizes.d_model))

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights and buffers."""
        return digest_of_weights(self.module)

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio has the rate of the corpus that the teacher was prepared for.

        Raises:
            ModelError: it has another.
        """
        check_rate(self.sample_rate_hz, sample_rate_hz)

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return features `(batch, mels, feature_frames)`, padded to 30 s, and lengths `(batch,)`.

        Raises:
            ModelError: one is longer than Whisper can take.
        """
        check_lengths(waveforms, self.sample_rate_hz, self.max_seconds)
        limit = self.extractor.n_samples  # resampling may round up
        features = self.extractor(
            [
                resampled(torch.from_numpy(item), self.sample_rate_hz, self.model_rate_hz).numpy()[
                    :limit
                ]
                for item in waveforms
            ],
            sampling_rate=self.model_rate_hz,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return features.input_features, features.attention_mask.sum(dim=-1)

    @torch.inference_mode()
    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return the best texts of features `(batch, mels, feature_frames)`, and encoder states.

        Raises:
            ModelError: there is no such layer, or the model's scores are no numbers.
        """
        check_layers(self, layers)
        dtype = DTYPES[precision]
        device = torch.device(self.device).type
        with torch.autocast(device, dtype, enabled=dtype is not None):
            encoded = self.module.model.encoder(
                inputs.to(self.device), output_hidden_states=bool(layers)
            )
            states = encoded.last_hidden_state  # (batch, frames, width)
            if not bool(states.isfinite().all()):
                raise ModelError(
                    f"teacher: states are NaN or infinite in arithmetic {precision}, expected "
                    "numbers; its weights are damaged, or cache.precision must be fp32"
                )
            sequences = self._search(states)  # (batch, hypotheses, tokens)
            heard = [self._rank(*pair) for pair in zip(states, sequences, strict=True)]
        num_frames = [-(-n // ENCODER_STRIDE) if layers else 0 for n in lengths.tolist()]
        return Outputs(
            None,
            num_frames,
            {name: _layer(encoded, name).float().cpu().numpy() for name in layers},
            [hypotheses for hypotheses, _ in heard],
            [confidence for _, confidence in heard],
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, spelt as the corpus is."""
        hypotheses = self.forward(*self.extract(waveforms)).hypotheses
        assert hypotheses is not None
        return [items[0][0] for items in hypotheses]

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; equal teachers give equal bytes."""
        save_weights(self.module, folder)
        self.tokenizer.save_pretrained(folder / TOKENIZER)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    def _search(self, states: Tensor) -> Tensor:
        """Return token sequences `(batch, hypotheses, tokens)`, best first, without the prompt.

        By the search that all of transformers' models share: Whisper's own gives the best text as
        often as texts are wanted.
        """
        import transformers
        from transformers.modeling_outputs import BaseModelOutput

        end, beams = self.module.config.eos_token_id, self.settings.beam_size
        library: Any = transformers  # whose types say less than is known here
        batch, frames, _ = states.shape
        tokens: Tensor = library.GenerationMixin.generate(
            self.module,
            generation_config=library.GenerationConfig(
                num_beams=beams,
                num_return_sequences=beams,
                do_sample=False,
                max_length=self.module.config.max_target_positions,
                eos_token_id=end,
                pad_token_id=end,
                decoder_start_token_id=self.prompt[0],
                suppress_tokens=self.suppressed or None,
                begin_suppress_tokens=list(self.settings.begin_suppress_tokens) or None,
            ),
            # a fresh holder: the search repeats what it holds, in place
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(batch, frames, dtype=torch.long, device=states.device),
            decoder_input_ids=torch.tensor([self.prompt] * batch, device=states.device),
        )
        return tokens[:, len(self.prompt) :].view(batch, beams, -1)

    def _rank(self, states: Tensor, sequences: Tensor) -> tuple[list[tuple[str, float]], float]:
        """Return an utterance's texts with ln P, best first, and the confidence in the best.

        One pass over whole sequences gives every token's probability; the search would have to keep
        the scores of all tokens of all steps.

        Args:
            states: of the encoder `(frames, width)`.
            sequences: `(hypotheses, tokens)`, padded with the end token.
        """
        end = self.module.config.eos_token_id
        prompt = torch.tensor([self.prompt], device=sequences.device).expand(len(sequences), -1)
        logits = self.module(
            encoder_outputs=(states[None].expand(len(sequences), -1, -1),),
            decoder_input_ids=torch.cat([prompt, sequences[:, :-1]], dim=1),
        ).logits[:, len(self.prompt) - 1 :]  # (hypotheses, tokens, vocab)
        logits[..., self.suppressed] = -torch.inf
        logits[:, 0, list(self.settings.begin_suppress_tokens)] = -torch.inf
        each = logits.float().log_softmax(dim=-1).gather(-1, sequences[..., None])[..., 0]
        is_end = (sequences == end).long()
        said = is_end.cumsum(dim=-1) - is_end == 0  # up to the first end token, that included
        totals = (each * said).sum(dim=-1)  # (hypotheses,)
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        heard = list(zip(texts, totals.tolist(), said.sum(dim=-1).tolist(), strict=True))
        return spell_heard(heard, self.spelling, self.vocabulary)


def _layer(encoded: Any, name: str) -> Tensor:
    """Return `(batch, frames, width)`; the first of transformers' states is the input."""
    index = int(name.removeprefix("layers.")) + 1 if name != "last" else -1
    states: Tensor = encoded.hidden_states[index]
    return states


def build(architecture: WhisperArchitecture, path: Path) -> Any:
    """Return the model that a configuration describes, its weights random.

    Raises:
        ModelError: the configuration describes none.
    """
    library = import_transformers()
    try:
        return library.WhisperForConditionalGeneration(
            library.WhisperConfig.from_dict(dict(architecture.config))
        )
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ModelError(f"{path}: describes no Whisper model: {error}") from None


def fill(module: Any, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a model its weights; they must fit, see `fit_state`."""
    tied, own = TIED
    extra = {tied: state[own]} if own in state else {}
    fit_state(module, {**extra, **state}, path)


def load(folder: Path, device: str) -> WhisperTeacher:
    """Load a saved teacher; neither the network nor the original folder is needed.

    Raises:
        ModelError: transformers or a file is missing, damaged, or does not fit the others.
    """
    library = import_transformers()
    path = folder / CONFIG_FILE
    try:
        settings = read_json(path, WhisperSettings)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    try:
        tokenizer = library.WhisperTokenizer.from_pretrained(
            folder / TOKENIZER, local_files_only=True
        )
        same = digest_of_tokenizer(tokenizer) == settings.tokenizer
    except Exception as error:  # of several libraries
        raise ModelError(
            f"{folder / TOKENIZER}: cannot be read: {str(error).strip()[:200]}; run make teacher"
        ) from None
    if not same:
        raise ModelError(f"{folder / TOKENIZER}: was changed since; run make teacher")
    module = build(settings.architecture, path)
    weights = folder / WEIGHTS_FILE
    fill(module, read_state(weights), weights)
    vocabulary = Vocabulary.load(folder / TOKENS_FILE)
    return WhisperTeacher(settings, module, tokenizer, vocabulary, device)
