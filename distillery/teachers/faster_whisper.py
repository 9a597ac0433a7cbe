"""Whisper as a teacher on the library faster-whisper: several times as fast on a CPU as PyTorch.

Sources: Radford et al. (2022), "Robust speech recognition via large-scale weak supervision", arXiv
2212.04356; the library's own features, prompts, barred symbols and beam search in CTranslate2,
without time-stamps and without its retries at random temperatures, so that a recording has one
text. Students learn its best texts (`sequence`) and the last states of the encoder (`hidden`).

The search ranks by ln P over the number of tokens, and ln P is over the tokens that were allowed.
The scores handed on are plain ln P(tokens | audio), the end token included, the prompt not. Whisper
writes as it likes; then texts are spelt as the corpus is (spelt.py), and those that are one then
are one hypothesis, with their probabilities added. A text with a character that students have no
token for is none; an utterance that is left without one gets the empty text with confidence 0,
which distill.filter drops.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, read_json, write_json
from distillery.models.base import check_layers, check_rate
from distillery.models.recogniser import CONFIG_FILE, TOKENS_FILE, Outputs
from distillery.params.teacher import FasterWhisperTeacherParams
from distillery.teachers.adapting import warn_of_rate
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.ctranslate2_files import (
    WEIGHTS,
    copy_model,
    digests_of_model,
    find_model,
    import_faster_whisper,
    read_sizes,
)
from distillery.teachers.hearing import check_lengths, resampled
from distillery.teachers.spelt import (
    check_english,
    check_language,
    default_language,
    spell_heard,
)

KIND = "faster_whisper"
MODEL_FOLDER = "model"
"""Folder of the published files, inside a saved teacher's."""
ENCODER_STRIDE = 2  # feature frames per encoder frame
AT_ONCE = {"cpu": 1, "cuda": 16}
"""Utterances in one call, by device. One by one on a CPU, where more gain nothing: so an utterance
says the same in every batch, and a stop is heeded within seconds."""
LAYER = "last"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFiles:
    """What the model is."""

    files: Mapping[str, str]
    """SHA-256 of the published files, by name."""


@dataclass(frozen=True)
class FasterWhisperSettings:
    """What config.json of such a teacher holds."""

    architecture: PublishedFiles
    sample_rate_hz: int
    """Of the corpus that it was prepared for."""
    compute_type: str
    beam_size: int
    """Beams of the search, and texts that it gives."""
    language: str | None
    """None: detected, for each utterance."""
    task: str
    prompt: str | None
    hot_words: Sequence[str]
    spelling: SpellingRule
    """How numbers and letter strings become words."""
    kind: str = KIND


def take_faster_whisper(params: FasterWhisperTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return a Whisper model in CTranslate2's format as the teacher.

    Args:
        params: which model, and how it decodes.
        place: for the corpus's tokens and rate.

    Raises:
        ModelError: faster-whisper is missing; the model is not here and cannot be fetched, is
            damaged, or does not know the language; the prompt is too long, or numbers would be said
            in another language.
    """
    import_faster_whisper()
    folder = find_model(params, place.root)
    files = digests_of_model(folder)
    settings = FasterWhisperSettings(
        architecture=PublishedFiles(files),
        sample_rate_hz=place.data.sample_rate_hz,
        compute_type=params.compute_type,
        beam_size=params.beam_size,
        language=params.language or default_language(params.task, place.data),
        task=params.task,
        prompt=params.prompt,
        hot_words=list(params.hot_words),
        spelling=place.data.spelling,
    )
    teacher = FasterWhisperTeacher(settings, folder, place.data.vocabulary)
    if not teacher.model.model.is_multilingual:
        check_english(params.model, place.data)
    elif settings.language is not None:
        written = settings.language if settings.task == "transcribe" else "en"
        check_language(written, settings.spelling, "teacher.language")
    warn_of_rate(teacher.model_rate_hz, place.data.sample_rate_hz)
    logger.warning(
        "teacher: Whisper gives texts and hidden states, no frames: what works is sequence and "
        "hidden, so frame.weight must be 0"
    )
    return ReadyTeacher(teacher, source={"model": params.model, "files": files})


class FasterWhisperTeacher:
    """A Whisper model in CTranslate2 with what turns its tokens into the corpus's texts."""

    def __init__(
        self,
        settings: FasterWhisperSettings,
        folder: Path,
        vocabulary: Vocabulary,
        device: str = "cpu",
    ) -> None:
        """Load the model.

        Args:
            settings: what config.json is to hold.
            folder: the model's files.
            vocabulary: the students' tokens.
            device: where it runs, on as many CPU threads as PyTorch may use.

        Raises:
            ModelError: a file is damaged, the machine does not compute in `compute_type`, the model
                does not know the language, or the prompt is too long.
        """
        self.settings, self.folder, self.vocabulary = settings, folder, vocabulary
        self.device = device
        self.sample_rate_hz = settings.sample_rate_hz
        self.num_parameters, self._width = read_sizes(folder / WEIGHTS)
        library = import_faster_whisper()
        _check_compute_type(settings.compute_type, device)
        try:
            self.model: Any = library.WhisperModel(
                str(folder),
                device=torch.device(device).type,
                device_index=torch.device(device).index or 0,
                compute_type=settings.compute_type,
                cpu_threads=torch.get_num_threads(),
                local_files_only=True,
            )
        except Exception as error:  # of several libraries; the files are somebody else's
            raise ModelError(
                f"{folder}: is no Whisper model that faster-whisper reads: "
                f"{str(error).strip()[:200]}; download or convert it again"
            ) from None
        self.model_rate_hz = int(self.model.feature_extractor.sampling_rate)
        self.max_seconds = float(self.model.feature_extractor.chunk_length)
        self._prompts: dict[str, list[int]] = {}
        if self.language is not None:
            self._prompt(self.language)
        else:
            self._check_prompt(self._tokenizer("en"))
        suppressed: Any = library.transcribe.get_suppressed_tokens
        self._suppressed = list(suppressed(self._tokenizer(self.language or "en"), [-1]))

    @property
    def language(self) -> str | None:
        """What is spoken; None where that is detected. Others' models know English alone."""
        return self.settings.language if self.model.model.is_multilingual else "en"

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return asdict(self.settings)

    @property
    def gives_frames(self) -> bool:
        """Never: its tokens have no times."""
        return False

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one encoder frame to the next, in seconds."""
        return float(ENCODER_STRIDE * self.model.feature_extractor.hop_length / self.model_rate_hz)

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """What the encoder's last layer gives, normalised; CTranslate2 gives no other."""
        return {LAYER: self._width}

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over the names and digests of the published files, as they are now."""
        files = digests_of_model(self.folder).items()
        content = "".join(f"{name} {digest}\n" for name, digest in files)
        return hashlib.sha256(content.encode()).hexdigest()

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
        library, features, lengths = import_faster_whisper(), [], []
        for waveform in waveforms:
            heard = resampled(torch.from_numpy(waveform), self.sample_rate_hz, self.model_rate_hz)
            own = self.model.feature_extractor(heard.numpy())  # (mels, feature_frames)
            limit = self.model.feature_extractor.nb_max_frames
            lengths.append(min(own.shape[-1] - 1, limit))  # the last frame is padding
            features.append(library.audio.pad_or_trim(own[:, :limit], limit))
        return torch.from_numpy(np.stack(features)), torch.tensor(lengths)

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return the best texts of features `(batch, mels, feature_frames)`, and encoder states.

        Raises:
            ModelError: there is no such layer, or `precision` is set: `compute_type` decides.
        """
        check_layers(self, layers)
        if precision != "fp32":
            raise ModelError(
                f"cache.precision: {precision!r}, but this teacher computes in "
                f"teacher.compute_type, {self.settings.compute_type!r}; set cache.precision to fp32"
            )
        heard: list[tuple[list[tuple[str, float]], float]] = []
        states, languages = [], []
        at_once = AT_ONCE[torch.device(self.device).type]
        for start in range(0, len(inputs), at_once):
            encoded = self.model.encode(inputs[start : start + at_once].numpy())
            if layers:
                states.append(_as_array(encoded))
            spoken = self._languages(encoded, len(inputs[start : start + at_once]))
            languages += spoken
            heard += map(self._rank, self._search(encoded, spoken))
        return Outputs(
            None,
            [-(-n // ENCODER_STRIDE) if layers else 0 for n in lengths.tolist()],
            {name: np.concatenate(states) for name in layers},
            [hypotheses for hypotheses, _ in heard],
            [confidence for _, confidence in heard],
            languages if self.language is None else (),
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, spelt as the corpus is."""
        hypotheses = self.forward(*self.extract(waveforms)).hypotheses
        assert hypotheses is not None
        return [items[0][0] for items in hypotheses]

    def save(self, folder: Path) -> None:
        """Write the teacher, the model's files too, into an existing folder."""
        copy_model(self.folder, folder / MODEL_FOLDER)
        write_json(folder / CONFIG_FILE, self.config)
        self.vocabulary.save(folder / TOKENS_FILE)

    def _languages(self, encoded: Any, count: int) -> list[str]:
        if self.language is not None:
            return [self.language] * count
        found = self.model.model.detect_language(encoded)  # by utterance: tokens and shares
        return [items[0][0].strip("<|>") for items in found]

    def _search(self, encoded: Any, languages: Sequence[str]) -> Sequence[Any]:
        """Return the search's result for each utterance: token sequences, best first, and scores.

        Args:
            encoded: states of the encoder, where they were computed.
            languages: of the utterances.
        """
        found: Sequence[Any] = self.model.model.generate(
            encoded,
            [self._prompt(language) for language in languages],
            beam_size=self.settings.beam_size,
            num_hypotheses=self.settings.beam_size,
            length_penalty=1,
            max_length=self.model.max_length,
            return_scores=True,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
        )
        return found

    def _rank(self, result: Any) -> tuple[list[tuple[str, float]], float]:
        """Return an utterance's texts with ln P, best first, and the confidence in the best."""
        tokenizer = self._tokenizer(self.language or "en")
        lengths = [len(tokens) for tokens in result.sequences_ids]
        # The search divides by the tokens before the end.
        totals = [float(m) * n for m, n in zip(result.scores, lengths, strict=True)]
        totals = [t if math.isfinite(t) else float(np.finfo(np.float32).min) for t in totals]
        texts = [tokenizer.decode(tokens) for tokens in result.sequences_ids]
        heard = zip(texts, totals, (length + 1 for length in lengths), strict=True)
        return spell_heard(list(heard), self.settings.spelling, self.vocabulary)

    def _tokenizer(self, language: str) -> Any:
        library = import_faster_whisper()
        return library.tokenizer.Tokenizer(
            self.model.hf_tokenizer,
            self.model.model.is_multilingual,
            task=self.settings.task,
            language=language,
        )

    def _prompt(self, language: str) -> list[int]:
        """Return the tokens that a text in a language begins with.

        Raises:
            ModelError: the model does not know the language, or the prompt is too long.
        """
        if language not in self._prompts:
            known = list(self.model.supported_languages)
            if language not in known:
                raise ModelError(
                    f"teacher.language: {language!r}, expected null, for a language detected by "
                    f"utterance, or one of {', '.join(known)}"
                )
            tokenizer = self._tokenizer(language)
            self._prompts[language] = self.model.get_prompt(
                tokenizer,
                self._check_prompt(tokenizer),
                without_timestamps=True,
                hotwords=", ".join(self.settings.hot_words) or None,
            )
        return self._prompts[language]

    def _check_prompt(self, tokenizer: Any) -> list[int]:
        """Return the prompt's tokens.

        Raises:
            ModelError: prompt and hot words are longer together than the library would take.
        """
        tokens = [
            tokenizer.encode(f" {text.strip()}") if text and text.strip() else []
            for text in (self.settings.prompt, ", ".join(self.settings.hot_words))
        ]
        count, most = sum(map(len, tokens)), self.model.max_length // 2 - 1
        if count > most:
            raise ModelError(
                f"teacher: prompt and hot_words are {count} tokens together, Whisper takes at most "
                f"{most}; shorten them"
            )
        own: list[int] = tokens[0]
        return own


def _check_compute_type(wanted: str, device: str) -> None:
    import ctranslate2

    known = sorted(ctranslate2.get_supported_compute_types(torch.device(device).type))
    if wanted not in ("default", *known):
        raise ModelError(
            f"teacher.compute_type: {wanted!r}, this machine's {device} computes in default, "
            f"{', '.join(known)}"
        )


def _as_array(encoded: Any) -> np.ndarray:
    """Return states `(batch, frames, width)`, float32, that CTranslate2 holds anywhere."""
    import ctranslate2

    here = encoded.to_device(ctranslate2.Device.cpu) if encoded.device != "cpu" else encoded
    return np.array(here.to(ctranslate2.DataType.float32))


def load(folder: Path, device: str) -> FasterWhisperTeacher:
    """Load a saved teacher; neither the network nor the original folder is needed.

    Raises:
        ModelError: faster-whisper or a file is missing, damaged, or was changed.
    """
    import_faster_whisper()
    path, own = folder / CONFIG_FILE, folder / MODEL_FOLDER
    try:
        settings = read_json(path, FasterWhisperSettings)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    found, saved = digests_of_model(own), settings.architecture.files
    if differing := sorted(n for n in {*found, *saved} if found.get(n) != saved.get(n)):
        raise ModelError(f"{own / differing[0]}: was changed since; run make teacher")
    return FasterWhisperTeacher(settings, own, Vocabulary.load(folder / TOKENS_FILE), device)
