"""What goes to a server and what comes back: messages, replies, failures, and counts of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypersteer.errors import one_line

THOUGHTS = ("<think>", "</think>")
"""What models write around their thoughts."""

Messages = Sequence[Mapping[str, str]]
"""One request: chat messages, each with a `role` and a `content`."""


class Reply(NamedTuple):
    """A whole reply, and the tokens that were paid for it when it was made."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


def without_thoughts(text: str) -> str:
    """Return the answer of a model that thinks aloud first; empty where it never comes to one.

    Templates may open the thoughts in the prompt, so that a reply only closes them.
    """
    before, closed, after = text.partition(THOUGHTS[1])
    if not before.lstrip().startswith(THOUGHTS[0]) and THOUGHTS[0] in before:
        return text  # it speaks of these marks
    if closed:
        return after.lstrip()
    return "" if before.lstrip().startswith(THOUGHTS[0]) else text


class Failed(NamedTuple):
    """A request without a reply, and why."""

    error: str


class Trouble(NamedTuple):
    """What went wrong with one attempt.

    Attributes:
        error: one line that says it.
        retry: whether another attempt may do better.
        hopeless: whether no other request can do better until something is changed.
        wait_s: how long the server asks to wait, in seconds.
        input_tokens: tokens sent, where the server charged for them nevertheless.
        output_tokens: tokens received, likewise.
    """

    error: str
    retry: bool = False
    hopeless: bool = False
    wait_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an endpoint was used for.

    Attributes:
        calls: HTTP requests sent, retries among them.
        retries: those that repeated a failed one.
        cache_hits: requests answered from the cache, or by an equal request beside them.
        failures: requests given up.
        input_tokens: tokens sent and charged, as the server counts them.
        output_tokens: tokens received, likewise; failed attempts are in both.
        cost: dollars, or None where no prices are set.
    """

    calls: int = 0
    retries: int = 0
    cache_hits: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: "Usage") -> "Usage":
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            calls=self.calls + other.calls,
            retries=self.retries + other.retries,
            cache_hits=self.cache_hits + other.cache_hits,
            failures=self.failures + other.failures,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=sum(costs) if costs else None,
        )


def read_reply(body: str, max_tokens: int) -> Reply | Trouble:
    """Read the body of a chat completion.

    Args:
        body: what the server sent.
        max_tokens: the limit that was asked for, to name it where the reply hit it.

    Returns:
        The reply, or the trouble where it is malformed, empty, cut off or withheld.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # the latter of brackets without end
        return Trouble(f"the reply is not JSON: {one_line(body, 80)!r}", retry=True)
    fields = content if isinstance(content, dict) else {}
    used = fields.get("usage")
    tokens = used if isinstance(used, dict) else {}
    sent, received = _count(tokens.get("prompt_tokens")), _count(tokens.get("completion_tokens"))
    text = _text(fields, max_tokens)
    if isinstance(text, Trouble):
        return text._replace(input_tokens=sent, output_tokens=received)
    return Reply(text, sent, received)


def _text(fields: dict[str, Any], max_tokens: int) -> str | Trouble:
    """Return the text of a completion's first choice."""
    try:
        choice = fields["choices"][0]
        text, reason = choice["message"].get("content"), choice.get("finish_reason")
        refusal = choice["message"].get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        said = f": {one_line(fields['error'], 120)}" if fields.get("error") else ""
        return Trouble(f"the reply holds no choices{said}", retry=True)
    if reason == "length":
        return Trouble(f"the reply was cut off; raise max_tokens ({max_tokens})")
    if reason == "content_filter":
        return Trouble("the reply was withheld by the server's content filter")
    if refusal:
        return Trouble(f"the model refused: {one_line(refusal, 120)}")
    if not isinstance(text, str) or not without_thoughts(text).strip():
        return Trouble("the reply is empty", retry=True)
    # JSON may spell half of a surrogate pair, which nothing can write.
    return text.encode("utf-8", "replace").decode()


def _count(value: object) -> int:
    """Return a number of tokens; 0 where the server gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
