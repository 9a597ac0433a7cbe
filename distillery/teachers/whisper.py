"""Whisper as a teacher: it hears 30 s at most and gives texts, no frames over the students' tokens.

Sources: Radford et al. (2022), "Robust speech recognition via large-scale weak supervision";
transformers' WhisperForConditionalGeneration, in the layout that it is published in. Students learn
its N best texts (`sequence`) and the encoder's states (`hidden`).

The search is transformers' beam search, ranked as it ranks: by ln P over the number of tokens. The
scores handed on are plain ln P(tokens | audio), that of the end token included, those of the prompt
not; texts that are one once normalised are one hypothesis, with their probabilities added.

Texts are spelt as the corpus is. Tokens with letters or digits that the students have no token for
are barred from the search, so that Whisper writes `twenty`, not `20`. What holds such a character
nonetheless, put together from several tokens, is no hypothesis; an utterance that is left without
one gets the empty text with confidence 0, which distill.filter drops.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchaudio.functional import resample

from distillery.errors import ModelError
from distillery.files import write_json
from distillery.params import WhisperParams
from distillery.recogniser import CONFIG_FILE, TOKENS_FILE, Outputs
from distillery.teacher_cache.shards import Hypothesis
from distillery.teachers.weights import digest_of_module
from distillery.text import Vocabulary, normalise
from distillery.token_map import case_of

KIND = "whisper"
FILES = "whisper"
"""Folder of the model in transformers' layout, inside a saved teacher's."""
ENCODER_STRIDE = 2  # feature frames per encoder frame


class WhisperTeacher:
    """A Whisper model with what turns its tokens into the corpus's texts."""

    gives_frames = False

    def __init__(
        self,
        folder: Path,
        params: WhisperParams,
        vocabulary: Vocabulary,
        sample_rate_hz: int,
        device: str = "cpu",
    ) -> None:
        """Load a model.

        Args:
            folder: holds config.json, model.safetensors, generation_config.json,
                preprocessor_config.json and the tokenizer, as published.
            params: how it decodes.
            vocabulary: the students' tokens.
            sample_rate_hz: of the audio that it will be given.
            device: where it runs.

        Raises:
            ModelError: a file is missing or damaged, they do not fit one another, or the model does
                not know the language.
        """
        self.folder, self.params, self.vocabulary = folder, params, vocabulary
        self.sample_rate_hz, self.device = sample_rate_hz, device
        self.model, self.tokenizer, self.extractor = _read(folder, device)
        self.model_rate_hz = int(self.extractor.sampling_rate)
        self.max_seconds = self.extractor.n_samples / self.model_rate_hz
        config = self.model.config
        heard = (self.extractor.feature_size, self.extractor.nb_max_frames)
        wanted = (config.num_mel_bins, ENCODER_STRIDE * config.max_source_positions)
        if heard != wanted:
            raise ModelError(
                f"{folder}: preprocessor_config.json gives {heard[0]} mels x {heard[1]} frames, "
                f"the weights hear {wanted[0]} x {wanted[1]}; take both from one model"
            )
        if len(self.tokenizer) > config.vocab_size:
            raise ModelError(
                f"{folder}: the tokenizer has {len(self.tokenizer)} tokens, the weights "
                f"{config.vocab_size}; take both from one model"
            )
        self.prompt = self._prompt()
        self.barred = barred_tokens(self.tokenizer, vocabulary)

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one encoder frame to the next, in seconds."""
        return float(ENCODER_STRIDE * self.extractor.hop_length / self.model_rate_hz)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, shared ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """The encoder's layers, `last` being its output."""
        config = self.model.config
        layers = [f"encoder.{index}" for index in range(config.encoder_layers)]
        return dict.fromkeys([*layers, "last"], int(config.d_model))

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all weights and buffers."""
        return digest_of_module(self.model)

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds."""
        config = self.model.config
        sizes = ("d_model", "encoder_layers", "decoder_layers", "vocab_size", "num_mel_bins")
        return {
            "kind": KIND,
            "architecture": {"type": KIND, **{name: getattr(config, name) for name in sizes}},
            "sample_rate_hz": self.sample_rate_hz,
            "model_rate_hz": self.model_rate_hz,
            "decoding": self.params.model_dump(),
            "tokenizer": hashlib.sha256(
                self.tokenizer.backend_tokenizer.to_str().encode()
            ).hexdigest(),
        }

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio of this rate is what was announced.

        Raises:
            ModelError: it is not.
        """
        if sample_rate_hz != self.sample_rate_hz:
            raise ModelError(
                f"teacher: made ready for audio of {self.sample_rate_hz} Hz, this has "
                f"{sample_rate_hz} Hz; run make teacher again"
            )

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return features `(batch, mels, feature_frames)`, padded to 30 s, and lengths `(batch,)`.

        Args:
            waveforms: float32 audio in [-1, 1) at `sample_rate_hz`, each `(samples,)`.

        Raises:
            ModelError: one is longer than Whisper can take.
        """
        for waveform in waveforms:
            seconds = len(waveform) / self.sample_rate_hz
            if seconds > self.max_seconds:
                raise ModelError(
                    f"teacher: an utterance lasts {seconds:.2f} s, Whisper hears at most "
                    f"{self.max_seconds:g} s at once; set prepare.max_duration_seconds to "
                    f"{self.max_seconds:g} or less, or cut the recordings"
                )
        heard = [
            resample(torch.from_numpy(item), self.sample_rate_hz, self.model_rate_hz).numpy()
            for item in waveforms
        ]
        limit = self.extractor.n_samples  # rounding may add a sample
        features = self.extractor(
            [item[:limit] for item in heard],
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
        """Return the N best texts of each utterance, and states of the encoder.

        Args:
            inputs: features `(batch, mels, feature_frames)`.
            lengths: real feature frames `(batch,)`.
            layers: hidden layers wanted, of `layer_widths`.
            precision: arithmetic: fp32, bf16 or fp16.

        Raises:
            ModelError: there is no such layer.
        """
        if unknown := [name for name in layers if name not in self.layer_widths]:
            raise ModelError(
                f"teacher: no layer {unknown[0]!r}, expected some of {list(self.layer_widths)}"
            )
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            encoded = self.model.model.encoder(
                inputs.to(self.device), output_hidden_states=bool(layers)
            )
            states = encoded.last_hidden_state  # (batch, frames, width)
            sequences = self._search(states)  # (batch, hypotheses, tokens)
            heard = [self._rank(*pair) for pair in zip(states, sequences, strict=True)]
        num_frames = [-(-n // ENCODER_STRIDE) if layers else 0 for n in lengths.tolist()]
        return Outputs(
            None,
            num_frames,
            {name: self._layer(encoded, name).float().cpu().numpy() for name in layers},
            [hypotheses for hypotheses, _ in heard],
            [confidence for _, confidence in heard],
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, spelt as the corpus is."""
        hypotheses = self.forward(*self.extract(waveforms)).hypotheses
        assert hypotheses is not None
        return [items[0].text for items in hypotheses]

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; equal teachers give equal bytes."""
        self.model.save_pretrained(folder / FILES, max_shard_size="1TB")
        self.tokenizer.save_pretrained(folder / FILES)
        self.extractor.save_pretrained(folder / FILES)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    def _prompt(self) -> list[int]:
        """Return what every text begins with: start, language and task, no time-stamps."""
        settings = self.model.generation_config
        wanted = []
        if getattr(settings, "is_multilingual", False):
            known = sorted(token[2:-2] for token in settings.lang_to_id)
            if self.params.language not in known:
                raise ModelError(
                    f"teacher.whisper.language: {self.params.language!r}, expected one of "
                    f"{', '.join(known)}"
                )
            wanted = [f"<|{self.params.language}|>", f"<|{self.params.task}|>"]
        wanted.append("<|notimestamps|>")
        tokens = self.tokenizer.convert_tokens_to_ids(wanted)
        unknown = self.tokenizer.unk_token_id
        if missing := [
            name for name, token in zip(wanted, tokens, strict=True) if token == unknown
        ]:
            raise ModelError(
                f"{self.folder}: the tokenizer has no token {missing[0]}, expected Whisper's; take "
                "it from the model's own folder"
            )
        return [self.model.config.decoder_start_token_id, *tokens]

    def _search(self, states: Tensor) -> Tensor:
        """Return token sequences `(batch, hypotheses, tokens)`, best first, without the prompt.

        The general search of transformers, as Whisper's own returns the best text N times.
        """
        from transformers import GenerationConfig
        from transformers.generation import GenerationMixin
        from transformers.modeling_outputs import BaseModelOutput

        published = self.model.generation_config
        end = self.model.config.eos_token_id
        config = GenerationConfig(
            num_beams=self.params.beam_size,
            num_return_sequences=self.params.beam_size,
            do_sample=False,
            max_length=self.model.config.max_target_positions,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=self.prompt[0],
            suppress_tokens=sorted({*(published.suppress_tokens or ()), *self.barred}) or None,
            begin_suppress_tokens=published.begin_suppress_tokens,
        )
        batch, frames, _ = states.shape
        tokens = GenerationMixin.generate(
            self.model,
            generation_config=config,
            # a fresh holder: the search repeats what it holds, in place
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(batch, frames, dtype=torch.long, device=states.device),
            decoder_input_ids=torch.tensor([self.prompt] * batch, device=states.device),
        )
        return tokens[:, len(self.prompt) :].unflatten(0, (batch, self.params.beam_size))

    def _rank(self, states: Tensor, sequences: Tensor) -> tuple[list[Hypothesis], float]:
        """Return an utterance's hypotheses, best first, and the confidence in the best.

        Args:
            states: of the encoder `(frames, width)`.
            sequences: `(hypotheses, tokens)`, padded with the end token.
        """
        end = self.model.config.eos_token_id
        prompt = torch.tensor([self.prompt], device=sequences.device).expand(len(sequences), -1)
        logits = self.model(
            encoder_outputs=(states[None].expand(len(sequences), -1, -1),),
            decoder_input_ids=torch.cat([prompt, sequences[:, :-1]], dim=1),
        ).logits[:, len(self.prompt) - 1 :]
        each = logits.float().log_softmax(dim=-1).gather(-1, sequences[..., None])[..., 0]
        is_end = (sequences == end).long()
        said = is_end.cumsum(dim=-1) - is_end == 0  # up to the first end token, that included
        totals = (each * said).sum(dim=-1)  # (hypotheses,)
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
        scores: dict[str, float] = {}
        confidence = 0.0
        for text, total, length in zip(texts, totals.tolist(), said.sum(-1).tolist(), strict=True):
            spelt = normalise(text, case_of(self.vocabulary))
            if self.vocabulary.unknown(spelt):
                continue
            if not scores:
                confidence = float(np.exp(total / length))
            scores[spelt] = float(np.logaddexp(scores.get(spelt, -np.inf), total))
        if not scores:
            return [Hypothesis("", float(totals.max()))], 0.0
        return [Hypothesis(text, score) for text, score in scores.items()], confidence

    def _layer(self, encoded: Any, name: str) -> Tensor:
        """Return `(batch, frames, width)`; the first of transformers' states is the input."""
        if name == "last":
            return encoded.last_hidden_state  # type: ignore[no-any-return]
        return encoded.hidden_states[1 + int(name.removeprefix("encoder."))]  # type: ignore[no-any-return]


def barred_tokens(tokenizer: Any, vocabulary: Vocabulary) -> list[int]:
    """Return the tokens with a letter, mark or digit that no token of the students spells.

    Pieces of a character's bytes are barred where the students have ASCII characters alone.
    """
    case = case_of(vocabulary)
    ascii_only = all(token.isascii() for token in vocabulary.tokens)
    special = set(tokenizer.all_special_ids)
    barred = []
    for index in range(len(tokenizer)):
        if index in special:
            continue
        text = unicodedata.normalize("NFC", tokenizer.decode([index]))
        if vocabulary.unknown(normalise(text, case)) or (ascii_only and "\ufffd" in text):
            barred.append(index)
    return barred


def load_whisper(folder: Path, device: str = "cpu") -> WhisperTeacher:
    """Load a saved teacher.

    Raises:
        ModelError: a file is missing or damaged, or they do not fit one another.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text("utf-8"))
        params = WhisperParams.model_validate(config["decoding"])
        rate = int(config["sample_rate_hz"])
    except (OSError, ValueError, KeyError) as error:  # pydantic's are ValueErrors
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    vocabulary = Vocabulary.load(folder / TOKENS_FILE)
    return WhisperTeacher(folder / FILES, params, vocabulary, rate, device)


def _read(folder: Path, device: str) -> tuple[Any, Any, Any]:
    """Return model, tokenizer and feature extractor; nothing is looked up elsewhere."""
    try:
        import transformers
    except ImportError:
        raise ModelError(
            "teacher: Whisper needs the package transformers, which is not here; run "
            "pip install 'distillery[transformers]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        tokenizer = transformers.WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: cannot be read as a Whisper model: {str(error).strip()[:400]}; expected "
            "config.json, model.safetensors, generation_config.json, preprocessor_config.json and "
            "the tokenizer's files, as published"
        ) from None
    wrong = {**report, "mismatched_keys": [item[0] for item in report["mismatched_keys"]]}
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong[kind]:
            raise ModelError(
                f"{folder}: {len(wrong[kind])} {kind.replace('_', ' ')} in the weights, such as "
                f"{sorted(wrong[kind])[0]!r}, expected those of config.json; take both from one "
                "model"
            )
    return model.eval().to(device), tokenizer, extractor
