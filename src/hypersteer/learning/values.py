"""What a method is given to learn from, what it learnt, and how it steers: plain values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.examples import Example
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import Prompt
from hypersteer.lm.writers import Writer

Done = Callable[[float], object]


class ConceptExamples(NamedTuple):
    """What a method may learn a concept from.

    Attributes:
        concept: the concept; its id is the key of all that is learnt.
        positives: training rows that show it. Empty for a held-out concept.
        negatives: training rows that do not, of the concept's genre; shared between concepts.
    """

    concept: Concept
    positives: list[Example]
    negatives: list[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it takes to steer towards one more concept.

    Attributes:
        parameters: numbers learnt and kept per concept.
        flops: floating-point operations of learning one concept; 0 if nothing is learnt.
        seconds: wall-clock seconds of learning one concept on this machine.
    """

    parameters: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What `fit` learnt about all concepts together, as it is kept on disk.

    Attributes:
        tensors: named tensors on the CPU.
        notes: whatever else there is, of JSON types.
        cost: per concept.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


class Asked(NamedTuple):
    """One base prompt under one concept."""

    concept: Concept
    prompt: str


class Steering(NamedTuple):
    """How a method steers N pairs of concept and base prompt.

    Attributes:
        lm: the model to run: the base LM, or an adapted one.
        prompts: N prompts for it, rewritten or as they were.
        writers: edits at strength 1, made for these N rows in this order.
    """

    lm: BaseLM
    prompts: Sequence[Prompt]
    writers: list[Writer]
