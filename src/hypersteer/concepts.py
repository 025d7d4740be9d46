"""What to steer towards: the steering prompt as a value, ranked and checked."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from hypersteer.errors import SteeringError, one_line
from hypersteer.values import check_text

LARGEST_ID = 2**32 - 1
"""Ids seed random choices, AxBench's own among them, and its generator takes no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A steering prompt with a number; the number is the key of its rows.

    Attributes:
        id: Number that the concept's rows carry; -1 is never a concept (the negative pool).
        text: The steering prompt.
        genre: Genre of the base prompts that go with it: `text`, `code` or `math` in AxBench.
        kind: Free word for what sort of steering it asks for (style, topic, ...); may be empty.
        ref: Where it comes from, such as a Neuronpedia address; may be empty.
        held_out: Whether the data mark it as one that is never trained on.
    """

    id: int
    text: str
    genre: str = "text"
    kind: str = ""
    ref: str = ""
    held_out: bool = False


def text_key(text: str) -> str:
    """Return what two steering prompts share if they are one concept to a reader.

    White space around them does not count, nor how a letter with an accent is spelled in Unicode
    (NFC). Case and everything else does.
    """
    return unicodedata.normalize("NFC", text.strip())


def rank_ids(ids: Sequence[int], seed: int) -> list[int]:
    """Put ids in a seeded order in which no id's place depends on which others are there."""
    return sorted(ids, key=lambda id_: (hashlib.sha256(f"{seed}:{id_}".encode()).digest(), id_))


def validate_steering_prompt(text: object) -> str:
    """Return the steering prompt unchanged, or say why it cannot steer.

    Raises:
        SteeringError: It is not a string, not valid Unicode, or empty or only white space.
    """
    if not isinstance(text, str):
        raise SteeringError(
            f"a steering prompt must be a string, got {type(text).__name__} {one_line(repr(text))}"
        )
    if not text.strip():
        raise SteeringError(
            f"the steering prompt {text!r} is empty; "
            "say what to steer towards, such as 'talk like a pirate'"
        )
    return check_text(text, "the steering prompt")
