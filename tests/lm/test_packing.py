import torch

import tiny
from hypersteer.lm.generate import Decoding, generate_ids
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
