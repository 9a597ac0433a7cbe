"""One request to a transcription service with OpenAI's interface, made again where that may help.

Source: OpenAI's API reference, "Create transcription": POST /v1/audio/transcriptions, multipart,
with `file`, `model`, `response_format`, `language`, `prompt`, `temperature`. Others serve the same,
such as speaches, vLLM and LocalAI. Retry-After: RFC 9110, 10.2.3.

The key stands in a header and nowhere else: what errors quote of an answer is freed of it.
"""

from __future__ import annotations

import email.utils
import io
import json
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import soundfile

from distillery.credentials import HIDDEN, without_credentials
from distillery.data.audio import to_int16
from distillery.errors import ModelError
from distillery.teachers.responses import Response, Service

PATH = "/v1/audio/transcriptions"
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
OUT_OF_MONEY = "insufficient_quota"
"""What OpenAI answers, with 429, where no waiting helps."""
LONGEST_WAIT_SECONDS = 300.0
"""Between two attempts, whatever Retry-After says."""
LONGEST_BACKOFF_SECONDS = 60.0
NUM_SHOWN_CHARACTERS = 200

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request


@dataclass(frozen=True)
class Asked:
    """Everything that decides an answer, but for the audio and the service itself."""

    url: str
    """As the settings have it."""
    model: str
    language: str | None = None
    prompt: str | None = None
    response_format: str = "auto"
    version: str = ""
    type: str = "endpoint"

    @property
    def address(self) -> str:
        """Where requests go."""
        base = self.url.rstrip("/")
        if base.endswith(PATH.removeprefix("/v1")):
            return base
        return base + (PATH.removeprefix("/v1") if base.endswith("/v1") else PATH)

    def fields(self, response_format: str) -> dict[str, str]:
        """Return the form's fields beside the file."""
        optional = {"language": self.language, "prompt": self.prompt}
        return {
            "model": self.model,
            "response_format": response_format,
            "temperature": "0",
            **{name: value for name, value in optional.items() if value},
        }


@dataclass
class EndpointClient:
    """Asks a service; may be used by several threads at once."""

    asked: Asked
    service: Service
    sleep: Callable[[float], None] = time.sleep
    _plain: bool = field(default=False, init=False)
    """Whether the service was found to know no verbose_json."""

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            timeout=self.service.timeout_seconds,
            limits=httpx.Limits(max_connections=self.service.parallel),
        )

    def key(self) -> str | None:
        """Return the service's key from the environment, None where the settings name no variable.

        Raises:
            ModelError: the variable is not set, or holds what no header can.
        """
        name = self.service.key_variable
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ModelError(
                f"teacher.key_variable: the environment variable {name} is not set; put the "
                "service's key there (export it in the shell that runs make)"
            )
        if not (key.isascii() and key.isprintable()):
            raise ModelError(
                f"teacher.key_variable: what the environment variable {name} holds is no key: it "
                "has characters other than printable ASCII; set it again"
            )
        return key

    def ask(self, name: str, waveform: np.ndarray, sample_rate_hz: int) -> Response:
        """Return what the service writes of a recording.

        Args:
            name: of the recording, for errors.
            waveform: float32 in [-1, 1) `(samples,)`.
            sample_rate_hz: its rate.

        Raises:
            ModelError: the key is missing or refused, the service refuses the request, or all
                attempts failed.
        """
        key = self.key()
        audio = _wav(waveform, sample_rate_hz)
        reason = "?"
        for attempt in range(1, self.service.max_attempts + 1):
            started = time.monotonic()
            wait: float | None = None
            try:
                response = self._post(name, audio, key)
                if response.is_success:
                    content = json.loads(response.content)
                    took = time.monotonic() - started
                    return Response(len(waveform) / sample_rate_hz, took, attempt, content)
                self._check_final(response, name, key)
                reason = f"status {response.status_code}{_said(response, key)}"
                wait = _retry_after(response)
            except httpx.TransportError as error:
                reason = _clean(f"{type(error).__name__}: {error}", key)
            except ValueError:
                reason = "an answer that is no JSON"
            if attempt < self.service.max_attempts:
                self._wait(name, attempt, reason, wait)
        raise ModelError(
            f"teacher.url: {self.asked.address} failed {self.service.max_attempts} times for "
            f"recording {name[:12]}, the last time with {reason}; what was answered before is "
            "kept, so run the stage again once the service works"
        )

    def _post(self, name: str, audio: bytes, key: str | None) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        while True:
            wanted = self.asked.response_format
            if wanted == "auto":
                wanted = "json" if self._plain else "verbose_json"
            response = self._client.post(
                self.asked.address,
                headers=headers,
                data=self.asked.fields(wanted),
                files={"file": (f"{name[:16]}.wav", audio, "audio/wav")},
            )
            refused = response.status_code in (400, 415, 422) and "response_format" in response.text
            if not (refused and self.asked.response_format == "auto" and wanted != "json"):
                return response
            self._plain = True
            logger.warning(
                "teacher: model %s gives no verbose_json, so its texts come without confidence",
                self.asked.model,
            )

    def _wait(self, name: str, attempt: int, reason: str, wait: float | None) -> None:
        if wait is None:
            longest = min(2.0 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)
            wait = longest * random.uniform(0.5, 1.0)  # so that requests do not come all at once
        wait = min(wait, LONGEST_WAIT_SECONDS)
        logger.info(
            "teacher: recording %s: %s; attempt %d of %d in %.1f s",
            name[:12],
            reason,
            attempt + 1,
            self.service.max_attempts,
            wait,
        )
        self.sleep(wait)

    def _check_final(self, response: httpx.Response, name: str, key: str | None) -> None:
        """Raise what no further attempt would mend."""
        status, address = response.status_code, self.asked.address
        if status in (401, 403):
            held = self.service.key_variable
            what = "asks for a key" if held is None else f"refuses the key in {held}"
            raise ModelError(
                f"teacher.url: {address} {what} (status {status}); expected one that may use "
                f"model {self.asked.model!r}: set teacher.key_variable to the name of an "
                "environment variable that holds it"
            )
        if OUT_OF_MONEY in response.text:
            raise ModelError(
                f"teacher.url: {address} says that the quota is used up"
                f"{_said(response, key)}; what was answered before is kept, so run the stage again "
                "once it is raised"
            )
        if status not in RETRIED:
            raise ModelError(
                f"teacher.url: {address} refuses recording {name[:12]} with status {status}"
                f"{_said(response, key)}; check teacher.url, teacher.model and the length of the "
                "recordings"
            )


def _wav(waveform: np.ndarray, sample_rate_hz: int) -> bytes:
    """Return a WAV file of 16-bit samples."""
    file = io.BytesIO()
    soundfile.write(file, to_int16(waveform), sample_rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that a service asks to wait, None where it does not."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _said(response: httpx.Response, key: str | None) -> str:
    text = " ".join(response.text.split())
    return f" ({_clean(text, key)})" if text else ""


def _clean(text: str, key: str | None) -> str:
    """Return the beginning of a text without the key."""
    if key:
        text = text.replace(key, HIDDEN)
    return without_credentials(text)[:NUM_SHOWN_CHARACTERS]
