"""Running the upper blocks alone against the whole model with a hand-placed hook."""

import copy
import threading

import pytest
import torch

import tiny
from hypersteer.edits.sites import Site
from hypersteer.learning.corpus import States, make_corpus
from hypersteer.learning.upper_blocks import UpperLosses
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import response_losses
from methods.cases import Untouched, concepts_of, hooked

SITES = [Site(0), Site(1), Site(3), Site(1, "attention"), Site(2, "mlp")]


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
