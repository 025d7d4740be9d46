"""Attention maps against a plain softmax of queries and keys, and shares by hand."""

import copy
import math

import pytest
import torch

import tiny
from analysis.texts import PROMPTS, STEER
from hypersteer.analysis.attention import (
    AttentionReader,
    Maps,
    measure,
    top_shares,
    uniform_share,
)
from hypersteer.hypernet.cross_attention import CrossAttention
from hypersteer.hypernet.trunk import trunk_blocks


def turned(x, positions, width):
    """Rotary embeddings as Llama has them, written out."""
    rates = 10_000.0 ** -(torch.arange(0, width, 2).float() / width)
    angles = positions[:, None].float() * rates
    cosine, sine = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    one, other = x.chunk(2, -1)
    return x * cosine + torch.cat([-other, one], -1) * sine


def first_layer_by_hand(steerer, ids):
    """Self-attention [H, C, C] of a Llama trunk's first block."""
    block = trunk_blocks(steerer.hypernet.trunk)[0]
    attention = block.self_attn
    states = block.input_layernorm(steerer.lm.embeddings(torch.tensor(ids)).float())
    width = attention.head_dim
    positions = torch.arange(len(ids))
    queries, keys = (
        turned(part(states).unflatten(-1, (-1, width)).transpose(0, 1), positions, width)
        for part in (attention.q_proj, attention.k_proj)
    )
    keys = keys.repeat_interleave(len(queries) // len(keys), 0)
    scores = queries @ keys.transpose(1, 2) / math.sqrt(width)
    hidden = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -math.inf).softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_self_attention_is_the_softmax_of_queries_and_keys(variant):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), variant)
    lm = steerer.lm
    maps = AttentionReader(steerer).read(STEER[0], PROMPTS[0])
    ids = [*lm.chat.lead, *lm.chat.text(STEER[0])]
    if variant == "in-context":
        said = lm.chat.prompt(PROMPTS[0])
        ids += said.ids[said.prefix :]
    assert maps.tokens == [lm.tokenizer.decode([one]) for one in ids]
    assert torch.allclose(maps.own[0], first_layer_by_hand(steerer, ids), atol=1e-5)
    for own in maps.own:
        assert torch.allclose(own.sum(-1), torch.ones(own.shape[:2]), atol=1e-5)
        assert (own.triu(1) == 0).all()


@torch.no_grad()
def test_cross_attention_weights_are_those_that_forward_reads_by():
    torch.manual_seed(0)
    cross = CrossAttention(tiny.WIDTH, 4)
    cross.out.weight.normal_()
    x, states = torch.randn(2, 3, tiny.WIDTH), torch.randn(2, 5, tiny.WIDTH)
    readable = torch.tensor([[True] * 5, [False, True, True, False, True]])
    weights = cross.weights(x, states, readable)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 3), atol=1e-6)
    assert (weights[1, ..., [0, 3]] == 0).all()
    values = cross.value(cross.state_norm(states)).unflatten(-1, (4, -1)).transpose(1, 2)
    read = cross.out((weights @ values).transpose(1, 2).flatten(-2))
    assert torch.allclose(read, cross(x, states, readable), atol=1e-5)


def test_cross_attention_reads_the_base_prompt_in_every_layer(reading):
    steerer = reading.steerer
    maps = AttentionReader(steerer).read(STEER[1], PROMPTS[1])
    said = steerer.lm.chat.prompt(PROMPTS[1])
    assert maps.base == [steerer.lm.tokenizer.decode([one]) for one in said.ids[said.prefix :]]
    assert len(maps.cross) == steerer.card.hypernet.blocks
    for weights in maps.cross:
        assert weights.shape[1:] == (len(maps.tokens), len(maps.base))
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-5)
    assert not torch.allclose(maps.cross[0], maps.cross[1], atol=1e-3)


def test_reading_leaves_the_checkpoint_as_it_is(reading):
    network = reading.steerer.hypernet
    before = copy.deepcopy(network.state_dict())
    kept = network.trunk.config._attn_implementation
    lm_kept = reading.steerer.lm.model.config._attn_implementation
    wanted = reading.steerer.edit(STEER[0], PROMPTS[0]).vector
    AttentionReader(reading.steerer).read(STEER[0], PROMPTS[0])
    assert network.trunk.config._attn_implementation == kept != "eager"
    assert reading.steerer.lm.model.config._attn_implementation == lm_kept
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())
    assert torch.equal(reading.steerer.edit(STEER[0], PROMPTS[0]).vector, wanted)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_shows_its_self_attention(family):
    maps = AttentionReader(tiny.steerer_of(tiny.lm_of(family), "no-context")).read(STEER[0], "Hi.")
    assert set(maps.of("self")) == {0, 1}
    assert not maps.of("cross")
    for weights in maps.own:
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-4)


def test_blocks_without_attention_are_left_out():
    maps = AttentionReader(tiny.steerer_of(tiny.lm_of("lfm2"), "no-context")).read(STEER[0], "Hi.")
    assert set(maps.of("self")) == {1}


def test_shares_by_hand():
    weights = torch.tensor([[[0.7, 0.2, 0.1, 0.0], [0.1, 0.8, 0.05, 0.05]]])
    # Together the two queries read 0.4, 0.5, 0.075, 0.025 of the four tokens.
    assert top_shares(weights, 1).tolist() == pytest.approx([0.5])
    assert top_shares(weights, 3).tolist() == pytest.approx([0.975])
    assert top_shares(weights, 9).tolist() == pytest.approx([1.0])
    # The first query sees three tokens, the second four: 7/24 of each of the first three, 1/8.
    assert uniform_share(weights, 2) == pytest.approx(7 / 12)


def test_the_measure_is_the_mean_over_readings_and_names_the_favourite():
    sharp = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    flat = torch.tensor([[[0.4, 0.6], [0.4, 0.6]]])
    readings = [
        Maps(tokens=["a", "b"], base=["x", "y"], own=[None], cross=[weights])
        for weights in (sharp, sharp, flat)
    ]
    found = measure("cross", readings, 1)
    assert found.layers == [0]
    assert found.heads.tolist() == [[pytest.approx(2.6 / 3)]]
    assert found.favourites[0] == ("x", pytest.approx(2 / 3))
    assert measure("cross", readings[2:], 1).uniform == pytest.approx(0.5)
