"""The training loop spelled out, and losses above a site against plain forward passes."""

import copy
import math
import threading

import numpy as np
import pytest
import torch

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, TrainingError
from hypersteer.learning.adapter_training import (
    Recipe,
    Responses,
    UpperLosses,
    positives_only,
    train,
)
from hypersteer.learning.corpus import States, make_corpus
from hypersteer.learning.model_copy import copy_model
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import response_losses
from methods.cases import Untouched, concepts_of, hooked
from methods.loops import row_loss

RECIPE = Recipe(batch_size=3, epochs=2, learning_rate=0.1, max_norm=0.5, seed=5, batch_tokens=10**6)
SITES = [Site(0), Site(1), Site(3), Site(1, "attention"), Site(2, "mlp")]


def targets_of(corpus):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(corpus.texts), 2, generator=generator)


def fitted(lm, concepts, recipe, done=None):
    """Parameters that are drawn to the targets of a concept's texts."""
    corpus = make_corpus(lm, positives_only(concepts))
    targets = targets_of(corpus)
    weights = [torch.zeros(2, requires_grad=True) for _ in concepts]

    def losses(rows):
        return torch.stack([0.5 * (weights[n] - targets[text]).square().sum() for n, text in rows])

    train(recipe, [e.concept for e in concepts], corpus, [[w] for w in weights], losses, done)
    return torch.stack(weights).detach(), corpus


def by_the_recipe(rows, targets, concept_id, recipe):
    """AdamW spelled out; the gradient of a step is the weight minus its mean target."""
    w, first, second = torch.zeros(3, 2)
    per_epoch = math.ceil(len(rows) / recipe.batch_size)
    total = per_epoch * recipe.epochs
    for step in range(total):
        epoch, within = divmod(step, per_epoch)
        order = np.random.default_rng([recipe.seed, concept_id, epoch]).permutation(len(rows))
        chosen = [rows[i] for i in order[within * recipe.batch_size :][: recipe.batch_size]]
        gradient = w - targets[chosen].mean(0)
        if recipe.max_norm:
            gradient = gradient * min(1.0, recipe.max_norm / float(gradient.norm()))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        rate = recipe.learning_rate * (1 - step / total)
        w = w - rate * first / (1 - 0.9 ** (step + 1)) / scale
    return w


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("batch_tokens", [1, 100, 10**6])
def test_concepts_together_equal_the_recipe_one_after_another(tiny_llama, max_norm, batch_tokens):
    """Of different numbers of rows, so that some end before others."""
    recipe = Recipe(
        batch_size=3, epochs=2, learning_rate=0.1, max_norm=max_norm, seed=5,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    concepts, shares = concepts_of(5, 2, 8), []
    found, corpus = fitted(tiny_llama, concepts, recipe, shares.append)
    assert shares == [1 / 6] * 6
    for entry, rows, weight in zip(concepts, corpus.positives, found, strict=True):
        expected = by_the_recipe(rows, targets_of(corpus), entry.concept.id, recipe)
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=0)


def test_what_is_not_finite_is_told(tiny_llama):
    endless = Recipe(
        batch_size=3, epochs=1, learning_rate=math.inf, max_norm=0, seed=0, batch_tokens=99
    )
    with pytest.raises(TrainingError, match=r"concept 7 .* no longer finite; lower learning_rate"):
        fitted(tiny_llama, concepts_of(4), endless)


def test_bad_settings():
    good = {"batch_size": 1, "epochs": 1, "learning_rate": 1.0, "max_norm": 0.0, "seed": 0}
    for name, value in (("batch_size", 0), ("epochs", 0), ("learning_rate", 0.0), ("seed", -1)):
        with pytest.raises(ConfigError, match=f"{name} {value}"):
            Recipe(**(good | {name: value}), batch_tokens=9)
    with pytest.raises(ConfigError, match=r"max_norm -1"):
        Recipe(**(good | {"max_norm": -1.0}), batch_tokens=9)


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_losses_are_hugging_faces(lm, layer):
    """Under edits at the site and above it, whether or not the lower blocks run."""
    concepts = concepts_of(4, negatives=0)
    corpus = make_corpus(lm, concepts)
    site = None if layer is None else lm.site(layer)
    top = lm.site(3)
    with Untouched(lm), torch.no_grad():
        responses = Responses(lm, site, corpus, epochs=1, batch_tokens=99, cache_bytes=10**6)
        plain = responses.losses([2, 0])
        edited = responses.losses([3, 1], lambda h: 1.5 * h, [(top, lambda h: h - 1)])
    rows = concepts[0].positives
    with torch.no_grad():
        for found, index in zip(plain, (2, 0), strict=True):
            torch.testing.assert_close(found, row_loss(lm.model, lm, rows[index]))
        first = tiny.module_at(lm, site or lm.site(0))
        factor = 1.0 if site is None else 1.5
        with hooked(first, lambda h: factor * h), hooked(tiny.module_at(lm, top), lambda h: h - 1):
            for found, index in zip(edited, (3, 1), strict=True):
                torch.testing.assert_close(found, row_loss(lm.model, lm, rows[index]))


def test_flops_count_what_was_run(tiny_llama):
    """Here without a way back from the states at a site: see the methods for that."""
    corpus = make_corpus(tiny_llama, concepts_of(3, negatives=0))
    tuned = copy_model(tiny_llama, copy_weights=True)
    tuned.model.requires_grad_(True)
    for site in (None, tiny_llama.site(0)):
        responses = Responses(tuned, site, corpus, epochs=2, batch_tokens=99, cache_bytes=10**6)
        responses.losses(range(3))  # whether blocks can be left out is tried once
        before = responses.flops(weights=True)
        with tiny.counting_flops() as counter:
            responses.losses([0, 2]).sum().backward()
        found = responses.flops(weights=True) - before
        assert found == pytest.approx(counter.get_total_flops(), rel=0.005)
        assert responses.flops(weights=False) < before + found


def setup_of(lm, site):
    texts = make_corpus(lm, concepts_of(3)).texts
    states = States(lm, site, texts, [1] * len(texts), batch_tokens=10**6, cache_bytes=0)
    numbers = list(range(len(texts)))
    return states.batch(numbers), states.read(numbers), UpperLosses(lm, site)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_losses_and_gradients_equal_those_of_the_whole_model(lm, site):
    batch, states, above = setup_of(lm, site)
    assert above.skips == (site.kind == "residual")
    vector = torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    mine, theirs = vector.clone().requires_grad_(), vector.clone().requires_grad_()
    with Untouched(lm):
        ours = above.losses(batch, states if above.skips else None, lambda h: h + mine)
    with hooked(tiny.module_at(lm, site), lambda h: h + theirs):
        whole = response_losses(lm, batch)[0]
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)
    weights = torch.arange(1.0, 1 + len(ours))
    (gradient,) = torch.autograd.grad((ours * weights).sum(), mine)
    (expected,) = torch.autograd.grad((whole * weights).sum(), theirs)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
    assert (whole - response_losses(lm, batch)[0]).abs().max() > 1e-3  # the vector is felt


def test_lower_blocks_do_not_run_and_upper_ones_run_once(lm):
    batch, states, above = setup_of(lm, Site(1))
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(lm.blocks)
    ]
    try:
        above.losses(batch, states, lambda hidden: hidden)
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [2, 3]


def test_the_base_lm_runs_as_ever_in_another_thread_meanwhile(tiny_llama):
    batch, states, above = setup_of(tiny_llama, Site(2))
    expected, found = response_losses(tiny_llama, batch), []

    def change(hidden):
        thread = threading.Thread(target=lambda: found.append(response_losses(tiny_llama, batch)))
        thread.start()
        thread.join()
        return 0 * hidden

    changed = above.losses(batch, states, change)
    assert torch.equal(found[0], expected)
    assert not torch.allclose(changed, expected[0])


def test_a_model_whose_forward_is_patched_runs_whole():
    """As Accelerate does it to spread a model: the patched forward would run the real blocks."""
    model = copy.deepcopy(tiny.lm_of("llama").model)
    model.model.forward = model.model.forward  # a bound method, kept as Accelerate keeps its own
    lm = BaseLM.of(model, tiny.tokenizer(), name="llama")
    batch, states, above = setup_of(lm, Site(1))
    assert not above.skips
    with hooked(lm.blocks[1], lambda hidden: hidden + 1):
        whole = response_losses(lm, batch)[0]
    torch.testing.assert_close(above.losses(batch, None, lambda h: h + 1), whole)
    assert states is not None


def test_a_model_whose_upper_blocks_need_more_from_below_runs_whole():
    model = copy.deepcopy(tiny.lm_of("llama").model)
    shared = {}
    model.model.layers[0].register_forward_hook(lambda *_: shared.update(seen=True))

    def needs(_module, args):
        args[0].add_(0.0 if shared.pop("seen", None) else 1.0)

    model.model.layers[3].register_forward_pre_hook(needs)
    lm = BaseLM.of(model, tiny.tokenizer(), name="llama")
    assert not setup_of(lm, Site(1))[2].skips
