"""Copies of models around shared or copied weights, and the layers that adapters change."""

import dataclasses

import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, ModelError
from hypersteer.learning.model_copy import adapted_layers, copy_model
from methods.cases import Untouched


@pytest.mark.parametrize("copy_weights", [False, True])
def test_a_copy_can_be_changed_and_the_base_lm_stays(lm, copy_weights):
    with Untouched(lm):
        other = copy_model(lm, copy_weights=copy_weights)
        ids = torch.tensor([lm.chat.prompt("Tell me").ids])
        assert torch.equal(other.model(ids).logits, lm.model(ids).logits)
        mine, theirs = (dict(one.model.named_parameters()) for one in (lm, other))
        assert list(mine) == list(theirs)
        assert all((mine[name] is theirs[name]) != copy_weights for name in mine)
        assert other.blocks is other.model.get_submodule(tiny.FAMILIES[lm.name].blocks)
        other.blocks[1].register_forward_hook(lambda *_: pytest.fail("the base LM runs it"))
        other.blocks[2] = torch.nn.Identity()
        if copy_weights:
            with torch.no_grad():
                other.embeddings.weight.zero_()
        lm.model(ids)


def test_default_layers_are_at_the_published_heights(tiny_llama):
    assert adapted_layers(tiny_llama, ()) == [1, 2, 3]  # of 4 blocks
    for depth, expected in ((26, [5, 10, 15, 20]), (30, [6, 12, 17, 23]), (2, [0, 1])):
        blocks = torch.nn.ModuleList([torch.nn.Identity()] * depth)
        deep = dataclasses.replace(tiny_llama, blocks=blocks)
        assert adapted_layers(deep, ()) == expected
    assert adapted_layers(tiny_llama, (3, -3)) == [1, 3]
    with pytest.raises(ModelError, match="layer 4 is out of range"):
        adapted_layers(tiny_llama, (4,))
    with pytest.raises(ConfigError, match="twice"):
        adapted_layers(tiny_llama, (3, -1))
