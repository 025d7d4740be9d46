"""The interface of every method that can steer: learn concepts, then steer towards them.

A method is a frozen dataclass whose fields are its hyperparameters. `fit` learns from examples and
returns plain tensors and notes, which a run keeps on disk; `steer` turns them into what the base
LM is given. Hypernetworks, prompting, vectors and adapters all fit in here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeGuard, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.examples import Example
from hypersteer.edits import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Prompt
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


@runtime_checkable
class Learner(Protocol):
    """Anything that can be evaluated: a `Method`, or a `Detector` that cannot steer.

    Attributes:
        learns: whether it needs a concept's examples, so that it can do nothing for a held-out
            concept.
    """

    learns: ClassVar[bool]

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts, together where that is faster; the base LM stays as it is.

        Args:
            lm: the base LM.
            site: where to act.
            concepts: what to learn; a method that learns gets no concept without positives.
            done: told how much more is finished, as a share of 1, for progress bars.
        """
        ...


@runtime_checkable
class Method(Learner, Protocol):
    """Anything that can steer.

    Attributes:
        scales: whether its edits have a strength; if not, each prompt is answered once.
    """

    scales: ClassVar[bool]

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """How to steer these pairs, which may be of different concepts."""
        ...


def can_steer(learner: Learner) -> TypeGuard[Method]:
    """Whether it is a method; what has no `steer` only detects."""
    return hasattr(learner, "steer")


@runtime_checkable
class Adapts(Protocol):
    """A method whose `Steering.lm` is another model for each concept.

    Its `steer` takes pairs of one concept only. The model is a copy that nothing else holds: it is
    gone when the `Steering` is, and the base LM stays as it is.

    Attributes:
        adapts: true.
    """

    adapts: ClassVar[bool]


@runtime_checkable
class Detector(Protocol):
    """A method that can also tell how much of a concept a text shows."""

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """A score per concept and text, higher where the concept shows.

        A text is prompt and response together; its score is the maximum over its tokens. All
        concepts are scored in one pass over the texts.
        """
        ...
