"""The bundled data of many concepts: complete, apart from what evaluations ask and hold out."""

from collections import Counter

from hypersteer.data.sources import load_concepts
from hypersteer.synthesis.pools import load_pool


def rows():
    data = load_concepts("bundled:wide")
    return data, data.examples(list(range(len(data))))


def test_every_concept_has_four_answers_to_different_instructions():
    data, examples = rows()
    assert len(data.concepts) == 846
    assert len({concept.text.casefold() for concept in data.concepts}) == 846
    asked = {}
    for example in examples:
        asked.setdefault(example.concept_id, []).append(example.prompt)
    assert asked.keys() == {concept.id for concept in data.concepts}
    assert all(len(prompts) == len(set(prompts)) == 4 for prompts in asked.values())
    assert len({example.response for example in examples}) == len(examples)
    assert all(20 <= len(example.response.split()) <= 50 for example in examples)


def test_instructions_are_shared_by_many_concepts_and_not_those_of_evaluations():
    _, examples = rows()
    counts = Counter(example.prompt for example in examples)
    assert min(counts.values()) >= 25
    pool = load_pool("bundled", 42)
    evaluated = {one.text.casefold() for half in pool.halves.values() for one in half}
    assert not evaluated & {prompt.casefold() for prompt in counts}


def test_no_concept_is_among_the_bundled_ones():
    data, _ = rows()
    bundled = {concept.text.casefold() for concept in load_concepts("bundled").concepts}
    assert not bundled & {concept.text.casefold() for concept in data.concepts}
