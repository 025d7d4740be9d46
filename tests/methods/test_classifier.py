"""Concept classifiers against torch's own layers, and what they read of the base LM."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.corpus import batch_of, make_corpus
from hypersteer.lm.chat import collate, length_batches
from hypersteer.methods.classifier import (
    Classifier,
    Training,
    classifier_of,
    last_states,
    learn,
    train,
)
from methods.cases import alone, concepts_of, states_alone

RECIPE = Training(batch_size=4, epochs=3, learning_rate=0.01, weight_decay=0.1, dropout=0.0, seed=5)


@cache
def copy_of(lm):
    """Another copy of the model, since transformers leaves hooks behind where it returns states."""
    return copy.deepcopy(lm.model)


def final_states(lm, one):
    """Hidden state after the final norm at the last token, as the model itself returns it."""
    ids, *_ = alone(lm, one)
    return copy_of(lm)(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]


def layers(classifier):
    inner, outer = nn.Linear(32, 16), nn.Linear(16, 2)
    with torch.no_grad():
        for layer, weight, bias in (
            (inner, classifier.inner, classifier.inner_bias),
            (outer, classifier.outer, classifier.outer_bias),
        ):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return nn.Sequential(inner, nn.ReLU(), outer)


def test_the_last_states_are_those_that_the_head_reads(lm):
    examples = [*concepts_of(4)[0].positives, *concepts_of(4)[0].negatives]
    prompts = [lm.chat.prompt(one.prompt) for one in examples]
    responses = [lm.chat.response(one.response, ends=True) for one in examples]
    with torch.no_grad():
        found = last_states(lm, collate(prompts, responses, pad_id=lm.chat.pad_id))
        expected = torch.stack([final_states(lm, one) for one in examples])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_training_without_dropout_is_torchs_own():
    states = torch.randn(10, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) < 6
    found = train(states, labels, RECIPE, id_=3)
    random = np.random.default_rng([5, 3])
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    model = layers(Classifier.untrained(32, generator))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    step = 0
    for _ in range(3):
        order = random.permutation(10)
        for rows in (order[:4], order[4:8], order[8:]):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 9)
            optimizer.zero_grad()
            probabilities = model(states[rows]).softmax(-1)  # the softmax is taken once
            F.nll_loss(probabilities.log(), labels[rows].long()).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        answers = model(states)
    torch.testing.assert_close(
        found.log_odds(states), answers[:, 1] - answers[:, 0], atol=1e-4, rtol=1e-4
    )


def test_it_tells_what_was_planted_also_with_dropout():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 32, generator=generator)
    labels = torch.rand(200, generator=generator) < 0.5
    states[:, 4] += 4.0 * labels
    recipe = RECIPE._replace(dropout=0.3, epochs=10)
    found = train(states[:120], labels[:120], recipe, id_=0)
    assert ((found.log_odds(states[120:]) > 0) == labels[120:]).double().mean() > 0.9
    assert not torch.equal(found.inner, train(states[:120], labels[:120], recipe, id_=1).inner)
    wrong = train(states[:120], ~labels[:120], recipe, id_=0)
    assert ((wrong.log_odds(states[120:]) > 0) == labels[120:]).double().mean() < 0.1


def test_learning_reads_every_text_once_and_keeps_one_classifier_each(tiny_llama):
    site, concepts, steps = tiny.site_of(tiny_llama), concepts_of(4, 3), []
    learned = learn(tiny_llama, site, concepts, RECIPE, 80, steps.append)
    rows = {row for entry in concepts for row in [*entry.positives, *entry.negatives]}
    states = torch.cat([states_alone(tiny_llama, site, row) for row in rows])
    torch.testing.assert_close(learned.tensors["baseline"], states.mean(0), atol=1e-4, rtol=1e-4)
    for entry in concepts:
        rows = [*entry.positives, *entry.negatives]
        with torch.no_grad():
            last = torch.stack([final_states(tiny_llama, row) for row in rows])
        labels = torch.arange(len(rows)) < len(entry.positives)
        expected = train(last, labels, RECIPE, entry.concept.id)
        found = classifier_of(learned, entry.concept)
        torch.testing.assert_close(found.inner, expected.inner, atol=1e-3, rtol=1e-3)
    assert sum(steps) == pytest.approx(1)
    assert learned.cost.parameters == 16 * 32 + 16 + 2 * 16 + 2
    texts = make_corpus(tiny_llama, concepts).texts
    with tiny.counting_flops() as counter:
        for part in length_batches([text.size for text in texts], tokens=80):
            last_states(tiny_llama, batch_of(tiny_llama, [texts[number] for number in part]))
    assert 2 * learned.cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert learn(tiny_llama, site, [], RECIPE, 80, None).tensors["inner"].shape == (0, 16, 32)


def test_bad_settings_and_rows(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"gradient method cannot learn concept 7.*negative"):
        learn(
            tiny_llama, tiny.site_of(tiny_llama), [entry._replace(negatives=[])], RECIPE, 80, None
        )
    for change in ({"batch_size": 0}, {"epochs": 0}, {"weight_decay": -1.0}, {"dropout": 1.0}):
        (name,) = change
        with pytest.raises(ConfigError, match=name):
            RECIPE._replace(**change).check()
