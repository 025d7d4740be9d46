"""The bundled data of many concepts: complete, apart from what evaluations ask and hold out."""

import re
from collections import Counter

import pytest

from hypersteer.data.sources import load_concepts
from hypersteer.synthesis.pools import load_pool

SOURCES = ["bundled:wide", "bundled:more"]
FEWEST = {"bundled:wide": (846, 4), "bundled:more": (700, 2)}
WORDS = {"bundled:wide": (20, 50), "bundled:more": (8, 90)}


def rows(source):
    data = load_concepts(source)
    return data, data.examples(list(range(len(data))))


def words(text):
    return set(re.findall(r"\w+", text.casefold()))


@pytest.mark.parametrize("source", SOURCES)
def test_every_concept_has_answers_to_different_instructions(source):
    data, examples = rows(source)
    concepts, answers = FEWEST[source]
    assert len(data.concepts) >= concepts
    assert len({concept.text.casefold() for concept in data.concepts}) == len(data.concepts)
    asked = {}
    for example in examples:
        asked.setdefault(example.concept_id, []).append(example.prompt)
    assert asked.keys() == {concept.id for concept in data.concepts}
    assert all(answers <= len(prompts) == len(set(prompts)) for prompts in asked.values())
    assert len(examples) >= 3.9 * len(data.concepts)
    assert len({example.response for example in examples}) == len(examples)
    low, high = WORDS[source]
    assert all(low <= len(example.response.split()) <= high for example in examples)


@pytest.mark.parametrize("source", SOURCES)
def test_instructions_are_shared_by_concepts_and_not_those_of_evaluations(source):
    _, examples = rows(source)
    counts = Counter(example.prompt for example in examples)
    assert sum(counts.values()) / len(counts) >= 4
    pool = load_pool("bundled", 42)
    evaluated = [words(one.text) for half in pool.halves.values() for one in half]
    for prompt in counts:
        said = words(prompt)
        assert not any(len(said & one) >= 0.7 * len(said | one) for one in evaluated), prompt


@pytest.mark.parametrize("source", SOURCES)
def test_no_concept_is_in_another_bundled_set(source):
    data, _ = rows(source)
    own = {concept.text.casefold() for concept in data.concepts}
    for other in {"bundled", *SOURCES} - {source}:
        assert not own & {concept.text.casefold() for concept in load_concepts(other).concepts}
