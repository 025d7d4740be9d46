"""Answers at all strengths, their likelihoods, and concept gaps, against doing it by hand."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import tiny
from hypersteer.concepts import Concept
from hypersteer.config import ProtocolConfig
from hypersteer.data.schema import Example
from hypersteer.edits.edit import VectorEdit
from hypersteer.evaluation.answers import Prepared, answer, batches, even_parts
from hypersteer.evaluation.concept_gap import concept_gap
from hypersteer.evaluation.protocol import Question
from hypersteer.learning.model_copy import copy_model
from hypersteer.learning.values import Asked, Learned, Steering
from hypersteer.lm.writers import vector_writer
from hypersteer.methods.registry import Unsteered

STRENGTHS = (0.5, 2.0)
PROTOCOL = ProtocolConfig(strengths=STRENGTHS, prompts=2, max_new_tokens=6)
CONCEPTS = [Concept(id=number, text=f"concept {number}", genre="text") for number in range(2)]
INSTRUCTIONS = ("Hi", "Tell me about your day at the sea.", "Why is the sky blue?")


class Push:
    """Adds a random vector of its own to each concept."""

    learns, scales = True, True

    def fit(self, lm, site, concepts, done=None):
        raise NotImplementedError  # these tests ask only; what is learnt is given

    def vector(self, concept):
        seeded = torch.Generator().manual_seed(concept.id)
        return torch.randn(tiny.WIDTH, generator=seeded)

    def steer(self, lm, site, learned, asked):
        vectors = torch.stack([self.vector(one.concept) for one in asked])
        prompts = [one.prompt for one in asked]
        return Steering(lm, prompts, [vector_writer(site, vectors, ["all"] * len(asked))])


class Rewrite:
    """Puts the concept in front of the prompt."""

    learns, scales = False, False

    def fit(self, lm, site, concepts, done=None):
        raise NotImplementedError  # these tests ask only; what is learnt is given

    def steer(self, lm, site, learned, asked: list[Asked]):
        return Steering(lm, [f"{one.concept.text}: {one.prompt}" for one in asked], [])


class Retrained:
    """Gives each concept a model of its own, and refuses two concepts in one call."""

    learns, scales, adapts = True, False, True

    def fit(self, lm, site, concepts, done=None):
        raise NotImplementedError  # these tests ask only; what is learnt is given

    def steer(self, lm, site, learned, asked):
        (concept_id,) = {one.concept.id for one in asked}
        other = copy_model(lm, copy_weights=True)
        generator = torch.Generator().manual_seed(concept_id)
        with torch.no_grad():
            table = other.embeddings.weight
            table.copy_(table + torch.randn(table.shape, generator=generator))
        return Steering(other, [one.prompt for one in asked], [])


def prepared_of(lm, method):
    return Prepared("name", method, Learned(), lm, tiny.site_of(lm))


def questions_of():
    return [
        Question("held_in", concept, number, text, 10 * concept.id + number)
        for concept in CONCEPTS
        for number, text in enumerate(INSTRUCTIONS)
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_the_rows_beside_them(lm, temperature):
    protocol = ProtocolConfig(
        strengths=STRENGTHS, prompts=2, max_new_tokens=6, temperature=temperature
    )
    prepared, questions = prepared_of(lm, Push()), questions_of()
    together = answer(prepared, questions, protocol)
    alone = [row for question in questions for row in answer(prepared, [question], protocol)]
    backwards = answer(prepared, questions[::-1], protocol)
    key = lambda row: (row.concept_id, row.prompt_id, row.strength)  # noqa: E731
    assert [key(row) for row in together] == [
        (q.concept.id, q.prompt_id, s) for q in questions for s in STRENGTHS
    ]
    assert [row.response for row in together] == [row.response for row in alone]
    assert [row.response for row in together] == [
        row.response for row in sorted(backwards, key=key)
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.nll == pytest.approx(other.nll, abs=1e-4, nan_ok=True)


@contextmanager
def rows_seen(lm):
    """How many rows each pass through the top block holds."""
    seen = []

    def look(_module, _args, output):
        seen.append(len(output if isinstance(output, torch.Tensor) else output[0]))

    hook = lm.blocks[-1].register_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("method", [Push, Rewrite, Retrained])
def test_a_batch_holds_no_more_answers_than_asked_for(tiny_llama, method, temperature):
    """Where one question at all strengths is too much, its strengths are split as well."""
    lm, questions = tiny_llama, questions_of()
    strengths = (0.5, -1.0, 2.0)

    def rows_of(size):
        protocol = ProtocolConfig(
            strengths=strengths,
            prompts=2,
            max_new_tokens=6,
            temperature=temperature,
            batch_size=size,
        )
        return answer(prepared_of(lm, method()), questions, protocol)

    whole = rows_of(1000)
    assert len(whole) == len(questions) * (len(strengths) if method.scales else 1)
    for size in (1, 2, 4, 7):
        with rows_seen(lm) as seen:
            rows = rows_of(size)
        assert max(seen) <= size
        assert [replace(row, nll=0.0) for row in rows] == [replace(row, nll=0.0) for row in whole]
        assert [row.nll for row in rows] == pytest.approx([row.nll for row in whole], abs=1e-4)


def test_a_concepts_own_model_is_made_once_for_all_its_batches(tiny_llama):
    made, seen = [], []

    class Counted(Retrained):
        def steer(self, lm, site, learned, asked):
            steering = super().steer(lm, site, learned, asked)
            made.append(steering.lm)
            steering.lm.blocks[-1].register_forward_hook(lambda *given: seen.append(len(given[2])))
            return steering

    protocol = ProtocolConfig(prompts=2, max_new_tokens=4, batch_size=2)
    rows = answer(prepared_of(tiny_llama, Counted()), questions_of(), protocol)
    assert len(rows) == len(questions_of())
    assert len(made) == len(CONCEPTS)
    assert max(seen) == 2


def test_default_settings_hold_several_prompts_at_all_strengths():
    """Whole batches, or evaluation would be slow: ten prompts at fourteen strengths are two."""
    protocol = ProtocolConfig()
    together = protocol.batch_size // len(protocol.strengths)
    assert [len(part) for part in even_parts(range(protocol.prompts), together)] == [5, 5]
    assert [list(part) for part in even_parts(range(7), 3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_answers_are_those_of_the_edit_at_each_strength(lm):
    method = Push()
    rows = answer(
        prepared_of(lm, method),
        questions_of(),
        ProtocolConfig(strengths=STRENGTHS, prompts=2, max_new_tokens=6, temperature=0.0),
    )
    for row in rows:
        edit = VectorEdit(vector=method.vector(CONCEPTS[row.concept_id]), site=tiny.site_of(lm))
        expected = lm.generate(row.instruction, edit=edit, strength=row.strength, max_new_tokens=6)
        assert row.response == expected


def test_models_of_their_own_answer_concept_by_concept(lm):
    """Also where questions of the concepts alternate; rows are in the order of the questions."""
    method, questions = Retrained(), questions_of()
    mixed = [questions[i] for i in (0, 3, 1, 4, 5, 2)]
    protocol = ProtocolConfig(prompts=2, max_new_tokens=6, temperature=0.0)
    rows = answer(prepared_of(lm, method), mixed, protocol)
    assert [(r.concept_id, r.prompt_id) for r in rows] == [
        (q.concept.id, q.prompt_id) for q in mixed
    ]
    for row, question in zip(rows, mixed, strict=True):
        asked = [Asked(question.concept, question.instruction)]
        other = method.steer(lm, tiny.site_of(lm), Learned(), asked).lm
        assert row.response == other.generate(question.instruction, max_new_tokens=6)
        assert row.strength is None


def test_likelihood_is_the_plain_models_after_the_plain_instruction(lm):
    for row in answer(prepared_of(lm, Rewrite()), questions_of(), PROTOCOL):
        assert row.given == f"{row.concept}: {row.instruction}"
        assert row.strength is None
        prompt = lm.chat.prompt(row.given)
        seeded = lm.generate(row.given, max_new_tokens=6, temperature=1.0, seed=row.seed)
        assert row.response == seeded
        response = lm.chat.response(row.response)
        if len(response) != row.tokens or not response:
            continue  # text that does not tokenise back to what was generated
        prompt = lm.chat.prompt(row.instruction).ids
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*prompt, *response]])).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        mean = -scores[range(len(response)), response].mean()
        assert row.nll == pytest.approx(float(mean), abs=1e-4)


def test_an_empty_answer_has_no_likelihood(tiny_llama):
    every = tiny.ending_with(tiny_llama, *range(tiny.VOCAB))
    rows = answer(prepared_of(every, Unsteered()), questions_of()[:2], PROTOCOL)
    assert [row.response for row in rows] == ["", ""]
    assert all(math.isnan(row.nll) and row.tokens == 0 for row in rows)


def test_batches_hold_whole_concepts():
    parts = [[question] * 3 for question in questions_of()[:5]]
    for size, counts in ((1, [1] * 5), (12, [2, 2, 1]), (13, [2, 2, 1]), (1000, [5])):
        found = list(batches(parts, 2, size))
        assert [len(batch) for batch in found] == counts
        assert [part for batch in found for part in batch] == parts


def example(prompt, response, concept_id=0):
    return Example(
        prompt=prompt,
        response=response,
        concept_id=concept_id,
        category="positive",
        genre="text",
        complete=False,
    )


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_the_gap_is_the_difference_of_losses_worked_out_by_hand(lm, strength):
    method, site = Push(), tiny.site_of(lm)
    rows = [example("Hi", "the ship and the bees"), example("Why?", "honey honey")]
    gap = concept_gap(prepared_of(lm, method), rows, *CONCEPTS, strength, max_response_tokens=5)
    total = 0.0
    for row in rows:
        prompt, response = lm.chat.prompt(row.prompt), lm.chat.response(row.response)[:5]
        for sign, concept in ((-1, CONCEPTS[0]), (1, CONCEPTS[1])):
            pushed = strength * method.vector(concept)

            def push(_module, _args, output, pushed=pushed, start=prompt.prefix):
                hidden = output if isinstance(output, torch.Tensor) else output[0]
                hidden = hidden.clone()
                hidden[:, start:] += pushed
                return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

            hook = tiny.module_at(lm, site).register_forward_hook(push)
            try:
                with torch.no_grad():
                    logits = lm.model(torch.tensor([[*prompt.ids, *response]])).logits[0]
            finally:
                hook.remove()
            scores = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1]
            total += sign * -float(scores[range(len(response)), response].mean())
    assert gap == pytest.approx(total / len(rows), abs=1e-4)
    assert abs(gap) > 1e-3


def test_the_gap_reads_no_more_rows_at_once_than_a_batch_holds(tiny_llama):
    rows = [example(text, "the ship and the bees") for text in INSTRUCTIONS]
    prepared = prepared_of(tiny_llama, Push())
    whole = concept_gap(prepared, rows, *CONCEPTS, 1.0, 8)
    with rows_seen(tiny_llama) as seen:
        gap = concept_gap(prepared, rows, *CONCEPTS, 1.0, 8, 2)
    assert max(seen) == 2
    assert gap == pytest.approx(whole, abs=1e-5)


def test_the_gap_of_a_method_that_ignores_the_concept_is_zero(lm):
    rows = [example("Hi", "the ship and the bees")]
    assert concept_gap(prepared_of(lm, Unsteered()), rows, *CONCEPTS, None, 8) == 0
