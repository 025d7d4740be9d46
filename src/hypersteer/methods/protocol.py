"""The interface of every method: learn concepts, then steer towards them or detect them.

A method is a frozen dataclass whose fields are its hyperparameters. `fit` learns from examples and
returns plain tensors and notes, which a run keeps on disk; `steer` turns them into what the base
LM is given. Hypernetworks, prompting, vectors and adapters all fit in here. A method that learns
what others learn too, such as a direction per concept, has `steer` and `detect` from
`hypersteer.learning.dispatch`.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeGuard, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM


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
        """Return what steers these pairs, which may be of different concepts."""
        ...


def can_steer(learner: Learner) -> TypeGuard[Method]:
    """Return whether it is a method; what has no `steer` only detects."""
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
        """Return a score per concept and text, higher where the concept shows.

        A text is prompt and response together; its score is the maximum over its tokens. All
        concepts are scored in one pass over the texts.
        """
        ...
