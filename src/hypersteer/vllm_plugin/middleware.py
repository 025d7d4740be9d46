"""The field `steering` of vLLM's OpenAI-compatible server, as our own server takes it.

An ASGI application around vLLM's: it turns the field into what vLLM passes on to its engine
(`vllm_xargs`), puts the words into the prompt where the checkpoint was trained so, and answers what
cannot steer with an error of OpenAI's form.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hypersteer.errors import SteeringError
from hypersteer.lm.messages import as_messages
from hypersteer.serving.apart import apart
from hypersteer.serving.errors import Refused, body_of, refused
from hypersteer.serving.plan import Plan
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.payload import KEY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FIELD = "steering"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Steering:
    """Takes the field `steering` out of requests.

    Args:
        app: what answers them.
        front: returns what they are held against, once the engine is there.
    """

    def __init__(self, app: App, front: Callable[[], Front]) -> None:
        self._app, self._front = app, front

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request, or refuse what steers it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _may_be_json(scope):
            await self._app(scope, receive, send)
            return
        body, rest = await _read(receive)
        try:
            changed = await apart(self._changed, scope["path"], body)
        except (Refused, SteeringError) as error:
            await _answer(send, refused(error, FIELD))
            return
        if changed is not body:
            length = str(len(changed)).encode()
            headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", length)]}
        await self._app(scope, _resent(changed, rest, receive), send)

    def _changed(self, path: str, body: bytes) -> bytes:
        """Return a request's body as vLLM takes it; the very same if nothing steers it.

        Raises:
            Refused: for what cannot steer.
            SteeringError: likewise.
        """
        if FIELD.encode() not in body and KEY.encode() not in body:
            return body
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return body  # vLLM says what is wrong with it
        if not isinstance(asked, dict):
            return body
        extra = asked.get("vllm_xargs")
        if isinstance(extra, dict) and KEY in extra:
            raise Refused(
                f"'vllm_xargs.{KEY}' is set on the server; give 'steering'",
                param=f"vllm_xargs.{KEY}",
            )
        if FIELD not in asked:
            return body
        return json.dumps(self._steered(path.rstrip("/"), asked)).encode()

    def _steered(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        steering = asked.pop(FIELD)
        if steering is None:
            return asked
        if not path.endswith((CHAT, TEXT)):
            raise Refused(f"'steering' goes with {CHAT} and {TEXT}, not with {path}", param=FIELD)
        planned = self._front().read(steering)
        if planned.payload is None:
            return asked
        if asked.get("use_beam_search"):
            raise Refused(
                "beam search is not steered; leave out 'use_beam_search'", param="use_beam_search"
            )
        extra = asked.get("vllm_xargs") or {}
        asked["vllm_xargs"] = {**extra, KEY: planned.payload}
        if planned.plan.said:
            _say(asked, planned.plan, chat=path.endswith(CHAT))
        return asked


def _say(asked: dict[str, Any], plan: Plan, *, chat: bool) -> None:
    """Put the steering prompts into a request's prompt.

    Raises:
        Refused: for a prompt that is given as tokens.
        SteeringError: for a chat without a user's message.
    """
    if chat:
        messages: Any = asked.get("messages")
        asked["messages"] = plan.words(as_messages(messages))
        return
    given = asked.get("prompt")
    if isinstance(given, str):
        asked["prompt"] = plan.words(given)
    elif isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        asked["prompt"] = [plan.words(one) for one in given]
    else:
        raise Refused(
            "this steering says its text in the prompt, which is given as ids: send the prompt as "
            "text, or the steering with 'prompted': false",
            param="prompt",
        )


def _may_be_json(scope: MutableMapping[str, Any]) -> bool:
    """Return whether vLLM may read a body as JSON; forms, which hold sounds, pass as they come."""
    found = next((v for k, v in scope["headers"] if k.lower() == b"content-type"), b"")
    return not found.lower().startswith(b"multipart/")


async def _read(receive: Receive) -> tuple[bytes, Message | None]:
    """Return a request's body, and the message that came instead of its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts), message
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts), None


def _resent(body: bytes, rest: Message | None, receive: Receive) -> Receive:
    """Return what receives a body that was read already, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    if rest is not None:
        waiting.append(rest)

    async def again() -> Message:
        return waiting.pop(0) if waiting else await receive()

    return again


async def _answer(send: Send, error: Refused) -> None:
    content = json.dumps(body_of(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
