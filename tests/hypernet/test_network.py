"""The trunk is the base LM's own first blocks; cross-attention is what its equation says."""

import math

import pytest
import torch
from torch import nn

import tiny
from hypersteer.config import HypernetConfig
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.hypernet import network as network_module
from hypersteer.hypernet.cross_attention import CrossAttention, attending, default_heads
from hypersteer.hypernet.heads import FIRST_STRENGTH, STRENGTH_RATE
from hypersteer.hypernet.network import new_hypernet
from hypersteer.hypernet.trunk import build_trunk, trunk_blocks
from hypersteer.lm.blocks import sublayer
from hypersteer.lm.chat import collate

TEXT = "Tell me about your day at the sea, and say why the sky is blue."


def outputs(module, run):
    """What leaves a module while `run` runs."""
    seen = []
    hook = module.register_forward_hook(
        lambda _m, _a, out: seen.append(out if torch.is_tensor(out) else out[0])
    )
    with torch.no_grad():
        run()
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("count", [1, 3, tiny.DEPTH])
def test_a_pretrained_trunk_computes_what_the_first_blocks_compute(lm, count):
    """Before the final norm, on the base LM's embeddings, past the sliding window, with padding."""
    trunk = build_trunk(lm, count, pretrained=True)
    prompts = [lm.chat.prompt(text) for text in (TEXT, "Hi")]
    batch = collate(prompts, pad_id=lm.chat.pad_id)
    real = batch.spans.real
    assert len(trunk_blocks(trunk)) == count
    inputs = {"inputs_embeds": lm.embeddings(batch.ids), "attention_mask": real.long()}
    ours = outputs(trunk_blocks(trunk)[-1], lambda: trunk(**inputs))
    block = tiny.module_at(lm, Site(count - 1))
    for row, prompt in enumerate(prompts):
        theirs = outputs(block, lambda ids=prompt.ids: lm.model(torch.tensor([ids])))[0]
        torch.testing.assert_close(ours[row, : len(prompt.ids)], theirs, rtol=0, atol=1e-5)


def test_a_new_cross_attention_changes_nothing(lm):
    """Its output projection starts at zero, so the pretrained trunk's states are the base LM's."""
    net = new_hypernet(lm, HypernetConfig(blocks=2), tiny.site_of(lm), seed=0)
    batch = collate([lm.chat.prompt(TEXT)], pad_id=lm.chat.pad_id)
    real = batch.spans.real
    states = torch.randn(1, 5, lm.width)
    readable = torch.ones(1, 5, dtype=torch.bool)
    ours = outputs(
        trunk_blocks(net.trunk)[-1], lambda: net(lm.embeddings(batch.ids), real, states, readable)
    )
    theirs = outputs(lm.blocks[1], lambda: lm.model(batch.ids))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_random_blocks_are_random_and_seeded(lm):
    def weights(seed, **options):
        net = new_hypernet(lm, HypernetConfig(blocks=2, **options), tiny.site_of(lm), seed)
        return {name: value.clone() for name, value in net.state_dict().items()}

    torch.manual_seed(1)
    random, again = weights(7, init="random"), weights(7, init="random")
    other, copied = weights(8, init="random"), weights(7)
    assert torch.initial_seed() == 1
    assert random.keys() == copied.keys() == other.keys()
    for name, value in random.items():
        assert torch.equal(value, again[name]), name
        if value.ndim == 2 and not name.endswith("out.weight"):
            assert not torch.equal(value, other[name]), name
            assert ("trunk" not in name) or not torch.equal(value, copied[name]), name


def test_nothing_draws_at_random_in_training(lm):
    net = new_hypernet(lm, HypernetConfig(variant="in-context", blocks=2), tiny.site_of(lm), seed=0)
    trained = nn.ModuleList([net]).train()[0]
    assert trained.training
    assert not any(module.training for module in net.trunk.modules())
    batch = collate([lm.chat.prompt(TEXT)], pad_id=lm.chat.pad_id)
    once, again = (net(lm.embeddings(batch.ids), batch.spans.real)[0] for _ in range(2))
    assert torch.equal(once["vector"], again["vector"])


def test_the_weights_are_float32_and_hold_no_embeddings_of_tokens(lm):
    net = new_hypernet(lm, HypernetConfig(blocks=2), tiny.site_of(lm), seed=0)
    for name, value in net.state_dict().items():
        assert value.dtype == torch.float32, name
        assert lm.vocab not in value.shape, name
        assert not {"embed_tokens", "wte", "embed_in", "lm_head"} & set(name.split(".")), name
    assert all(p.requires_grad for p in net.parameters())
    base = {p.data_ptr() for p in lm.model.parameters()}
    assert not base & {p.data_ptr() for p in net.parameters()}
    size = sum(p.numel() for p in net.trunk.parameters())
    blocks = sum(p.numel() for block in lm.blocks[:2] for p in block.parameters())
    assert blocks <= size < blocks + 300 * tiny.WIDTH  # and a norm, and GPT-2's positions


def by_hand(cross, x, states, readable):
    """softmax(Q K^T / sqrt(d)) V with a loop over rows, heads and queries."""

    def rms(value, norm):
        return value / (value.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight

    q = rms(x, cross.query_norm) @ cross.query.weight.T
    k = rms(states, cross.state_norm) @ cross.key.weight.T
    v = rms(states, cross.state_norm) @ cross.value.weight.T
    size = x.shape[-1] // cross.heads
    read = torch.zeros_like(x)
    for row in range(len(x)):
        seen = readable[row].nonzero().squeeze(1)
        for head in range(cross.heads):
            part = slice(head * size, (head + 1) * size)
            for at in range(x.shape[1]):
                scores = k[row, seen, part] @ q[row, at, part] / math.sqrt(size)
                read[row, at, part] = scores.softmax(0) @ v[row, seen, part]
    return read @ cross.out.weight.T


@pytest.mark.parametrize("heads", [1, 4])
def test_cross_attention_is_its_equation(heads):
    torch.manual_seed(0)
    cross = CrossAttention(8, heads)
    assert cross.out.weight.abs().max() == 0
    for parameter in cross.parameters():
        nn.init.normal_(parameter)
    x, states = torch.randn(2, 3, 8), 5 * torch.randn(2, 6, 8)
    readable = torch.tensor([[True] * 6, [False, True, False, True, True, False]])
    with torch.no_grad():
        out = cross(x, states, readable)
        torch.testing.assert_close(out, by_hand(cross, x, states, readable), rtol=1e-4, atol=1e-4)
        states[1, 0] += 100  # not readable
        torch.testing.assert_close(cross(x, states, readable), out)
        states[1, 1] += 100
        assert (cross(x, states, readable)[1] - out[1]).abs().max() > 0.1


def test_cross_attention_is_added_at_the_attention_site(lm):
    """Queries are the block's input plus what self-attention puts out."""
    block, seen = lm.blocks[1], []
    ids = torch.tensor([lm.chat.prompt("Hi").ids])
    attention = sublayer(block, "attention")
    attended = outputs(attention, lambda: lm.model(ids))
    entering = outputs(lm.blocks[0], lambda: lm.model(ids))

    class Spy(CrossAttention):
        def forward(self, x, states, readable):
            seen.append((x, states, readable))
            return torch.full_like(x, 0.5)

    states, readable = torch.randn(1, 2, lm.width), torch.ones(1, 2, dtype=torch.bool)
    with attending(block, Spy(lm.width, 1), states, readable):
        written = outputs(attention, lambda: lm.model(ids))
    torch.testing.assert_close(seen[0][0], entering + attended, rtol=0, atol=1e-6)
    assert seen[0][1] is states
    assert seen[0][2] is readable
    torch.testing.assert_close(written, attended + 0.5, rtol=0, atol=1e-6)


def test_the_vector_is_read_off_the_last_real_token(lm):
    steerer = tiny.steerer_of(lm, "no-context")
    net = steerer.hypernet
    ids = torch.tensor([[5, 6, 7, 8, 2, 2], [9, 10, 11, 12, 13, 14]])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    normed = outputs(net.head[0], lambda: net(lm.embeddings(ids), mask))
    with torch.no_grad():
        vectors = net(lm.embeddings(ids), mask)[0]["vector"]
        last = net.trunk(inputs_embeds=lm.embeddings(ids[:1, :4])).last_hidden_state[:, -1]
        one, _, two = net.head
        hidden = nn.functional.gelu(last @ one.weight.T + one.bias)
        expected = (hidden @ two.weight.T + two.bias) * net.scale
    assert normed.shape == (2, tiny.WIDTH)
    torch.testing.assert_close(vectors[:1], expected, rtol=1e-4, atol=1e-5)
    assert (vectors[0] - vectors[1]).abs().max() > 0.1


def test_the_unit_of_the_vectors_is_the_size_of_the_states(lm):
    site = tiny.site_of(lm)
    prompt = lm.chat.prompt(network_module.CALIBRATION)
    states = outputs(lm.blocks[1], lambda: lm.model(torch.tensor([prompt.ids])))[0, prompt.prefix :]
    size = states.abs().median(-1).values.median() / 0.6745  # as of a normal distribution
    size = network_module.HEAVY_TAIL * size
    net = new_hypernet(lm, HypernetConfig(blocks=1, variant="no-context"), site, seed=0)
    assert float(net.scale) == pytest.approx(float(size), rel=1e-4)
    assert net.state_dict()["scale"] == net.scale


@pytest.mark.parametrize(("kind", "main"), [("vector", "vector"), ("low-rank", "up")])
def test_a_learned_strength_is_the_length_and_nothing_else_is(lm, kind, main):
    """Twice the numbers give the same edit; only the last one, of each site, makes it longer."""
    options = {"edit": kind, "learned_strength": True, "more_layers": (2,), "rank": 2}
    config = HypernetConfig(blocks=1, variant="no-context", **options)
    net = new_hypernet(lm, config, tiny.site_of(lm), seed=0)
    numbers = torch.randn(3, net.layout.size, generator=torch.Generator().manual_seed(1)) / 10
    own = len(numbers[0]) // 2
    unit, excess = torch.tensor(2.0), torch.ones(lm.width)
    made = net.layout.split(numbers, unit, excess)
    for site, params in enumerate(made):
        written = params[main].flatten(1)
        number = numbers[:, (site + 1) * own - 1]
        start = math.log(math.exp(FIRST_STRENGTH) - 1)
        length = torch.log1p(torch.exp(start + STRENGTH_RATE * number))
        torch.testing.assert_close(written.pow(2).mean(1).sqrt(), 2 * length)
    doubled = 2 * numbers
    doubled[:, [own - 1, -1]] = numbers[:, [own - 1, -1]]
    again = net.layout.split(doubled, unit, excess)
    torch.testing.assert_close(again[1][main], made[1][main])


def test_what_has_no_length_of_its_own_is_told(lm):
    for options in ({"edit": "per-token"}, {"prior": "activation"}, {"style": True}):
        config = HypernetConfig(blocks=1, learned_strength=True, **options)
        with pytest.raises(ConfigError, match="learned_strength"):
            new_hypernet(lm, config, tiny.site_of(lm), seed=0)


def test_sizes_that_do_not_fit_are_told(tiny_llama):
    def refused(word, **options):
        with pytest.raises(ConfigError, match=word) as caught:
            new_hypernet(tiny_llama, HypernetConfig(**options), tiny.site_of(tiny_llama), seed=0)
        assert "\n" not in str(caught.value)

    refused(r"hypernet.blocks 5 is not within 1..4 of llama", blocks=5)
    refused("hypernet.cross_heads 5 does not divide width 32", blocks=1, cross_heads=5)
    refused("hypernet.blocks 0 is below 1", blocks=0)
    assert default_heads(32, 4) == 4
    assert default_heads(32, 12) == 8
    assert default_heads(7, 3) == 1


def test_sizes_may_be_chosen(tiny_llama):
    config = HypernetConfig(blocks=1, cross_heads=8, head_width=12)
    net = new_hypernet(tiny_llama, config, tiny.site_of(tiny_llama), seed=0)
    assert net.cross[0].heads == 8
    assert [net.head[0].weight.shape, net.head[2].weight.shape] == [(12, 32), (32, 12)]
    plain = new_hypernet(
        tiny_llama, HypernetConfig(blocks=1, variant="in-context"), tiny.site_of(tiny_llama), seed=0
    )
    assert len(plain.cross) == 0


def test_weights_that_cannot_be_copied_are_told(tiny_llama, monkeypatch):
    """A quantised base LM holds packed integers in other shapes."""
    decoder = tiny_llama.model.get_decoder()
    state = decoder.state_dict()
    name = "layers.0.mlp.up_proj.weight"
    monkeypatch.setattr(
        type(decoder),
        "state_dict",
        lambda self, *a, **k: (
            {**state, name: state[name][:1]}
            if self is decoder
            else nn.Module.state_dict(self, *a, **k)
        ),
    )
    with pytest.raises(ConfigError, match=rf"{name}.*hypernet.init"):
        build_trunk(tiny_llama, 1, pretrained=True)
    assert len(trunk_blocks(build_trunk(tiny_llama, 1, pretrained=False))) == 1
