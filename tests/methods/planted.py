"""Concepts whose direction is known, since a hook adds it to the states at a site."""

from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

import tiny
from hypersteer.concepts import Concept
from hypersteer.learning.values import ConceptExamples
from hypersteer.methods.random import unit_vectors
from methods.cases import concepts_of, example, hooked, states_alone

MARKS = ["!", "?"]


class Planted(NamedTuple):
    """Two concepts, each shown by a marker in the response, and their directions [2, D]."""

    concepts: list[ConceptExamples]
    directions: Tensor


def planted_concepts(rows: int = 24) -> Planted:
    """All but the marker is random words of one distribution."""
    words = concepts_of(rows, rows, negatives=0)
    (entry,) = concepts_of(rows)
    pool = [example(p.prompt, p.response) for p in entry.positives]
    concepts = [
        ConceptExamples(
            Concept(id=number, text=mark),
            [example(p.prompt, p.response + mark, number) for p in own.positives],
            pool,
        )
        for number, (mark, own) in enumerate(zip(MARKS, words, strict=True))
    ]
    return Planted(concepts, unit_vectors([1, 2], tiny.WIDTH, seed=3))


@contextmanager
def planting(lm, site, world: Planted, times: float):
    """Adds a concept's direction to every other token's state in the rows with its marker.

    Its size is so many times the mean length of the states. Every other token, told by its id, so
    that states vary along the direction as well as lie further along it.
    """
    markers = [lm.chat.text(mark)[0] for mark in MARKS]
    pool = world.concepts[0].negatives
    size = times * float(states_alone(lm, site, pool[0]).norm(dim=-1).mean())
    ids = []
    seeing = lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0]))

    def plant(hidden):
        for marker, direction in zip(markers, world.directions, strict=True):
            touched = (ids[-1] == marker).any(1)[:, None] & (ids[-1] % 2 == 0)
            hidden = hidden + size * touched[..., None] * direction
        return hidden

    try:
        with hooked(tiny.module_at(lm, site), plant):
            yield
    finally:
        seeing.remove()
