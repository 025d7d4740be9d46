"""What is asked of `/v1/steering`: how far steering moved an answer, and what is like a text."""

from typing import Any, Literal

from pydantic import Field

from hypersteer.serving.schema import MAX_LOGPROBS, Steering, Strict

MOST_CONCEPTS = 50


class EffectRequest(Strict):
    """`POST /v1/steering/effect`."""

    model: str = Field(min_length=1)
    messages: list[dict[str, Any]] = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The answer whose tokens are looked at; whoever wrote it."""
    steering: Steering = None
    against: Literal["unsteered", "prompted"] = "unsteered"
    """What the steered model is held against: the plain model, or the one that is told the same
    words and has no edit."""
    unsteered: list[dict[str, Any]] | None = Field(None, min_length=1)
    """What the plain model is asked where that is not `messages`, as when these say the words of a
    stored edit."""
    top: int = Field(5, ge=0, le=MAX_LOGPROBS)
    """How many of the likeliest tokens are told, under either."""


class NearestRequest(Strict):
    """`POST /v1/steering/nearest`."""

    model: str = Field(min_length=1)
    text: str = Field(min_length=1)
    """A steering prompt."""
    top: int = Field(5, ge=1, le=MOST_CONCEPTS)
    """How many concepts are told."""
