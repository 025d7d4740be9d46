"""Blocks and sub-layers are found by structure in every family."""

import pytest
import torch
from torch import nn

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import check_site, find_blocks, site_module, sublayer
from hypersteer.lm.chat import collate


def test_blocks_are_those_the_family_names(lm):
    named = lm.model.get_submodule(tiny.FAMILIES[lm.name].blocks)
    assert lm.blocks is named
    assert find_blocks(lm.model) is named
    assert lm.depth == tiny.DEPTH


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("layer", [0, -1])
def test_sites_are_the_modules_the_family_names(lm, kind, layer):
    site = lm.site(layer, kind)
    assert site == Site(layer % tiny.DEPTH, kind)
    assert site_module(lm.blocks, Site(layer, kind)) is tiny.module_at(lm, site)


def test_blocks_can_be_named(tiny_llama):
    model = tiny.model_of("llama")
    lm = BaseLM.of(model, tiny.tokenizer(), blocks="model.layers")
    assert lm.blocks is model.model.layers
    for path, word in (("model.blocks", "does not exist"), ("model.norm", "not a ModuleList")):
        with pytest.raises(ModelError, match=word) as caught:
            BaseLM.of(model, tiny.tokenizer(), blocks=path)
        assert path in str(caught.value)


def test_blocks_that_cannot_be_told_apart_must_be_named():
    model = tiny.model_of("llama")
    model.model.twins = nn.ModuleList(nn.Identity() for _ in range(tiny.DEPTH))
    with pytest.raises(ModelError, match=r"found 2 lists of 4 .*blocks='"):
        find_blocks(model)
    assert find_blocks(model, "model.layers") is model.model.layers
    del model.model.twins, model.model.layers[0]
    with pytest.raises(ModelError, match="found 0 lists"):
        find_blocks(model)


@pytest.mark.parametrize("layer", [4, -5, 100])
def test_a_layer_out_of_range_is_told(tiny_llama, layer):
    for ask in (
        lambda: check_site(Site(layer), 4),
        lambda: tiny_llama.site(layer),
        lambda: site_module(tiny_llama.blocks, Site(layer)),
    ):
        with pytest.raises(ModelError) as caught:
            ask()
        assert str(caught.value) == f"layer {layer} is out of range: the base LM has layers 0..3"


class Odd(nn.Module):
    """A block whose norms and dropouts are called after the sub-layers they go with."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def test_norms_and_dropouts_are_no_sublayers():
    attention, mlp = nn.Linear(2, 2), nn.Linear(2, 2)
    block = Odd(
        post_attention_layernorm=nn.Identity(),
        pre_attention=nn.LayerNorm(2),
        attention_dropout=nn.Dropout(),
        mlp_norm=nn.Identity(),
        block_attn=attention,
        feed_forward=mlp,
    )
    assert sublayer(block, "attention") is attention
    assert sublayer(block, "mlp") is mlp


def test_a_block_without_the_sublayer_is_told():
    with pytest.raises(ModelError) as caught:
        sublayer(Odd(other=nn.Linear(2, 2), norm=nn.LayerNorm(2)), "attention")
    message = str(caught.value)
    assert "Odd has no attention sub-layer (its children: other, norm)" in message
    assert "'residual'" in message


def test_what_mixes_tokens_stands_for_attention_where_there_is_none():
    mixer, attention = nn.Linear(2, 2), nn.Linear(2, 2)
    assert sublayer(Odd(mamba=mixer, feed_forward=nn.Linear(2, 2)), "attention") is mixer
    assert sublayer(Odd(conv=mixer, conv_norm=nn.LayerNorm(2)), "attention") is mixer
    assert sublayer(Odd(mamba=mixer, self_attn=attention), "attention") is attention


def test_states_at_a_site_are_what_the_module_puts_out(lm):
    batch = collate([lm.chat.prompt("Hi"), lm.chat.prompt("Why is the sky blue?")], pad_id=2)
    for kind in tiny.KINDS:
        site, seen = lm.site(2, kind), []
        hook = tiny.module_at(lm, site).register_forward_hook(
            lambda _m, _a, out, seen=seen: seen.append(out if torch.is_tensor(out) else out[0])
        )
        ran = []
        above = lm.blocks[3].register_forward_hook(lambda *_a, ran=ran: ran.append(1))
        with torch.no_grad():
            states = lm.states(batch, site)
        hook.remove()
        above.remove()
        assert torch.equal(states, seen[0])
        assert ran == []
