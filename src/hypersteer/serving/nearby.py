"""What a checkpoint has learnt that is like a steering prompt; see `hypersteer.learning.nearness`.

Shapes: N concepts, K directions.
"""

import threading

from jaxtyping import Float
from torch import Tensor

from hypersteer.learning.nearness import Measure
from hypersteer.serving.served import Served


class Nearby:
    """Finds the concepts of checkpoints that are nearest to a text; made ready when first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measures: dict[int, Measure] = {}
        self._concepts: dict[str, Tensor] = {}

    def nearest(self, served: Served, text: str, top: int) -> list[tuple[str, float]]:
        """Return the nearest concepts and their similarities, the nearest first.

        Args:
            served: the checkpoint; none are found where it does not tell its concepts.
            text: a steering prompt.
            top: how many at most.
        """
        concepts = served.steerer.card.concepts
        if not concepts:
            return []
        measure, own = self._ready(served)
        return [(concepts[place], value) for place, value in measure.nearest(text, own, top)]

    def least(self, served: Served) -> float:
        """Return the similarity below which the nearest concept is far."""
        return self._ready(served)[0].least

    def _ready(self, served: Served) -> tuple[Measure, Float[Tensor, "N K"]]:
        lm, concepts = served.steerer.lm, served.steerer.card.concepts
        with self._lock:
            if id(lm) not in self._measures:
                self._measures[id(lm)] = Measure.of(lm)
            measure = self._measures[id(lm)]
            if served.name not in self._concepts:
                self._concepts[served.name] = measure.unit(concepts)
            return measure, self._concepts[served.name]
