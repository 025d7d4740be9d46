"""What a method is given to learn from, what it learnt, and how it steers: plain values."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import Prompt
from hypersteer.lm.writers import Writer

Done = Callable[[float], object]
"""Told how much more is finished, as a share of 1."""

Kind = Literal["directions", "features", "own"]
"""What was learnt: a unit direction per concept (`vectors`), a feature of a dictionary per concept
(`sae_features`), or what only the method itself can apply."""


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
        parameters: stored parameters per concept.
        flops: floating-point operations of learning one concept; 0 if nothing is learnt.
        seconds: wall-clock seconds of learning one concept on this machine.
    """

    parameters: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of_each(
        cls, concepts: int, *, started: float, parameters: int = 0, flops: float = 0.0
    ) -> "Cost":
        """Return the cost of each of several concepts that were learnt together.

        Args:
            concepts: how many.
            started: when learning began, by `time.perf_counter`.
            parameters: stored parameters of each.
            flops: operations of learning all of them.
        """
        count = max(1, concepts)
        seconds = (time.perf_counter() - started) / count
        return cls(parameters=parameters, flops=flops / count, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What `fit` learnt about all concepts together, as it is kept on disk.

    Attributes:
        tensors: named tensors on the CPU.
        notes: whatever else there is, of JSON types.
        cost: per concept.
        kind: of what was learnt, by which `hypersteer.learning.dispatch` steers and detects.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    kind: Kind = "own"


def ids_of(concepts: Sequence[ConceptExamples]) -> Tensor:
    """Return the concepts' ids [N], which `Learned.tensors` holds as `ids`."""
    return torch.tensor([entry.concept.id for entry in concepts], dtype=torch.long)


class Asked(NamedTuple):
    """One base prompt, as a text or as chat messages, under one concept."""

    concept: Concept
    prompt: Prompt


class Steering(NamedTuple):
    """What the base LM is given to steer N pairs of concept and base prompt.

    Attributes:
        lm: the model to run: the base LM, or an adapted one.
        prompts: N prompts for it, rewritten or as they were.
        writers: edits at strength 1, made for these N rows in this order.
    """

    lm: BaseLM
    prompts: Sequence[Prompt]
    writers: list[Writer]
