"""Rows that the likelihood judge is calibrated and measured on: real, mispaired and corrupted."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hypersteer.concepts import Concept
from hypersteer.data.sources import ConceptData
from hypersteer.judges.judge import Answer
from hypersteer.lm.base import BaseLM

KINDS = ("positive", "negative", "hard negative")
PER_CONCEPT = 5
"""Responses per concept and category that also get another instruction and are corrupted."""


class Row(NamedTuple):
    """An answer, what it is, and whether it is among those that were corrupted."""

    concept_id: int
    kind: str
    answer: Answer
    chosen: bool = False


def looped(words: Sequence[str], chance: random.Random) -> list[str]:
    """A phrase of 4 to 10 words, repeated to the length of the whole."""
    size = min(chance.randint(4, 10), len(words))
    start = chance.randint(0, len(words) - size)
    phrase = list(words[start : start + size])
    return (phrase * (len(words) // size + 2))[: max(len(words), 2 * size)]


def corrupted(words: list[str], pool: list[str], chance: random.Random) -> dict[str, list[str]]:
    """What the words of a response become, by kind of corruption."""
    half = len(words) // 2
    tail = words[half:] or words
    return {
        "shuffled": chance.sample(words, len(words)),
        "looped": looped(words, chance),
        "salad": chance.choices(pool, k=len(words)),
        "half shuffled": words[:half] + chance.sample(tail, len(tail)),
        "half looped": words[:half] + looped(tail, chance),
    }


def parroted(concept: str, chance: random.Random) -> Iterable[str]:
    """Responses that only repeat the words of the concept."""
    words = concept.split()
    yield concept
    yield f"{concept[0].upper()}{concept[1:].rstrip('.')}."
    yield " ".join([concept] * 5)
    yield " ".join(chance.sample(words, len(words)))
    yield " ".join(chance.choices(words, k=40))


def rows_of(data: ConceptData, concepts: Sequence[Concept], drawn: int = 0) -> list[Row]:
    """All rows of some concepts: their own, with other instructions, corrupted, and parroted.

    Args:
        data: the set.
        concepts: those that are wanted.
        drawn: positives of other concepts that serve as the negatives of each, where the set has
            none of its own.
    """
    rows: list[Row] = []
    for concept in concepts:
        found = {kind: data.examples(data.rows(concept.id, kind)) for kind in KINDS}
        if drawn:
            chance = random.Random(concept.id)
            others = chance.sample([c.id for c in data.concepts if c.id != concept.id], drawn)
            found["negative"] = data.examples(chance.choice(list(data.rows(i))) for i in others)
        for kind, examples in found.items():
            for number, example in enumerate(examples):
                answer = Answer(concept.text, example.prompt, example.response)
                chosen = number < PER_CONCEPT and kind != "hard negative"
                rows.append(Row(concept.id, kind, answer, chosen))
    return rows + [extra for concept in concepts for extra in _extras(rows, concept.id)]


def _extras(rows: list[Row], concept_id: int) -> Iterable[Row]:
    chance = random.Random(concept_id)
    chosen = [row for row in rows if row.concept_id == concept_id and row.chosen]
    instructions = sorted({row.answer.instruction for row in chosen})
    pool = [word for row in rows if row.chosen for word in row.answer.response.split()]
    for row in chosen:
        other = chance.choice([text for text in instructions if text != row.answer.instruction])
        yield Row(concept_id, "other instruction", row.answer._replace(instruction=other))
        for kind, words in corrupted(row.answer.response.split(), pool, chance).items():
            yield Row(concept_id, kind, row.answer._replace(response=" ".join(words)))
    for text in parroted(chosen[0].answer.concept, chance):
        yield Row(concept_id, "parroted", chance.choice(chosen).answer._replace(response=text))


def compared_layers(lm: BaseLM) -> tuple[int, int]:
    """The two blocks whose states judges compare: at 0.3 and 0.43 of a base LM's depth."""
    return int(0.3 * (lm.depth - 1)), int(0.43 * (lm.depth - 1))
