"""What the model's own forward is given."""

import inspect
from dataclasses import replace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from hypersteer.lm.cache import new_cache
from hypersteer.lm.chat import collate


class OfToday(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, cache=None, **rest):
        return {"cache": cache, **rest}


class OfBefore(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, past_key_values=None, **rest):
        return {"past_key_values": past_key_values, **rest}


@pytest.mark.parametrize(("kind", "name"), [(OfToday, "cache"), (OfBefore, "past_key_values")])
def test_a_cache_goes_by_the_name_that_the_forward_takes(kind, name):
    """transformers 5.24 renamed it, and warns of the old name; older releases know no other."""
    lm = replace(
        tiny.lm_of("llama"),
        model=kind(LlamaConfig(**tiny.GQA)),
        _accepted=frozenset(inspect.signature(kind.forward).parameters),
    )
    batch = collate([lm.chat.prompt("Hi")], pad_id=lm.chat.pad_id, side="left")
    cache = new_cache(lm.model)
    assert lm.forward(batch, cache=cache) == {name: cache, "use_cache": True}
    assert lm.forward(batch) == {name: None, "use_cache": False}
