"""The bundled data of many concepts: complete, apart from what evaluations ask and hold out."""

import re
from collections import Counter

import pytest

from hypersteer.data.sources import load_concepts
from hypersteer.evaluation.probes import skill_items
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


@pytest.mark.parametrize("source", [*SOURCES, "bundled:plain"])
def test_instructions_are_shared_by_concepts_and_not_those_of_evaluations(source):
    _, examples = rows(source)
    counts = Counter(example.prompt for example in examples)
    assert sum(counts.values()) / len(counts) >= 4
    pool = load_pool("bundled", 42)
    evaluated = [words(one.text) for half in pool.halves.values() for one in half]
    for prompt in counts:
        said = words(prompt)
        assert not any(len(said & one) >= 0.7 * len(said | one) for one in evaluated), prompt


def test_plain_answers_are_of_the_concepts_that_are_trained_on():
    """Two of each, to other instructions than it has, short and whole; and exact tasks."""
    data, examples = rows("bundled:plain")
    trained, held_out, asked = set(), set(), {}
    for source in ("bundled", *SOURCES):
        other, answers = rows(source)
        held_out |= {one.text for one in other.concepts if one.held_out}
        trained |= {one.text for one in other.concepts if not one.held_out}
        for one in answers:
            asked.setdefault(other.concept(one.concept_id).text, set()).add(one.prompt)
    assert {one.text for one in data.concepts} == trained
    assert not trained & held_out
    known = {one for prompts in asked.values() for one in prompts}
    exact = [one for one in examples if one.prompt not in known]
    plain = [one for one in examples if one.prompt in known]
    assert len(plain) == 2 * len(data.concepts)
    for one in plain:
        assert one.prompt not in asked[data.concept(one.concept_id).text]
        assert 24 <= len(one.response.split()) <= 48
    assert len({one.response for one in plain}) == len(plain)
    assert len({one.prompt for one in exact}) == len(exact) / 2 == 418
    assert max(len(one.response) for one in exact) < 120


def test_exact_tasks_are_none_that_evaluations_ask():
    _, examples = rows("bundled:plain")
    items = [words(item.prompt) for item in skill_items()]
    for prompt in {one.prompt for one in examples}:
        said = words(prompt)
        assert not any(len(said & one) >= 0.7 * len(said | one) for one in items), prompt


@pytest.mark.parametrize("source", SOURCES)
def test_no_concept_is_in_another_bundled_set(source):
    data, _ = rows(source)
    own = {concept.text.casefold() for concept in data.concepts}
    for other in {"bundled", *SOURCES} - {source}:
        assert not own & {concept.text.casefold() for concept in load_concepts(other).concepts}
