"""What training a hypernetwork costs: whole runs, made of steps like the rows that are at hand."""

import dataclasses

import pytest

import tiny
from hypersteer.config import LossConfig
from hypersteer.hypernet.step_flops import RowLengths, StepShape, step_flops
from hypersteer.lm.flops import LMFlops
from hypersteer.methods.hypernetwork import training_flops
from methods.cases import concepts_of

STEPS, BATCH = 10, 2
CONCEPTS = concepts_of(1, 1)


def flops(case, concepts=CONCEPTS, batch=BATCH, **loss):
    training = {"optim": {"batch_size": batch}, "loss": {"contrast": 0.0, **loss}}
    card = dataclasses.replace(case.steerer.card, training=training, step=STEPS)
    return training_flops(card, case.lm, concepts)


@pytest.fixture(scope="module")
def case():
    return tiny.case_of("llama", "cross-attention")


def step_of(case, contrast=0.0):
    """A step of both concepts' one row, each with the other's steering prompt as the wrong one."""
    card, chat = case.steerer.card, case.lm.chat
    rows = []
    for entry, other in (CONCEPTS, CONCEPTS[::-1]):
        (row,) = entry.positives
        prompt = chat.prompt(row.prompt)
        texts = entry.concept.text, other.concept.text
        lengths = [len(chat.text(text)) for text in texts]
        answer = len(chat.response(row.response, ends=row.complete))
        rows.append(
            RowLengths(len(prompt.ids), answer, *lengths, prefix=prompt.prefix, texts=texts)
        )
    shape = StepShape(
        lm=LMFlops.of_lm(case.lm),
        hypernet=card.hypernet,
        sites=(card.site,),
        loss=LossConfig(contrast=contrast),
    )
    return step_flops(shape, sorted(rows, key=lambda row: row.prompt + row.response)).total


@pytest.mark.parametrize("contrast", [0.0, 2.0])
def test_a_run_is_its_steps(case, contrast):
    assert flops(case, contrast=contrast) == step_of(case, contrast) * STEPS


def test_rows_are_scaled_to_the_batch(case):
    assert flops(case, batch=8) == pytest.approx(4 * flops(case))


def test_a_teacher_costs_more_and_a_run_that_says_nothing_costs_nothing(case):
    one, two = (flops(case, objective="distillation", guidance=g) for g in (0.0, 0.6))
    assert flops(case) < one < two
    assert training_flops(case.steerer.card, case.lm, CONCEPTS) == 0
    assert flops(case, concepts=concepts_of(0, 0)) == 0
    assert flops(case, unheard_of=1) == 0
