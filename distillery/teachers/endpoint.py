"""A transcription service as a teacher: any with OpenAI's interface, paid or one's own.

Audio goes out, texts come back; the service's answers are kept by audio key as they come
(responses.py), so nothing is paid for twice. What is asked for is part of the
fingerprint, how it is asked is not: key, price, parallel requests, time-outs. What the service
itself does cannot be seen; `teacher.version` is there to be changed when its model changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json, read_json, write_json
from distillery.models.recogniser import CONFIG_FILE, TOKENS_FILE
from distillery.params.teacher import EndpointTeacherParams
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.endpoint_client import Asked, EndpointClient
from distillery.teachers.responses import (
    SERVICE_FILE,
    Response,
    ResponseStore,
    Service,
    digest_of_asked,
    read_service,
    workspace_of,
)
from distillery.teachers.text_only import TextOnlyTeacher, key_of
from distillery.teachers.written import Spelling, Spelt, read_answer, spell_answer

KIND = "endpoint"


@dataclass(frozen=True)
class EndpointSettings:
    """What config.json of such a teacher holds."""

    architecture: Asked
    sample_rate_hz: int
    """Of the corpus that it was prepared for."""
    spelling: Spelling
    """How its texts are spelt."""
    kind: str = KIND


class EndpointTeacher(TextOnlyTeacher):
    """Texts from a service, each asked for once."""

    def __init__(
        self,
        settings: EndpointSettings,
        client: EndpointClient,
        store: ResponseStore,
        vocabulary: Vocabulary,
    ) -> None:
        """Put the parts together.

        Args:
            settings: what config.json is to hold.
            client: asks the service.
            store: of what it answered before.
            vocabulary: the students' tokens.
        """
        super().__init__(vocabulary, settings.sample_rate_hz)
        self.settings, self.client, self.store = settings, client, store

    @property
    def config(self) -> Json:
        """What config.json holds."""
        return asdict(self.settings)

    @property
    def weights_digest(self) -> str:
        """SHA-256 over what is asked for: the weights are the service's own business."""
        return digest_of_asked(asdict(self.settings.architecture))

    @property
    def real_time_factor(self) -> float:
        """Seconds from request to answer for a second of audio, over all that was answered."""
        spent = self.store.spent()
        return spent.took_seconds / spent.seconds if spent.seconds else 0.0

    def say(self, waveforms: Sequence[np.ndarray]) -> list[Spelt]:
        """Return what the service writes, or wrote before, of each waveform `(samples,)`.

        Raises:
            ModelError: it cannot be had, or makes no sense; what came before that is kept.
        """
        keys = [key_of(waveform) for waveform in waveforms]
        found = {key: response for key in keys if (response := self.store.read(key)) is not None}
        missing = {key: item for key, item in zip(keys, waveforms, strict=True) if key not in found}
        with ThreadPoolExecutor(self.client.service.parallel) as pool:
            futures = {key: pool.submit(self._ask, key, item) for key, item in missing.items()}
            _, waiting = wait(futures.values(), return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
        answered = {
            key: future.result()
            for key, future in futures.items()
            if future.done() and not future.cancelled()
        }
        return [self._spelt(key, {**found, **answered}[key]) for key in keys]

    def _ask(self, key: str, waveform: np.ndarray) -> Response:
        response = self.client.ask(key, waveform, self.sample_rate_hz)
        self._spelt(key, response)  # what makes no sense is not kept
        self.store.write(key, response)
        return response

    def _spelt(self, key: str, response: Response) -> Spelt:
        where = f"teacher.url: the answer of {self.client.asked.address} for recording {key[:12]}"
        if not isinstance(response.content, dict):
            shown = str(response.content)[:60]
            raise ModelError(f"{where}: holds {shown!r}, expected an object with text")
        answer = read_answer(response.content, where)
        return spell_answer(answer, self.settings.spelling, self.vocabulary)

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; the key is nowhere in it."""
        write_json(folder / CONFIG_FILE, self.config)
        write_json(folder / SERVICE_FILE, asdict(self.client.service))
        self.vocabulary.save(folder / TOKENS_FILE)


def take_endpoint(params: EndpointTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return a service as the teacher; the first request is the validation's.

    Raises:
        ModelError: the environment holds no key.
    """
    asked = Asked(
        params.url,
        params.model,
        params.language or place.data.summary.language,
        params.prompt,
        params.response_format,
        params.version,
    )
    service = Service(**{name: getattr(params, name) for name in Service.__dataclass_fields__})
    data = place.data
    spelling = Spelling(data.spelling, True, params.unknown_confidence)
    settings = EndpointSettings(asked, data.sample_rate_hz, spelling)
    client = EndpointClient(asked, service)
    client.key()
    store = ResponseStore.of(place.root, asdict(asked))
    teacher = EndpointTeacher(settings, client, store, data.vocabulary)
    return ReadyTeacher(teacher, source={"url": params.url, "model": params.model})


def load(folder: Path, device: str) -> EndpointTeacher:
    """Load a saved teacher; a key is asked for when something has to be sent.

    Raises:
        ModelError: a file is missing or damaged.
    """
    path = folder / CONFIG_FILE
    try:
        settings = read_json(path, EndpointSettings)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be used: {error}; run make teacher") from None
    client = EndpointClient(settings.architecture, read_service(folder))
    store = ResponseStore.of(workspace_of(folder), asdict(settings.architecture))
    return EndpointTeacher(settings, client, store, Vocabulary.load(folder / TOKENS_FILE))
