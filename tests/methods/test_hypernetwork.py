"""What training a hypernetwork costs, counted by hand on a tiny model."""

import dataclasses

import pytest

import tiny
from hypersteer.methods.hypernetwork import _training_flops
from methods.cases import concepts_of

STEPS, BATCH, WEIGHTS = 10, 4, 1000


def flops(case, **loss):
    training = {"optim": {"batch_size": BATCH}, "loss": {"contrast": 0.0, **loss}}
    card = dataclasses.replace(case.steerer.card, training=training, step=STEPS)
    return _training_flops(card, case.lm, WEIGHTS, concepts_of(3, 2))


@pytest.fixture(scope="module")
def case():
    return tiny.case_of("llama", "cross-attention")


@pytest.fixture(scope="module")
def counted(case):
    """Mean tokens of a row and of a steering prompt, and weights below and above the site."""
    lm, concepts = case.lm, concepts_of(3, 2)
    rows = [row for entry in concepts for row in entry.positives]
    tokens = [len(lm.chat.prompt(r.prompt).ids) + len(lm.chat.response(r.response)) for r in rows]
    read = [len(lm.chat.text(entry.concept.text)) + 1 for entry in concepts]
    first = case.steerer.card.site.layer + 1
    sizes = [sum(p.numel() for p in block.parameters()) for block in lm.blocks]
    head = lm.vocab * lm.width
    return (
        sum(tokens) / len(tokens),
        sum(read) / len(read),
        sum(sizes[:first]),
        sum(sizes[first:]) + head,
    )


@pytest.mark.parametrize("contrast", [0.0, 2.0])
def test_language_modelling(case, counted, contrast):
    tokens, read, below, above = counted
    passes = 2 if contrast else 1
    row = 2 * below * tokens + passes * (4 * above * tokens + 6 * WEIGHTS * read)
    assert flops(case, contrast=contrast) == pytest.approx(row * BATCH * STEPS)


@pytest.mark.parametrize(("guidance", "teachers"), [(0.0, 1), (0.6, 2)])
def test_a_teacher_costs_whole_passes(case, counted, guidance, teachers):
    tokens, _, below, above = counted
    more = flops(case, objective="distillation", guidance=guidance) - flops(case)
    assert more == pytest.approx(teachers * 2 * (below + above) * tokens * BATCH * STEPS)
