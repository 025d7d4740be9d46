"""Distinct texts, and states that are computed once."""

import dataclasses

import pytest
import torch

import tiny
from hypersteer.concepts import Concept
from hypersteer.learning import corpus as texts
from hypersteer.learning.corpus import States, after_prefix, make_corpus, text_of
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.flops import LMFlops, place
from methods.cases import concepts_of, example, states_alone


def test_shared_texts_are_numbered_once(tiny_llama):
    concepts = concepts_of(4, 2)
    same = concepts[0].positives[0]
    concepts[1].positives.append(dataclasses.replace(same, concept_id=10))
    corpus = make_corpus(tiny_llama, concepts)
    assert len(corpus.texts) == 4 + 2 + 3
    assert corpus.negatives[0] == corpus.negatives[1]
    assert corpus.positives[1][-1] == corpus.positives[0][0]
    for entry, numbers in zip(concepts, corpus.rows, strict=True):
        for one, number in zip([*entry.positives, *entry.negatives], numbers, strict=True):
            text = corpus.texts[number]
            assert text.prompt == tiny_llama.chat.prompt(one.prompt)
            assert text.response == tiny_llama.chat.response(one.response, ends=True)


def test_a_cut_response_has_no_end_of_turn(tiny_llama):
    whole, cut = (text_of(tiny_llama, example("Why", "owl", complete=c)) for c in (True, False))
    assert whole.response == [*cut.response, tiny_llama.chat.end_of_turn[0]]


def test_long_texts_are_cut_and_hopeless_ones_left_out(tiny_llama, monkeypatch):
    prompt = len(tiny_llama.chat.prompt("Why").ids)
    monkeypatch.setattr(texts, "MAX_TOKENS", prompt + 4)
    assert text_of(tiny_llama, example("Why", "owl " * 50)).size == prompt + 4
    assert text_of(tiny_llama, example("Why " * 9, "owl")).response == []
    concept = Concept(id=0, text="owls")
    empty = example("Why", "", 0, complete=False)
    rows = [example("Why " * 9, "owl", 0), empty, example("Why", "owl", 0)]
    corpus = make_corpus(tiny_llama, [ConceptExamples(concept, rows, [])])
    assert (len(corpus.texts), corpus.positives) == (1, [[0]])
    monkeypatch.setattr(texts, "MAX_TOKENS", 10**6)
    assert text_of(tiny_llama, example("Why", "owl " * 900)).size == tiny_llama.context_window


@pytest.mark.parametrize("cache_bytes", [0, 3000, 10**9])
def test_states_equal_plain_forwards_however_much_is_kept(lm, cache_bytes):
    site = tiny.site_of(lm)
    concepts = concepts_of(3)
    examples = [*concepts[0].positives, *concepts[0].negatives]
    known = make_corpus(lm, concepts).texts
    states = States(lm, site, known, [3] * 6, batch_tokens=60, cache_bytes=cache_bytes)
    for numbers in ([4, 1], [0, 1, 2, 3, 4, 5], [5, 4, 1]):
        hidden, batch = states.read(numbers), states.batch(numbers)
        assert hidden.shape[:2] == batch.ids.shape
        for row, marks, number in zip(hidden, after_prefix(batch.spans), numbers, strict=True):
            expected = states_alone(lm, site, examples[number])
            torch.testing.assert_close(row[marks], expected, atol=1e-4, rtol=1e-4)
    passes, sizes = LMFlops.of_lm(lm), [text.size for text in known]

    def cost(*parts):
        return sum(
            passes.forward(len(part), max(sizes[n] for n in part), place(site)) for part in parts
        )

    once, thrice = cost([1, 4], [0, 2, 3, 5]), cost([1, 4], range(6), [1, 4, 5])
    if cache_bytes == 3000:
        assert once < states.flops <= thrice
    else:
        assert states.flops == (thrice if cache_bytes == 0 else once)


def test_texts_used_most_are_kept_first(tiny_llama):
    known = make_corpus(tiny_llama, concepts_of(3)).texts
    sizes = [text.size for text in known]
    room = (sizes[2] + sizes[4]) * tiny.WIDTH * 4
    states = States(
        tiny_llama, tiny.site_of(tiny_llama), known, [2, 1, 5, 2, 4, 2],
        batch_tokens=10**6, cache_bytes=room,
    )  # fmt: skip
    states.read(range(6))
    before = states.flops
    states.read([2, 4])
    assert states.flops == before
    states.read([0])
    passes = LMFlops.of_lm(tiny_llama)
    assert states.flops == before + passes.forward(1, sizes[0], place(tiny.site_of(tiny_llama)))


def test_walk_visits_every_text_once(tiny_llama):
    known = make_corpus(tiny_llama, concepts_of(5)).texts
    states = States(
        tiny_llama, tiny.site_of(tiny_llama), known, [1] * 8, batch_tokens=90, cache_bytes=0
    )
    seen = []
    for numbers, hidden, marks in states.walk([1, 3, 7, 6]):
        assert hidden.shape[:2] == marks.shape
        seen += numbers
        after = [known[n].size - known[n].prompt.prefix for n in numbers]
        assert marks.sum(1).tolist() == after
    assert sorted(seen) == [1, 3, 6, 7]
