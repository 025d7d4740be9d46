"""Concept data as conditions about the answer, since their answers are labelled by concept.

An answer that was written for "talk like a pirate" is one of which that holds, and the answer to
the same request for another concept is a near miss. So data to learn steering from (bundled, or in
AxBench's format with its negatives and hard negatives) teach a head as well.
"""

import random
from collections.abc import Iterable, Sequence

import numpy as np

from hypersteer.concepts import Concept, text_key
from hypersteer.conditions.described import CONCEPT, Described
from hypersteer.data.schema import HARD_NEGATIVE, NEGATIVE, NEGATIVE_POOL, POSITIVE
from hypersteer.data.sources import ConceptData

EACH = 4
"""Most answers of each sort: true ones, near misses, others."""
DRAWN = 8 * EACH
"""Rows that are drawn for them; some are passed over."""


def described_concepts(data: ConceptData, *, seed: int = 0) -> list[Described]:
    """Return the concepts of data as conditions, `CONCEPT` by kind.

    True of a concept are its positive answers. Near misses are its hard negatives, then the answers
    of other concepts to the requests of its own; the others are its negatives or those that all
    concepts share, then any concepts' answers. Held-out concepts are left out, and those without
    answers.

    Args:
        data: concept data, see `load_concepts`.
        seed: of what is drawn.
    """
    draw = random.Random(seed)
    every = np.concatenate([data.rows(concept.id, POSITIVE) for concept in data.concepts])
    requests = [text_key(prompt) for prompt in data.prompts(every)]
    request_of = dict(zip(every.tolist(), requests, strict=True))
    to_request: dict[str, list[int]] = {}
    for row, request in request_of.items():
        to_request.setdefault(request, []).append(row)
    found = []
    for concept in data.concepts:
        if concept.held_out:
            continue
        own = data.rows(concept.id, POSITIVE).tolist()
        asked = dict.fromkeys(request_of[row] for row in own)
        twins = [row for request in asked for row in to_request[request]]
        one = _described(data, concept, twins, every, draw)
        if one is not None:
            found.append(one)
    return found


def _described(
    data: ConceptData,
    concept: Concept,
    twins: Sequence[int],
    every: np.ndarray,
    draw: random.Random,
) -> Described | None:
    """Return one concept as a condition; None where answers are missing on a side.

    Args:
        data: all concepts.
        concept: the one.
        twins: rows of answers to its requests, its own among them.
        every: rows of all concepts' answers.
        draw: what draws.
    """

    def drawn(rows: Sequence[int] | np.ndarray) -> list[int]:
        places = draw.sample(range(len(rows)), min(DRAWN, len(rows)))
        return [int(rows[place]) for place in places]

    def strange(rows: Sequence[int] | np.ndarray) -> list[int]:
        return [row for row in drawn(rows) if data.concept_id(row) != concept.id]

    negatives = data.rows(concept.id, NEGATIVE)
    if not len(negatives):
        negatives = data.rows(NEGATIVE_POOL, NEGATIVE)
    inside = _answers(data, drawn(data.rows(concept.id, POSITIVE)), ())
    near = _answers(data, [*drawn(data.rows(concept.id, HARD_NEGATIVE)), *strange(twins)], inside)
    off = _answers(data, [*drawn(negatives), *strange(every)], (*inside, *near))
    if not inside or not off:
        return None
    return Described(
        condition=concept.text, kind=CONCEPT, about="answer", inside=inside, near=near, off=off
    )


def _answers(data: ConceptData, rows: Iterable[int], taken: Sequence[str]) -> tuple[str, ...]:
    """Return the first few answers of rows that are not blank, taken or there already."""
    found: dict[str, None] = {}
    for row in rows:
        answer = data.example(row).response
        if answer.strip() and answer not in taken:
            found[answer] = None
        if len(found) == EACH:
            break
    return tuple(found)
