"""MLflow's scoring server behind a doorkeeper: what cannot be meant for it is refused early.

MLflow reads a request whole, however long, and puts what it cannot parse into its answer, twice.
The doorkeeper bounds what is read, and its answers are short and hold nothing of the request. It
lets as many in at once as there are cores, and nobody in whose client went away while it waited.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import nullcontext
from typing import Any

JSON_ROOM_BYTES = 1 << 20
"""What a request may hold beside its recordings, which base64 makes longer by a third."""
MAX_ANSWER_BYTES = 2000
"""Of an error."""
DRAIN_SECONDS = 2.0
"""How long the rest of a refused request is thrown away: clients that only listen once they have
sent all would see a broken connection instead of the answer."""
FORMATS = ("inputs", "instances")
"""What MLflow calls a list of inputs; the first is ours."""
EXPECTED = '{"inputs": [{"audio_b64": "…"}]}'
OPTIONS: Mapping[str, tuple[type, str]] = {
    "hot_words": (list, "a list of texts"),
    "words": (bool, "true or false"),
    "n_best": (int, "a number"),
}
"""What a clip may ask for, of which type that is, and how it is called."""
FAILED = "the request failed; the server's log says why"
STOPPED = "request: not answered, the server is being stopped; send it again once it is up"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request that is not handed on."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Gone(Exception):
    """A client that does not wait for its answer."""


class Doorkeeper:
    """An ASGI application in front of another one."""

    def __init__(self, app: App, max_bytes: int) -> None:
        """Guard an application.

        Args:
            app: what gets the requests that are let in.
            max_bytes: of the recordings in a request, before they became base64.
        """
        self.app = app
        self.max_recorded = max_bytes
        self.max_bytes = -(-max_bytes * 4 // 3) + JSON_ROOM_BYTES
        self.places = asyncio.Semaphore(os.cpu_count() or 1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on; see ASGI's specification for the arguments."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._let_in(scope, receive, answer)
        except Refused as refusal:
            await _refuse(refusal, receive, send)
        except Gone:
            pass
        except asyncio.CancelledError:  # uvicorn is stopping, and has waited
            if has_begun:
                raise
            await _refuse(Refused(503, STOPPED), receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on.

        Raises:
            Refused: it is too long or of another form.
            Gone: its client went away before it was its turn.
        """
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = await self._read(headers, receive)
        is_post = scope["method"] == "POST"
        if is_post:
            _check(headers.get(b"content-type", b"").decode("latin-1"), body)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        # All was read: what comes now is that the client went away, or has its answer.
        end = asyncio.ensure_future(receive())

        async def read() -> Message:
            return waiting.pop() if waiting else await asyncio.shield(end)

        try:
            async with self.places if is_post else nullcontext():
                if end.done():
                    raise Gone
                await self.app(scope, read, _brief(send))
        finally:
            end.cancel()

    async def _read(self, headers: MutableMapping[bytes, bytes], receive: Receive) -> bytes:
        """Return the body.

        Raises:
            Refused: it is too long, says its header, or it turns out to be.
            Gone: the client went away before it had sent all.
        """
        promised = headers.get(b"content-length", b"0")
        if not promised.isdigit() or int(promised) > self.max_bytes:
            raise self._too_long()
        parts: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size, has_more = size + len(parts[-1]), message.get("more_body", False)
            if size > self.max_bytes:
                raise self._too_long()
        return b"".join(parts)

    def _too_long(self) -> Refused:
        return Refused(
            413,
            f"request: longer than {self.max_bytes} bytes, expected recordings of "
            f"{self.max_recorded} bytes at most in one request (register.serve_limits.max_bytes); "
            "send fewer or shorter ones",
        )


def _check(content_type: str, body: bytes) -> None:
    """Make sure that a body has the documented form; what its clips hold is the model's to see.

    Raises:
        Refused: it has another one.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, f"Content-Type: expected application/json, with {EXPECTED}")
    try:
        content = json.loads(body)
    except UnicodeDecodeError as error:
        raise Refused(400, f"request: not UTF-8 at byte {error.start}; send {EXPECTED}") from None
    except json.JSONDecodeError as error:  # whose text says where, and nothing of the request
        raise Refused(400, f"request: not JSON: {error}; send {EXPECTED}") from None
    except (ValueError, RecursionError):
        raise Refused(400, f"request: not JSON that can be read; send {EXPECTED}") from None
    if not isinstance(content, dict):
        raise Refused(400, f"request: {kind_of(content)}, expected an object: {EXPECTED}")
    named = [name for name in FORMATS if name in content]
    if len(named) != 1:
        raise Refused(400, f"request: holds no list of inputs, expected {EXPECTED}")
    clips = content[named[0]]
    if not isinstance(clips, list):
        raise Refused(400, f"{named[0]}: {kind_of(clips)}, expected a list: {EXPECTED}")
    for index, clip in enumerate(clips):
        if not isinstance(clip, dict):
            raise Refused(400, f"clip {index}: {kind_of(clip)}, expected an object: {EXPECTED}")
        _check_clip(index, clip)


def _check_clip(index: int, clip: dict[Any, Any]) -> None:
    """Make sure that a clip has audio and, beside it, nothing but what may be asked for.

    Raises:
        Refused: it has something else.
    """
    if "audio_b64" not in clip or set(clip) - {"audio_b64", *OPTIONS}:
        beside = ", ".join(OPTIONS)
        raise Refused(400, f"clip {index}: expected audio_b64 and, if wanted, {beside}: {EXPECTED}")
    if not isinstance(clip["audio_b64"], str):
        found = kind_of(clip["audio_b64"])
        raise Refused(400, f"clip {index}: audio_b64 is {found}, expected base64 as text")
    for name, (kind, wanted) in OPTIONS.items():
        value = clip.get(name)
        if value is not None and type(value) is not kind:
            raise Refused(400, f"clip {index}: {name} is {kind_of(value)}, expected {wanted}")
    if not all(isinstance(item, str) for item in clip.get("hot_words") or ()):
        raise Refused(400, f"clip {index}: hot_words holds what is no text, expected texts alone")


def kind_of(value: object) -> str:
    """Return what JSON calls a value, and nothing of what it holds."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")


async def _refuse(refusal: Refused, receive: Receive, send: Send) -> None:
    """Answer at once, and read what still comes for a moment, without keeping it."""
    content = _message(refusal.reason)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _brief(send: Send) -> Send:
    """Return what sends on an application's answer; of a long error only that there was one."""
    start: Message = {}
    parts: list[bytes] = []

    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start.update(message)
            return
        if not start or message["type"] != "http.response.body":
            await send(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        content = b"".join(parts)
        if len(content) > MAX_ANSWER_BYTES:
            content = _message(FAILED)
        kept = [(n, v) for n, v in start["headers"] if n.lower() != b"content-length"]
        length = (b"content-length", str(len(content)).encode())
        await send({**start, "headers": [*kept, length]})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    return send_on


def _message(text: str) -> bytes:
    """Return an error as MLflow's server writes it."""
    return json.dumps({"error_code": "BAD_REQUEST", "message": text}, ensure_ascii=False).encode()
