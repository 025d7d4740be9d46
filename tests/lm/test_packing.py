import gc

import torch

import tiny
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.learning.model_copy import copy_model
from hypersteer.lm import packing
from hypersteer.lm.packing import pack, packed_products


def test_packed_products_equal_plain_ones():
    lm = tiny.lm_of("llama")
    weights = pack(lm.model)
    assert weights
    linear = next(m for m in lm.model.modules() if type(m) is torch.nn.Linear)
    x = torch.randn(3, linear.in_features)
    with torch.no_grad(), packed_products(weights):
        packed = torch.nn.functional.linear(x, linear.weight)
    torch.testing.assert_close(packed, x @ linear.weight.T, atol=1e-5, rtol=1e-5)


def test_a_changed_weight_is_packed_anew():
    lm = tiny.lm_of("qwen3")
    prompts, decoding = [lm.chat.prompt("hello there")], Decoding(max_new_tokens=8)
    before = generate_ids(lm, prompts, [], decoding)
    first = pack(lm.model)
    assert pack(lm.model) is first
    with torch.no_grad():
        lm.blocks[0].mlp.up_proj.weight.mul_(-3.0)
    try:
        assert pack(lm.model) is not first
        assert generate_ids(lm, prompts, [], decoding) != before
    finally:
        with torch.no_grad():
            lm.blocks[0].mlp.up_proj.weight.div_(-3.0)


def test_models_that_share_weights_share_what_is_packed():
    """Methods that adapt the model make a view of it for every batch that they steer."""
    lm = tiny.lm_of("llama")
    first, second = pack(lm.model), pack(copy_model(lm).model)
    assert first
    assert first.keys() == second.keys()
    assert all(second[key] is packed for key, packed in first.items())


def test_only_a_changed_weight_of_a_view_is_packed_anew():
    lm = tiny.lm_of("llama")
    first, view = pack(lm.model), copy_model(lm)
    own = view.blocks[0].mlp.up_proj
    own.weight = torch.nn.Parameter(-3 * own.weight, requires_grad=False)
    second = pack(view.model)
    assert len(second) == len(first)
    assert second.keys() - first.keys() == {id(own.weight)}
    assert all(second[key] is first[key] for key in second.keys() & first.keys())
    assert pack(lm.model) is first


def test_what_is_packed_of_a_copy_goes_with_the_copy():
    lm = tiny.lm_of("llama")
    pack(lm.model)
    gc.collect()
    before = len(packing._by_weight)
    copied = copy_model(lm, copy_weights=True)
    mine = pack(copied.model)
    assert not mine.keys() & pack(lm.model).keys()
    assert len(packing._by_weight) == before + len(mine)
    del copied, mine
    gc.collect()
    assert len(packing._by_weight) == before
