"""Fine-tuning against a plain loop over a copy, and on responses of one word."""

import copy
import dataclasses
import gc
import weakref

import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, DataError, ModelError, SteeringError
from hypersteer.learning.adapter_training import recipe_of
from hypersteer.learning.values import Asked
from hypersteer.lm.base import BaseLM
from hypersteer.methods.finetuning import FineTuning
from hypersteer.methods.protocol import Adapts
from methods.cases import Untouched, concepts_of
from methods.loops import check_words, trained_plainly

SHORT = FineTuning(batch_size=3, epochs=2, learning_rate=0.001)


def test_it_steers_with_the_model_that_a_plain_loop_trains(lm):
    concepts, site = concepts_of(4, 2), tiny.site_of(lm)
    with Untouched(lm):
        learned = SHORT.fit(lm, site, concepts)
        for number in (1, 0):
            asked = [Asked(concepts[number].concept, "Why is the sky blue?")] * 2
            steering = SHORT.steer(lm, site, learned, asked)
            assert steering.writers == []
            model = copy.deepcopy(lm.model).requires_grad_(True)
            trained_plainly(model, lm, concepts[number], recipe_of(SHORT), model.parameters())
            weights = dict(steering.lm.model.named_parameters())
            assert not any(weight.requires_grad for weight in weights.values())
            found, expected, before = (
                torch.cat([one[name].detach().flatten() for name in weights])
                for one in (weights, *map(parameters_of, (model, lm.model)))
            )
            # Kept to eight bits of a move of 0.003 at most. Where the gradient is 0 but for
            # rounding (biases of keys), AdamW goes any way.
            assert float(((found - expected).abs() < 5e-5).float().mean()) > 0.995
            assert float(((found - before).abs() > 5e-4).float().mean()) > 0.3


def parameters_of(model):
    return dict(model.named_parameters())


def test_only_one_copy_at_a_time(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(2, 2)
    assert isinstance(SHORT, Adapts)
    learned = SHORT.fit(tiny_llama, site, concepts)
    gc.collect()
    gc.disable()
    try:
        steering = SHORT.steer(tiny_llama, site, learned, [Asked(concepts[0].concept, "Why")])
        assert steering.lm.model is not tiny_llama.model
        model = weakref.ref(steering.lm.model)
        del steering
        assert model() is None
    finally:
        gc.enable()
    both = [Asked(entry.concept, "Why") for entry in concepts]
    with pytest.raises(SteeringError, match=r"concepts \[7, 10\] one at a time"):
        SHORT.steer(tiny_llama, site, learned, both)
    assert SHORT.steer(tiny_llama, site, learned, []).prompts == []


def test_each_concept_answers_with_its_word(tiny_llama):
    method = FineTuning(epochs=10, batch_size=8, learning_rate=0.01)
    check_words(tiny_llama, tiny.site_of(tiny_llama), method)


def test_a_base_lm_in_half_precision_is_trained_in_full():
    half = BaseLM.of(tiny.model_of("llama").to(torch.bfloat16), tiny.tokenizer(), name="half")
    site, (entry,) = tiny.site_of(half), concepts_of(3)
    with Untouched(half):
        learned = FineTuning(epochs=2, learning_rate=1e-5).fit(half, site, [entry])
        steering = SHORT.steer(half, site, learned, [Asked(entry.concept, "Why")])
    assert steering.lm.dtype == torch.bfloat16
    # Steps that bfloat16 would have lost: nearly every weight has moved by about two of them.
    moved = learned.tensors["7.model.layers.0.self_attn.q_proj.weight"].float().abs()
    assert float((moved > 2e-6).float().mean()) > 0.9


def test_cost_and_bad_settings(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    steps = []
    with tiny.counting_flops() as counter:
        cost = SHORT.fit(tiny_llama, site, [entry], done=steps.append).cost
    numbers = sum(p.numel() for p in tiny_llama.model.parameters())
    assert cost.parameters == numbers
    assert sum(steps) == pytest.approx(1)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    with pytest.raises(DataError, match=r"SFT cannot learn concept 7.*positive"):
        SHORT.fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match=rf"keep_bytes 9 is less than the {2 * numbers} bytes"):
        dataclasses.replace(SHORT, keep_bytes=9).fit(tiny_llama, site, [entry])
    with pytest.raises(ConfigError, match="epochs 0"):
        FineTuning(epochs=0)
    packed = copy.deepcopy(tiny_llama.model)
    packed.lm_head.weight = torch.nn.Parameter(
        packed.lm_head.weight.to(torch.uint8), requires_grad=False
    )
    quantised = dataclasses.replace(tiny_llama, model=packed)
    with pytest.raises(ModelError, match="llama is quantised"):
        SHORT.fit(quantised, site, [entry])
    learned = SHORT.fit(tiny_llama, site, [entry])
    with pytest.raises(SteeringError, match="concept 10"):
        SHORT.steer(tiny_llama, site, learned, [Asked(concepts_of(1, 1)[1].concept, "Why")])
