"""Texts of speech while it is spoken, over a WebSocket beside `/invocations`.

    client                                    server
    {"sample_rate_hz": 16000}
    16-bit samples, in pieces of any size     {"text": "turn on", "is_final": false}
    {"end": true}                             {"text": "turn on the lamp", "is_final": true}

JSON goes as text, samples as binary messages: one channel, little-endian, at the student's rate.
The first message may hold `hot_words`, too. A text is sent whenever it has changed; what is wrong
is said in one message, {"error": "…"}. Then the server closes; a connection is one utterance.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect, status

from distillery.data.audio import SAMPLE_SCALE
from distillery.data.manifest import SAMPLE_DTYPE
from distillery.errors import ModelError
from distillery.params.register import ServeLimits
from distillery.serve.growing_text import GrowingText
from distillery.serve.served import Transcriber, begin_stream
from distillery.serve.texts import parse_hot_words
from flows.servers.scoring import FAILED, Receive, Scope, Send, kind_of

PATH = "/stream"
IDLE_SECONDS = 30.0
"""How long a client may send nothing, or not take what it is sent."""
MAX_MESSAGE_BYTES = 1 << 20
"""Of one message; 33 s of speech at 16 kHz."""
MAX_JSON_CHARACTERS = 10_000
BEGIN = '{"sample_rate_hz": 16000}'
END = '{"end": true}'

logger = logging.getLogger("uvicorn.error")


class Refused(Exception):
    """A stream that ends with a reason."""

    def __init__(self, reason: str, code: int = status.WS_1008_POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.code = code


class Streams:
    """An ASGI application that listens to several speakers at once, each by one WebSocket."""

    def __init__(
        self, student: Transcriber, limits: ServeLimits, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """Serve a student.

        Args:
            student: as it is served; one that waits for an utterance's end refuses everybody.
            limits: how long a stream may be, and how many there may be at once.
            idle_seconds: after which a silent client is sent away.
        """
        self.student, self.limits, self.idle_seconds = student, limits, idle_seconds
        self.num_streams = 0
        # Threads of their own: speech does not wait behind whole recordings.
        self.threads = ThreadPoolExecutor(os.cpu_count(), "stream")
        self.refusal: str | None = None
        try:
            begin_stream(student)
        except ModelError as error:
            self.refusal = f"{error}; this one takes whole recordings, at /invocations"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold one connection; see ASGI's specification for the arguments."""
        socket = WebSocket(scope, receive, send)
        if scope["path"] != PATH or not _is_of_own_page(socket):
            await socket.close()  # status 403
            return
        try:
            await socket.accept()
            try:
                with self._place():
                    await self._listen_in_time(socket)
                await socket.close()
            except Refused as refusal:
                await self._say(socket, {"error": str(refusal)})
                await socket.close(refusal.code)
            except Exception as error:
                if _is_gone(error):
                    raise
                logger.exception("stream: failed")
                await self._say(socket, {"error": FAILED})
                await socket.close(status.WS_1011_INTERNAL_ERROR)
        except Exception as error:
            if not _is_gone(error):
                raise

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Take one of the places there are.

        Raises:
            Refused: all are taken, or the student does not stream.
        """
        if self.refusal is not None:
            raise Refused(self.refusal)
        most = self.limits.max_streams
        if self.num_streams >= most:
            raise Refused(
                f"stream: {self.num_streams} are open, expected fewer than {most} "
                "(register.serve_limits.max_streams); come again later",
                status.WS_1013_TRY_AGAIN_LATER,
            )
        self.num_streams += 1
        try:
            yield
        finally:
            self.num_streams -= 1

    async def _listen_in_time(self, socket: WebSocket) -> None:
        """Answer one utterance, which may not take longer than the longest one and a wait.

        Raises:
            Refused: it does, or is not what was agreed.
            WebSocketDisconnect: the client went away.
        """
        most = self.limits.max_seconds + self.idle_seconds
        try:
            async with asyncio.timeout(most):
                await self._listen(socket)
        except TimeoutError:
            raise Refused(
                f"stream: open for {most:g} s, expected its end before "
                "(register.serve_limits.max_seconds, and a wait); begin another one"
            ) from None

    async def _listen(self, socket: WebSocket) -> None:
        """Answer one utterance.

        Raises:
            Refused: it is not what was agreed.
            WebSocketDisconnect: the client went away.
        """
        loop = asyncio.get_running_loop()
        stream = await self._begin(await self._next(socket))
        rate, max_seconds = self.student.sample_rate_hz, self.limits.max_seconds
        said, rest, num_samples = "", b"", 0
        while isinstance(message := await self._next(socket), bytes):
            content = rest + message
            cut = len(content) - len(content) % SAMPLE_DTYPE.itemsize
            samples, rest = np.frombuffer(content[:cut], SAMPLE_DTYPE), content[cut:]
            num_samples += len(samples)
            if num_samples > max_seconds * rate:
                raise Refused(
                    f"stream: longer than {max_seconds:g} s, expected that at most "
                    "(register.serve_limits.max_seconds); begin another stream after a pause"
                )
            text = await loop.run_in_executor(self.threads, _push, stream, samples, False)
            if text != said:
                await self._say(socket, {"text": text, "is_final": False})
                said = text
        _check_end(message)
        if rest:
            raise Refused("audio: ends with half a sample, expected 16-bit samples, two bytes each")
        if not num_samples:
            raise Refused("audio: ended without a sample, expected speech")
        nothing = np.zeros(0, SAMPLE_DTYPE)
        text = await loop.run_in_executor(self.threads, _push, stream, nothing, True)
        await self._say(socket, {"text": text, "is_final": True})

    async def _begin(self, message: str | bytes) -> GrowingText:
        if isinstance(message, bytes):
            raise Refused(f"first message: binary, expected a text: {BEGIN}")
        settings = _parsed(message, "first message", BEGIN)
        if unknown := settings.keys() - {"sample_rate_hz", "hot_words"}:
            raise Refused(
                f"first message: {len(unknown)} unknown entries, expected sample_rate_hz and "
                f"perhaps hot_words: {BEGIN}"
            )
        _check_rate(settings.get("sample_rate_hz"), self.student.sample_rate_hz)
        written = settings.get("hot_words", [])
        if not isinstance(written, list) or not all(isinstance(item, str) for item in written):
            raise Refused('hot_words: expected a list of texts, such as ["flat white=6"]')
        try:
            hot_words = parse_hot_words(written, self.student.vocabulary)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.threads, begin_stream, self.student, hot_words)
        except ModelError as error:
            raise Refused(str(error)) from None

    async def _next(self, socket: WebSocket) -> str | bytes:
        """Return the client's next message.

        Raises:
            Refused: it sends none.
            WebSocketDisconnect: it went away.
        """
        try:
            async with asyncio.timeout(self.idle_seconds):
                message = await socket.receive()
        except TimeoutError:
            raise Refused(
                f"stream: nothing came for {self.idle_seconds:g} s, expected audio or {END}; "
                "connect again"
            ) from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", status.WS_1005_NO_STATUS_RCVD))
        text: str | None = message.get("text")
        return bytes(message["bytes"]) if text is None else text

    async def _say(self, socket: WebSocket, message: dict[str, str | bool]) -> None:
        """Send a message.

        Raises:
            WebSocketDisconnect: the client went away, or does not take it.
        """
        try:
            async with asyncio.timeout(self.idle_seconds):
                await socket.send_text(json.dumps(message, ensure_ascii=False))
        except TimeoutError:
            raise WebSocketDisconnect(status.WS_1006_ABNORMAL_CLOSURE) from None


def _push(stream: GrowingText, samples: np.ndarray, last: bool) -> str:
    """Go on with int16 samples `(samples,)` and return the text."""
    stream.push(samples.astype(np.float32) / np.float32(SAMPLE_SCALE), last=last)
    return stream.text


def _is_gone(error: Exception) -> bool:
    """Return whether an error only says that the client went away."""
    return isinstance(error, WebSocketDisconnect | OSError)


def _is_of_own_page(socket: WebSocket) -> bool:
    """Return whether a page of this server asks, or no page at all.

    Browsers let every page open WebSockets to every server, also to one that listens on this
    machine alone; they say which page it was.
    """
    origin = socket.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == socket.headers.get("host")
    except ValueError:  # no address at all
        return False


def _parsed(message: str, name: str, expected: str) -> dict[str, Any]:
    """Return a message that should be a JSON object; no error repeats what it holds."""
    if len(message) > MAX_JSON_CHARACTERS:
        raise Refused(
            f"{name}: {len(message)} characters, expected {MAX_JSON_CHARACTERS} at most: {expected}"
        )
    try:
        content = json.loads(message)
    except json.JSONDecodeError as error:
        raise Refused(f"{name}: not JSON: {error}; expected {expected}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{name}: not JSON that can be read; expected {expected}") from None
    if not isinstance(content, dict):
        raise Refused(f"{name}: {kind_of(content)}, expected an object: {expected}")
    return content


def _check_rate(found: object, expected: int) -> None:
    if not isinstance(found, int) or isinstance(found, bool):
        raise Refused(f"sample_rate_hz: {kind_of(found)}, expected a whole number: {expected}")
    if found != expected:
        raise Refused(
            f"sample_rate_hz: {_short(found)}, expected {expected}, the student's rate; record at "
            "that rate, or resample what you send"
        )


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**9 else "a number of ten digits or more"


def _check_end(message: str | bytes) -> None:
    """Make sure that a text ends the utterance."""
    assert isinstance(message, str)
    if _parsed(message, "message", f"audio as binary messages, or {END}") != {"end": True}:
        raise Refused(f"message: another object, expected audio as binary messages, or {END}")
