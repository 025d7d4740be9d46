"""Invariant 9: gradients reach the hypernetwork only; one expanded pass is as good as several."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tiny
from hypersteer.training.forward import Steered, plain_losses, steered_losses

TEXTS = ("Tell me about your day at the sea, and say why.", "Hi", "Why is the sky blue?")
ANSWERS = ("Aye, the sea and the day.", "Arr!", "So say the bees.")
STEER = ("talk like a pirate", "mention bees", "be kind", "be terse, please", "sing", "a b c")


@pytest.fixture(scope="session", params=tiny.EVERY)
def lm(request):
    return tiny.lm_of(request.param)


def trainable(lm, variant, kind="residual", scope="all"):
    """A trainable copy of the test steerer's hypernetwork, and how training runs it."""
    steerer = tiny.steerer_of(lm, variant, kind, scope=scope)
    network = copy.deepcopy(steerer.hypernet).train().requires_grad_(True)
    return network, Steered(lm, network, steerer.card.hypernet, [steerer.card.site], scope)


def rows(lm, count):
    prompts = [lm.chat.prompt(text) for text in TEXTS[:count]]
    responses = [lm.chat.response(text, ends=True) for text in ANSWERS[:count]]
    steering = [lm.chat.text(text) for text in STEER]
    return prompts, responses, [steering[:count], steering[count : 2 * count]]


def losses_by_hand(steerer, count, copies=2):
    """[K, B]: the edit of each pair, written by a plain hook, and torch's own cross-entropy."""
    lm, losses = steerer.lm, torch.zeros(copies, count)
    for number in range(copies * count):
        row = number % count
        edit = steerer.edit(STEER[number], TEXTS[row])
        prompt = lm.chat.prompt(TEXTS[row])
        response = lm.chat.response(ANSWERS[row], ends=True)
        delta = torch.zeros(len(prompt.ids) + len(response), lm.width)
        delta[prompt.prefix :] = edit.vector

        def add(_module, _args, output, delta=delta):
            if isinstance(output, Tensor):
                return output + delta
            return (output[0] + delta, *output[1:])

        hook = tiny.module_at(lm, edit.site).register_forward_hook(add)
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*prompt.ids, *response]])).logits[0]
        hook.remove()
        predicted = logits[len(prompt.ids) - 1 : -1]
        losses[number // count, row] = F.cross_entropy(predicted, torch.tensor(response))
    return losses


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_9_a_expanded_pass_equals_separate_passes(lm, kind, count):
    _, setup = trainable(lm, "cross-attention", kind)
    prompts, responses, steering = rows(lm, count)
    with torch.no_grad():
        together = steered_losses(setup, prompts, responses, steering)
        apart = [steered_losses(setup, prompts, responses, [one]) for one in steering]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)
    by_hand = losses_by_hand(tiny.steerer_of(lm, "cross-attention", kind), count)
    torch.testing.assert_close(together, by_hand, rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 5e-4


@pytest.mark.parametrize("variant", tiny.VARIANTS[1:])
def test_9_losses_of_the_other_variants_equal_those_by_hand(lm, variant):
    _, setup = trainable(lm, variant)
    with torch.no_grad():
        losses = steered_losses(setup, *rows(lm, 3))
    by_hand = losses_by_hand(tiny.steerer_of(lm, variant), 3)
    torch.testing.assert_close(losses, by_hand, rtol=0, atol=1e-4)


def test_9_gradients_of_a_expanded_pass_equal_those_of_separate_passes(lm):
    network, setup = trainable(lm, "cross-attention")
    prompts, responses, steering = rows(lm, 3)

    def gradients(parts):
        network.zero_grad()
        for part in parts:
            steered_losses(setup, prompts, responses, part).sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    together, apart = gradients([steering]), gradients([[one] for one in steering])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_9_gradients_reach_the_whole_hypernetwork_and_nothing_else(lm, variant):
    network, setup = trainable(lm, variant)
    before = {name: value.clone() for name, value in lm.model.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    steered_losses(setup, *rows(lm, 2)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k_proj.bias"):  # the same for every key, so softmax cancels it
            assert parameter.grad.abs().max() > 1e-8, name
    optimizer.step()
    for name, parameter in lm.model.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    for name, value in lm.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_9_nothing_below_the_site_is_kept_for_the_backward_pass(lm):
    """Blocks below the site have no graph, the site and those above have one."""
    _, setup = trainable(lm, "no-context", kind="mlp")
    graph = {}

    def look(layer):
        def hook(_module, _args, output):
            hidden = output if isinstance(output, Tensor) else output[0]
            graph[layer] = (hidden.requires_grad, len(hidden))

        return hook

    hooks = [block.register_forward_hook(look(i)) for i, block in enumerate(lm.blocks)]
    steered_losses(setup, *rows(lm, 3))
    for hook in hooks:
        hook.remove()
    assert graph == {0: (False, 3), 1: (True, 6), 2: (True, 6), 3: (True, 6)}


def test_9_plain_losses_equal_those_by_hand(lm):
    prompts, responses, _ = rows(lm, 3)
    losses = plain_losses(lm, prompts, responses)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*prompt.ids, *response]])).logits[0]
        expected = F.cross_entropy(logits[len(prompt.ids) - 1 : -1], torch.tensor(response))
        torch.testing.assert_close(losses[row], expected, rtol=0, atol=1e-5)
