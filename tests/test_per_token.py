"""Per-token edits: the field against loops, the flow, and rows in batches of every family."""

from dataclasses import replace

import pytest
import torch

import hypersteer as hs
import tiny
from flows import C, D, random_field, velocity_by_loops
from hypersteer.checkpoint import read_hypernet, write_folder
from hypersteer.config import HypernetConfig
from hypersteer.edits.per_token import PerToken
from hypersteer.edits.sites import Site
from hypersteer.edits.velocity import sines
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.hypernet.card import read_card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.training.forward import plain_losses

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]
SHORT = {"max_new_tokens": tiny.WINDOW}


def flowing(lm, more=(), variant="no-context"):
    """A steerer whose fields move states in earnest."""
    return tiny.steerer_of(
        tiny.ending_with(lm), edit="per-token", more_layers=more, variant=variant
    )


@pytest.mark.parametrize("strength", [1.0, -0.5, 2.0])
def test_the_flow_by_loops(strength):
    """Three Euler steps, token by token; steering prompts of two lengths in one batch."""
    field, sizes = random_field(), torch.linspace(0.5, 4.0, D)
    generator = torch.Generator().manual_seed(1)
    hidden = 2 * torch.randn(2, 5, D, generator=generator)
    keys, values = (torch.randn(2, C, D, generator=generator) for _ in range(2))
    present = torch.tensor([[True] * C, [True, True, False, False]])
    mask = torch.rand(2, 5, generator=generator) < 0.7
    params = {"keys": keys, "values": values, "present": present}
    found = PerToken(field, lambda: sizes).apply(
        hidden, params, mask, torch.tensor([strength, strength])
    )
    for row, length in ((0, 4), (1, 2)):
        for token in range(5):
            if not mask[row, token]:
                assert torch.equal(found[row, token], hidden[row, token])
                continue
            state = hidden[row, token] / sizes
            for step in range(3):
                time = step * strength / 3
                velocity = velocity_by_loops(
                    field, state, time, keys[row, :length], values[row, :length]
                )
                state = state + strength / 3 * velocity
            torch.testing.assert_close(found[row, token], state * sizes, rtol=1e-4, atol=1e-4)


def test_rows_without_an_edit_stay_and_strength_0_is_nothing():
    field, hidden = random_field(), torch.randn(3, 5, D)
    params = {
        "keys": torch.zeros(3, C, D),
        "values": torch.zeros(3, C, D),
        "present": torch.tensor([[False] * C, [True] * C, [True] * C]),
    }
    mask = torch.tensor([False, True, True])[:, None].expand(3, 5)
    kind = PerToken(field, lambda: torch.ones(D))
    found = kind.apply(hidden, params, mask, torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(found[:2], hidden[:2])
    assert not torch.equal(found[2], hidden[2])
    assert bool(found.isfinite().all())


def test_time_is_told_apart():
    features = sines(torch.tensor([0.0, 1 / 3, 2 / 3, 1.0, 2.0]))
    apart = torch.cdist(features, features) + 9 * torch.eye(5)
    assert apart.min() > 1.0


@pytest.mark.parametrize("variant", ["no-context", "cross-attention"])
def test_a_row_is_answered_alike_alone_in_a_batch_and_streamed(lm, variant):
    """Beside rows with longer steering prompts, other strengths, and none; at two sites."""
    steerer = flowing(lm, (2,), variant)
    steers = ["sing of bees", "tell of a ship at the sea, at length", None]
    strengths = [0.7, -0.5, 1.0]
    alone = [
        steerer.generate(text, steer=steer, strength=strength, **SHORT)
        for text, steer, strength in zip(TEXTS, steers, strengths, strict=True)
    ]
    assert steerer.generate(TEXTS, steer=steers, strength=strengths, **SHORT) == alone
    for row, text in enumerate(TEXTS):
        pieces = steerer.stream(text, steer=steers[row], strength=strengths[row], **SHORT)
        assert "".join(pieces) == alone[row]
    plain = steerer.lm.generate(TEXTS, **SHORT)
    assert alone[2] == plain[2]
    assert alone[0] != plain[0]
    assert alone[1] != plain[1]
    none = steerer.generate(TEXTS, steer="sing of bees", strength=0.0, **SHORT)
    assert none == plain


def test_it_goes_together_with_other_edits_on_a_row(tiny_llama):
    steerer = flowing(tiny_llama)
    vector = tiny.edit_of(steerer.lm, Site(2))
    both = steerer.generate(TEXTS, steer="sing of bees", edits=[vector], **SHORT)
    each = [steerer.generate(t, steer="sing of bees", edits=[vector], **SHORT) for t in TEXTS]
    assert both == each
    assert both != steerer.generate(TEXTS, steer="sing of bees", **SHORT)
    assert both != steerer.lm.generate(TEXTS, edit=[vector] * 3, **SHORT)


@pytest.mark.parametrize("self_attention", [False, True])
def test_a_hypernetwork_learns_it_and_is_kept_exactly(tiny_llama, tmp_path, self_attention):
    lm, site = tiny_llama, Site(1)
    config = HypernetConfig(
        blocks=1,
        edit="per-token",
        more_layers=(3,),
        variant="no-context",
        self_attention=self_attention,
    )
    net = new_hypernet(lm, config, site, seed=0)
    losses = []
    for loss in tiny.losses_while_learning(lm, net, TEXTS):
        losses.append(loss)
        if len(losses) > 1:  # the last layers of the fields start at zero
            for name, parameter in net.named_parameters():
                assert parameter.grad.abs().max() > 0, name
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    responses = [lm.chat.response("the sea the bees")] * 3
    plain = float(plain_losses(lm, prompts, responses).mean())
    assert losses[0] == pytest.approx(plain, abs=1e-5)  # at first nothing moves
    assert losses[-1] < losses[0] - 0.01
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    card = replace(tiny.steerer_of(lm).card, hypernet=config)
    write_folder(tmp_path, net.eval().state_dict(), card)
    read = read_card(tmp_path)
    again = hs.Steerer(lm, read_hypernet(tmp_path, read, lm), read)
    first = hs.Steerer(lm, net, card)
    one, other = (s.generate(TEXTS, steer="sing of bees", **SHORT) for s in (first, again))
    assert one == other


def test_what_it_cannot_do_is_told(tiny_llama, tmp_path):
    steerer = flowing(tiny_llama)
    with pytest.raises(SteeringError, match="per-token edits act through the hypernetwork"):
        steerer.edit("sing of bees", "Hi")
    for options, told in (
        ({"style": True}, "hypernet.style .* leave them out"),
        ({"prior": "activation"}, "set the prior to 'none'"),
        ({"cross_heads": 5}, "cross_heads 5 does not divide"),
    ):
        config = HypernetConfig(blocks=1, edit="per-token", variant="no-context", **options)
        with pytest.raises(ConfigError, match=told):
            new_hypernet(tiny_llama, config, Site(1), 0)
