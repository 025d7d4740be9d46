"""Attention heads found by structure, read, and shifted, against hooks on modules named by hand."""

import copy

import pytest
import torch

import tiny
from hypersteer.errors import ModelError
from hypersteer.learning.attention_heads import (
    find_heads,
    output_projections,
    read_heads,
    through,
)
from hypersteer.learning.corpus import make_corpus
from hypersteer.learning.model_copy import copy_model
from hypersteer.lm.base import BaseLM
from methods.cases import Untouched, alone, concepts_of

NAMES = {"gpt2": "c_proj", "gpt_neox": "dense", "phi": "dense"}


def projection(lm, layer):
    """The output projection by the family's own name."""
    attention = tiny.module_at(lm, tiny.site_of(lm, "attention", layer))
    return attention.get_submodule(NAMES.get(lm.name, "o_proj"))


def test_the_projection_of_every_family_is_found(lm):
    with Untouched(lm):
        heads = find_heads(lm)
    assert heads.projections == [projection(lm, layer) for layer in range(tiny.DEPTH)]
    assert (heads.count, heads.width) == (4, 8)


def test_projections_are_those_that_the_families_name(lm):
    family = tiny.FAMILIES[lm.name]
    expected = [
        f"{family.blocks}.{layer}.{family.attention}.{NAMES.get(lm.name, 'o_proj')}"
        for layer in (0, 2)
    ]
    with Untouched(lm):
        assert output_projections(lm, [0, 2]) == expected


def test_attention_that_does_not_end_in_a_projection_is_told(tiny_llama):
    changed = copy_model(tiny_llama)
    changed.blocks[1].self_attn.register_forward_hook(lambda _m, _a, out: (2 * out[0], *out[1:]))
    with pytest.raises(ModelError, match="block 1 of llama has no linear module at the end"):
        output_projections(changed, [1])


def test_outputs_are_what_the_projection_reads(lm):
    examples = [*concepts_of(3)[0].positives, *concepts_of(3)[0].negatives]
    texts = make_corpus(lm, concepts_of(3)).texts
    found = read_heads(
        lm, find_heads(lm), texts, lambda h, t: h[-len(t.response) :].mean(0), batch_tokens=70
    )
    for one, heads in zip(examples, found, strict=True):
        ids, _, end = alone(lm, one)
        seen = []
        handles = [
            projection(lm, layer).register_forward_pre_hook(
                lambda _m, args, s=seen: s.append(args[0])
            )
            for layer in range(tiny.DEPTH)
        ]
        with torch.no_grad():
            lm.model(input_ids=ids)
        for handle in handles:
            handle.remove()
        expected = torch.cat([h[0, end:].mean(0).view(4, 8) for h in seen])
        torch.testing.assert_close(heads, expected, atol=1e-4, rtol=1e-4)


def test_a_shift_goes_through_the_projection_exactly(lm):
    module = projection(lm, 2)
    generator = torch.Generator().manual_seed(0)
    states, shift = torch.randn(2, 5, 32, generator=generator)
    with torch.no_grad():
        moved = module(states + shift) - module(states)
    torch.testing.assert_close(through(module, shift), moved, atol=1e-5, rtol=1e-5)
    assert moved.norm() > 1


def test_attention_without_a_projection_is_told():
    model = copy.deepcopy(tiny.lm_of("llama").model)
    model.model.layers[1].self_attn.register_forward_hook(lambda _m, _a, out: (2 * out[0], out[1]))
    lm = BaseLM.of(model, tiny.tokenizer(), name="llama")
    with pytest.raises(ModelError, match="LlamaDecoderLayer has no output projection of 4"):
        find_heads(lm)


def test_heads_that_do_not_divide_the_projection_are_told():
    lm = BaseLM.of(copy.deepcopy(tiny.lm_of("llama").model), tiny.tokenizer(), name="llama")
    lm.model.config.num_attention_heads = 5
    with pytest.raises(ModelError, match="no output projection of 5 attention heads"):
        find_heads(lm)
