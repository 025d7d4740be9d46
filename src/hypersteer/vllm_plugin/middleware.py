"""The field `steering` of vLLM's OpenAI-compatible server, as our own server takes it.

An ASGI application around vLLM's: it turns the field into what vLLM passes on to its engine
(`vllm_xargs`), puts the words into the prompt where the checkpoint was trained so, and answers what
cannot steer with an error of OpenAI's form. Rules are decided before vLLM sees the request, and its
answer gets the decision.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

from hypersteer.conditions.rules import Check
from hypersteer.errors import SteeringError
from hypersteer.lm.messages import as_messages
from hypersteer.serving.apart import apart
from hypersteer.serving.errors import Refused, body_of, refused
from hypersteer.serving.plan import Plan
from hypersteer.serving.prompts import no_words
from hypersteer.vllm_plugin.front import Front, Planned
from hypersteer.vllm_plugin.payload import KEY
from hypersteer.vllm_plugin.questions import Answer, Question
from hypersteer.vllm_plugin.telling import Message, Send, Telling

Receive = Callable[[], Awaitable[Message]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FIELD = "steering"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Ruled(NamedTuple):
    """A request whose rules are to be decided.

    Attributes:
        asked: its fields, without `steering`.
        plan: what steers it.
        question: what a worker is asked.
        chat: whether it is a chat.
    """

    asked: dict[str, Any]
    plan: Plan
    question: Question
    chat: bool


class Steering:
    """Takes the field `steering` out of requests.

    Args:
        app: what answers them.
        front: returns what they are held against, once the engine is there.
        decide: asks a worker which rules fire.
    """

    def __init__(
        self,
        app: App,
        front: Callable[[], Front],
        decide: Callable[[Question], Awaitable[Answer]],
    ) -> None:
        self._app, self._front, self._decide = app, front, decide

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request, or refuse what steers it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _may_be_json(scope):
            await self._app(scope, receive, send)
            return
        body, rest = await _read(receive)
        try:
            changed = await apart(self._changed, scope["path"], body)
            if isinstance(changed, Ruled):
                check = await self._decided(changed.question)
                send = Telling(send, changed.plan.told, check)
                changed = await apart(self._settled, changed, check)
        except (Refused, SteeringError) as error:
            await _answer(send, refused(error, FIELD))
            return
        if changed is not body:
            length = str(len(changed)).encode()
            headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
            scope = {**scope, "headers": [*headers, (b"content-length", length)]}
        await self._app(scope, _resent(changed, rest, receive), send)

    def _changed(self, path: str, body: bytes) -> bytes | Ruled:
        """Return a request's body as vLLM takes it; the very same if nothing steers it.

        A request with rules is not that far yet.

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
        return self._steered(path.rstrip("/"), asked)

    def _steered(self, path: str, asked: dict[str, Any]) -> bytes | Ruled:
        steering = asked.pop(FIELD)
        if steering is None:
            return json.dumps(asked).encode()
        if not path.endswith((CHAT, TEXT)):
            raise Refused(f"'steering' goes with {CHAT} and {TEXT}, not with {path}", param=FIELD)
        front, chat = self._front(), path.endswith(CHAT)
        plan = front.read(steering)
        if plan.steer and asked.get("use_beam_search"):
            raise Refused(
                "beam search is not steered; leave out 'use_beam_search'", param="use_beam_search"
            )
        if (rules := front.rules(plan)) is None:
            return _body(asked, front.planned(plan), chat=chat)
        question = front.question(rules, _one_prompt(asked, plan, chat=chat), chat=chat)
        return Ruled(asked, plan, question, chat)

    async def _decided(self, question: Question) -> Check:
        """Return what rules decide on a prompt.

        Raises:
            Refused: if they cannot be decided.
        """
        try:
            answer = await self._decide(question)
        except Exception as error:  # whatever the engine raises, the client is told
            raise refused(error, FIELD) from error
        if isinstance(answer, str):
            raise Refused(answer, param=FIELD)
        return answer

    def _settled(self, ruled: Ruled, check: Check) -> bytes:
        """Return a request's body as vLLM takes it, with what acts in place of rules."""
        asked, plan, _, chat = ruled
        planned = self._front().planned(plan, check, say=not _in_ids(asked, chat=chat))
        return _body(asked, planned, chat=chat)


def _body(asked: dict[str, Any], planned: Planned, *, chat: bool) -> bytes:
    """Return a request's body, steered."""
    if planned.payload is not None:
        extra = asked.get("vllm_xargs") or {}
        asked["vllm_xargs"] = {**extra, KEY: planned.payload}
    if planned.plan.said:
        _say(asked, planned.plan, chat=chat)
    return json.dumps(asked).encode()


def _one_prompt(asked: Mapping[str, Any], plan: Plan, *, chat: bool) -> Any:
    """Return what rules are decided on: a chat's messages, or a text or ids.

    Raises:
        Refused: for several prompts, what is none, or ids in which something is to be said.
        SteeringError: for messages that are none.
    """
    if chat:
        messages: Any = asked.get("messages")
        return as_messages(messages)
    given = asked.get("prompt")
    if isinstance(given, list) and given and isinstance(given[0], (str, list)):
        if len(given) > 1:
            raise Refused(
                f"rules are decided on one prompt, and this request has {len(given)}; send one "
                "request for each",
                param="prompt",
            )
        given = given[0]
    if _in_ids({"prompt": given}, chat=False):
        if not isinstance(given, list) or not all(type(one) is int for one in given):
            raise Refused("rules are decided on a prompt: give a text, or ids", param="prompt")
        if plan.said:
            raise no_words()
    return given


def _in_ids(asked: Mapping[str, Any], *, chat: bool) -> bool:
    """Return whether a prompt holds no words."""
    given = asked.get("prompt")
    texts = given if isinstance(given, list) and given else [given]
    return not chat and not all(isinstance(one, str) for one in texts)


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
    given: Any = asked.get("prompt")
    if _in_ids(asked, chat=chat):
        raise no_words()
    texts = given if isinstance(given, list) else [given]
    said = [plan.words(one) for one in texts]
    asked["prompt"] = said if isinstance(given, list) else said[0]


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
