"""The linear probe step by step, with torch's own loss and gradient."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.methods.probe import LinearProbe
from hypersteer.methods.random import unit_vectors
from methods.cases import concepts_of, states_alone


def by_hand(lm, site, entry, recipe):
    """AdamW written out: decay, moments, bias corrections."""
    rows = [*entry.positives, *entry.negatives]
    states = [states_alone(lm, site, row) for row in rows]
    weight = unit_vectors([entry.concept.id], tiny.WIDTH, recipe.seed)[0]
    first, second = torch.zeros(2, tiny.WIDTH)
    per_epoch = -(-len(rows) // recipe.batch_size)
    for step in range(recipe.epochs * per_epoch):
        epoch, within = divmod(step, per_epoch)
        order = np.random.default_rng([recipe.seed, entry.concept.id, epoch]).permutation(len(rows))
        chosen = order[within * recipe.batch_size : (within + 1) * recipe.batch_size]
        leaf = weight.clone().requires_grad_()
        logits = torch.cat([states[row] @ leaf for row in chosen])
        labels = torch.cat(
            [torch.full((len(states[r]),), float(r < len(entry.positives))) for r in chosen]
        )
        F.binary_cross_entropy_with_logits(logits, labels).backward()
        weight = weight / weight.norm()
        gradient = leaf.grad - (leaf.grad @ weight) * weight
        rate = recipe.learning_rate * (1 - step / (recipe.epochs * per_epoch))
        weight = weight * (1 - rate * recipe.weight_decay)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        weight = weight - rate * first / (1 - 0.9 ** (step + 1)) / corrected
    return weight / weight.norm()


def test_training_is_the_recipe_by_hand(lm):
    site, concepts = tiny.site_of(lm), concepts_of(4, 3)
    recipe = LinearProbe(batch_size=3, epochs=3, learning_rate=0.05, weight_decay=0.1)
    found = recipe.fit(lm, site, concepts).tensors["directions"]
    for direction, entry in zip(found, concepts, strict=True):
        torch.testing.assert_close(
            direction, by_hand(lm, site, entry, recipe), atol=2e-4, rtol=1e-3
        )


def test_a_planted_direction_is_recovered():
    """States of both classes are spread alike, but for a step along the direction that is smaller
    than what the loss no longer feels, since the weight's length is fixed."""
    generator = torch.Generator().manual_seed(0)
    (direction,) = unit_vectors([5], 64, seed=9)
    labels = [number % 2 == 0 for number in range(60)]
    texts = [
        0.5 * torch.randn(20, 64, generator=generator) + (direction if label else -direction)
        for label in labels
    ]
    found = LinearProbe().train(texts, labels, id_=0)
    start = unit_vectors([0], 64, seed=42)[0]
    assert float(found @ direction) > 0.9
    assert abs(float(start @ direction)) < 0.3
    assert float(LinearProbe().train(texts, [not label for label in labels], 0) @ direction) < -0.9


def test_bad_settings_and_rows(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"the linear probe cannot learn concept 7.*negative"):
        LinearProbe().fit(tiny_llama, tiny.site_of(tiny_llama), [entry._replace(negatives=[])])
    for name in ("batch_size", "epochs", "learning_rate"):
        with pytest.raises(ConfigError, match=f"{name} 0"):
            LinearProbe(**{name: 0})
    with pytest.raises(ConfigError, match="weight_decay -1"):
        LinearProbe(weight_decay=-1)
