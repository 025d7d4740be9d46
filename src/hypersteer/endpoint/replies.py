"""What goes to a server and what comes back: messages, replies, failures, and counts of them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from hypersteer.errors import one_line

THOUGHTS = ("<think>", "</think>")
"""What models write around their thoughts."""

TOLERANCE = 1e-3
"""How far above 1 rounding may take a probability."""

Messages = Sequence[Mapping[str, str]]
"""One request: chat messages, each with a `role` and a `content`."""


class Reply(NamedTuple):
    """A reply, and the tokens that were paid for it when it was made.

    Attributes:
        text: what was written.
        input_tokens: tokens sent.
        output_tokens: tokens received.
        likely: probability of each of the likeliest first tokens; empty if it was not asked for.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    likely: Mapping[str, float] = MappingProxyType({})


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


def read_reply(body: str, max_tokens: int, top_logprobs: int = 0) -> Reply | Trouble:
    """Read the body of a chat completion.

    Args:
        body: what the server sent.
        max_tokens: the limit that was asked for, to name it where the reply hit it.
        top_logprobs: how many first tokens were asked for; above 0 a reply may be cut off or empty.

    Returns:
        The reply, or the trouble where it is malformed, empty, cut off or withheld, or lacks the
        probabilities that were asked for.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # the latter of brackets without end
        return Trouble(f"the reply is not JSON: {one_line(body, 80)!r}", retry=True)
    fields = content if isinstance(content, dict) else {}
    used = fields.get("usage")
    tokens = used if isinstance(used, dict) else {}
    sent, received = _count(tokens.get("prompt_tokens")), _count(tokens.get("completion_tokens"))
    found = _likely(fields) if top_logprobs else _text(fields, max_tokens)
    if isinstance(found, Trouble):
        return found._replace(input_tokens=sent, output_tokens=received)
    if isinstance(found, str):
        return Reply(found, sent, received)
    return Reply(max(found, key=found.__getitem__), sent, received, found)


def _text(fields: dict[str, Any], max_tokens: int) -> str | Trouble:
    """Return the text of a completion's first choice."""
    try:
        choice = fields["choices"][0]
        text, reason = choice["message"].get("content"), choice.get("finish_reason")
        refusal = choice["message"].get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        return _no_choices(fields)
    if reason == "length":
        return Trouble(f"the reply was cut off; raise max_tokens ({max_tokens})")
    if reason == "content_filter":
        return Trouble("the reply was withheld by the server's content filter")
    if refusal:
        return Trouble(f"the model refused: {one_line(refusal, 120)}")
    if not isinstance(text, str) or not without_thoughts(text).strip():
        return Trouble("the reply is empty", retry=True)
    return _whole(text)


def _likely(fields: dict[str, Any]) -> dict[str, float] | Trouble:
    """Return the probabilities of a completion's likeliest first tokens; equal texts are added."""
    try:
        choice = fields["choices"][0]
    except (KeyError, IndexError, TypeError):
        return _no_choices(fields)
    found: dict[str, float] = {}
    try:
        for entry in choice["logprobs"]["content"][0]["top_logprobs"]:
            token, share = _whole(entry["token"]), math.exp(entry["logprob"])
            found[token] = found.get(token, 0.0) + share
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError):
        found = {}
    if not all(share <= 1 + TOLERANCE for share in found.values()):  # NaN neither
        found = {}
    if not found:
        return Trouble(
            "the reply holds no logprobs: choose a server and a model that give them "
            "(OpenAI's chat models, llama.cpp, vLLM)",
            hopeless=True,
        )
    return found


def _no_choices(fields: dict[str, Any]) -> Trouble:
    said = f": {one_line(fields['error'], 120)}" if fields.get("error") else ""
    return Trouble(f"the reply holds no choices{said}", retry=True)


def _whole(text: str) -> str:
    """Return text that can be written: JSON may spell half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _count(value: object) -> int:
    """Return a number of tokens; 0 where the server gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
