"""What rules decided, put into vLLM's answers, in the place where our own server tells it."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from hypersteer.conditions.rules import Check

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

END = b"\n\n"
"""Behind every event of a stream."""
DATA = b"data: "


class Telling:
    """Passes the messages of a response on, with the field `steering` in it.

    An answer that is one object gets it at the end; a stream in the last chunk of each answer. All
    else passes as it comes: errors, and what is no JSON.

    Args:
        send: takes the messages.
        parts: what was applied.
        check: what the rules decided.
    """

    def __init__(self, send: Send, parts: Sequence[Mapping[str, Any]], check: Check) -> None:
        self._send, self._parts, self._decisions = send, list(parts), [check.as_dict()]
        self._take = send
        self._start: Message = {}
        self._held = b""

    async def __call__(self, message: Message) -> None:
        """Take a message of the response."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._take(message)
        else:
            await self._send(message)

    async def _begin(self, start: Message) -> None:
        kind = _header(start, b"content-type")
        if start["status"] == 200 and kind.startswith(b"application/json"):
            self._start, self._take = start, self._whole
            return
        if start["status"] == 200 and kind.startswith(b"text/event-stream"):
            self._take = self._stream
        await self._send(start)

    async def _whole(self, message: Message) -> None:
        """Hold a body back until it is whole."""
        self._held += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = self._told(self._held, ended=False)
        others = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        length = (b"content-length", b"%d" % len(body))
        await self._send({**self._start, "headers": [*others, length]})
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: Message) -> None:
        """Pass on what is whole of a stream's events."""
        more = message.get("more_body", False)
        *events, self._held = (self._held + message.get("body", b"")).split(END)
        whole = b"".join(self._event(one) + END for one in events)
        if not more:
            whole, self._held = whole + self._held, b""
        if whole or not more:
            await self._send({**message, "body": whole})

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(DATA) or b"finish_reason" not in event:
            return event
        return DATA + self._told(event.removeprefix(DATA), ended=True)

    def _told(self, content: bytes, *, ended: bool) -> bytes:
        """Return an answer, or a chunk, with what steered it; as it was where there is no choice.

        Args:
            content: JSON.
            ended: count only the choices that end with it.
        """
        try:
            found = json.loads(content)
        except ValueError:
            return content
        choices = found.get("choices") if isinstance(found, dict) else None
        of = [one["index"] for one in choices or () if one.get("finish_reason") or not ended]
        if not of:
            return content
        answers = [{"index": index, "decisions": self._decisions} for index in of]
        found["steering"] = {"parts": self._parts, "answers": answers}
        return json.dumps(found, separators=(",", ":")).encode()


def _header(start: Message, name: bytes) -> bytes:
    return next((value.lower() for key, value in start["headers"] if key.lower() == name), b"")
