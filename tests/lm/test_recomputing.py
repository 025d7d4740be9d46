"""Blocks that run again in the backward pass: same numbers, less kept, and the model untouched."""

import threading
from contextlib import ExitStack

import pytest
import torch
from torch import nn

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_input, at_sites
from hypersteer.lm.recomputing import recomputed, recomputing
from hypersteer.lm.upper_blocks import upper_blocks
from saved import saved_bytes

TEXTS = ("Tell me about your day at the sea, and say why.", "Hi")
ABOVE = (2, 3)


@pytest.fixture(scope="session", params=tiny.EVERY)
def lm(request):
    return tiny.lm_of(request.param)


def steered(lm, view):
    """Logits under a vector at layer 1, the gradient of that, and the bytes kept for it."""
    batch = collate([lm.chat.prompt(text) for text in TEXTS], pad_id=lm.chat.pad_id)
    vector = torch.linspace(-1, 1, lm.width, requires_grad=True)
    parameters = lm.model.parameters()
    with saved_bytes(parameters) as kept, at_sites(view.blocks, [(Site(1), vector.add)]):
        logits = view.logits(batch)
    logits[batch.spans.real].square().mean().backward()
    return logits.detach(), vector.grad, kept.total


def test_the_same_numbers_with_less_kept(lm):
    logits, gradient, kept = steered(lm, lm)
    again = steered(lm, recomputing(lm, ABOVE))
    assert torch.equal(again[0], logits)
    assert torch.equal(again[1], gradient)
    assert gradient.abs().max() > 0
    assert again[2] < 0.7 * kept  # what is left is the head's, which does not run again


def test_the_model_is_untouched(lm):
    before = [(module, dict(vars(module))) for module in lm.model.modules()]
    children = [dict(module._modules) for module in lm.model.modules()]
    steered(lm, recomputing(lm, ABOVE))
    modules = list(lm.model.modules())
    assert [dict(module._modules) for module in modules] == children
    for (module, attributes), now in zip(before, modules, strict=True):
        assert now is module
        assert vars(now).keys() == attributes.keys()
        assert not now._forward_hooks
        assert not now._forward_pre_hooks
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_only_the_named_blocks_run_again(tiny_llama):
    runs = []

    def told(number):
        def tell(args, kwargs):
            runs.append(number)
            return args, kwargs

        return tell

    with ExitStack() as stack:
        for number, block in enumerate(tiny_llama.blocks):
            stack.enter_context(at_input(block, told(number)))
        steered(tiny_llama, recomputing(tiny_llama, [2]))
    assert runs == [0, 1, 2, 3, 2]


def test_upper_blocks_run_again_in_a_view_of_a_view(tiny_llama):
    upper = upper_blocks(tiny_llama, 2)
    assert upper is not None
    states = torch.randn(2, 7, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    batch = collate([tiny_llama.chat.prompt("Hi")] * 2, pad_id=0)
    states = states[:, :1].repeat(1, batch.ids.shape[1], 1)

    def gradient(view):
        given = states.clone().requires_grad_()
        with upper.given(given):
            view.logits(batch).square().mean().backward()
        return given.grad

    expected = gradient(upper.view)
    assert torch.equal(gradient(recomputing(upper.view, ABOVE)), expected)
    assert expected.abs().max() > 0


def test_nothing_runs_again_without_gradients(tiny_llama):
    runs = []
    with torch.no_grad(), at_sites(tiny_llama.blocks, [(Site(2), lambda _: runs.append(2))]):
        batch = collate([tiny_llama.chat.prompt("Hi")], pad_id=0)
        logits = recomputing(tiny_llama, ABOVE).logits(batch)
        assert torch.equal(logits, tiny_llama.logits(batch))
    assert runs == [2, 2]


def test_what_is_random_is_drawn_alike():
    dropout = nn.Dropout(0.5)
    x = torch.ones(1000, requires_grad=True)
    y = recomputed(lambda t: dropout(t.exp()))(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # the derivative of exp, where it was not dropped
    assert 300 < int((y == 0).sum()) < 700


def test_a_backward_pass_in_another_thread(tiny_llama):
    """As on a GPU, where autograd has threads of its own."""
    _, expected, _ = steered(tiny_llama, tiny_llama)
    batch = collate([tiny_llama.chat.prompt(text) for text in TEXTS], pad_id=2)
    vector = torch.linspace(-1, 1, tiny.WIDTH, requires_grad=True)
    view = recomputing(tiny_llama, ABOVE)
    with at_sites(view.blocks, [(Site(1), vector.add)]):
        loss = view.logits(batch)[batch.spans.real].square().mean()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert torch.equal(vector.grad, expected)


def test_a_model_that_is_spread_out_has_no_view():
    lm = BaseLM.of(tiny.model_of("llama"), tiny.tokenizer(), name="llama")
    lm.model.forward = lm.model.forward  # in the model itself, as Accelerate's dispatch has it
    with pytest.raises(ModelError, match="llama is spread over several devices") as caught:
        recomputing(lm, ())
    assert "\n" not in str(caught.value)
