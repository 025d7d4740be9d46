"""LoRA against PEFT's own models and a plain loop, and on responses of one word."""

import copy

import peft
import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ConfigError, DataError, ModelError, SteeringError
from hypersteer.learning.adapter_training import recipe_of
from hypersteer.learning.values import Asked
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.lm.packing import pack
from hypersteer.methods import lora
from hypersteer.methods.lora import Lora
from methods.cases import Untouched, alone, concepts_of
from methods.loops import check_words, trained_plainly

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SHORT = {"rank": 2, "alpha": 8, "dropout": 0.0, "batch_size": 3}


def by_peft(lm, learned, number, method, strength=1.0):
    """A model of PEFT's own with a concept's matrices."""
    names = learned.notes["projections"]
    transposed = not isinstance(lm.model.get_submodule(names[0]), torch.nn.Linear)
    config = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        use_rslora=True,
        target_modules=names,
        fan_in_fan_out=transposed,
    )
    model = peft.get_peft_model(copy.deepcopy(lm.model), config).eval()
    for layer, name in zip(learned.tensors["layers"].tolist(), names, strict=True):
        adapter = model.base_model.model.get_submodule(name)
        with torch.no_grad():
            adapter.lora_A["default"].weight.copy_(learned.tensors[f"A.{layer}"][number])
            adapter.lora_B["default"].weight.copy_(learned.tensors[f"B.{layer}"][number])
        adapter.set_scale("default", strength)
    return model


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_it_steers_as_pefts_own_model_does(lm, strength):
    """Rows of two concepts and all lengths in one batch; chat prefix included."""
    concepts, method = concepts_of(3, 2), Lora(epochs=1, learning_rate=0.05)
    site = tiny.site_of(lm)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
        rows = [(number, row) for number in (1, 0) for row in concepts[number].positives]
        asked = [Asked(concepts[number].concept, row.prompt) for number, row in rows]
        steering = method.steer(lm, site, learned, asked)
        prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
        answers = [lm.chat.response(row.response, ends=True) for _, row in rows]
        writers = [writer.at([strength]) for writer in steering.writers]
        found = response_token_losses(steering.lm, prompts, answers, writers)
        plain = response_token_losses(lm, prompts, answers)
    models = [by_peft(lm, learned, number, method, strength) for number in range(2)]
    for (number, row), losses, before in zip(rows, found, plain, strict=True):
        ids, _, end = alone(lm, row)
        with torch.no_grad():
            logits = models[number](input_ids=ids).logits[0, end - 1 : -1]
        expected = F.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(losses, expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(losses, before, atol=1e-2)


def test_it_generates_as_pefts_own_model_does_at_every_strength(lm):
    lm, concepts, method = (
        tiny.ending_with(lm),
        concepts_of(3, 2),
        Lora(epochs=1, learning_rate=0.05),
    )
    site, strengths = tiny.site_of(lm), [0.0, 1.0, 1.5]
    learned = method.fit(lm, site, concepts)
    texts = ["Why is the sky blue?", "Tell me"]
    asked = [Asked(entry.concept, text) for entry, text in zip(concepts, texts, strict=True)]
    steering = method.steer(lm, site, learned, asked)
    prompts = [lm.chat.prompt(text) for text in texts]
    found = generate_ids(
        steering.lm, prompts, steering.writers, Decoding(max_new_tokens=5), strengths
    )
    for place, strength in enumerate(strengths):
        for number, prompt in enumerate(prompts):
            model, ids = by_peft(lm, learned, number, method, strength), list(prompt.ids)
            for _ in range(5):
                with torch.no_grad():
                    ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            assert found[2 * place + number] == ids[len(prompt.ids) :]


def test_steering_again_packs_nothing_anew(tiny_llama):
    lm, method, concepts = tiny_llama, Lora(epochs=1), concepts_of(3)
    learned = method.fit(lm, tiny.site_of(lm), concepts)
    packed = pack(lm.model)
    assert packed
    for prompt in ("Hi", "Why is the sky blue?"):
        steering = method.steer(lm, tiny.site_of(lm), learned, [Asked(concepts[0].concept, prompt)])
        mine = pack(steering.lm.model)
        assert mine.keys() == packed.keys()
        assert all(mine[key] is packed[key] for key in packed)


@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_training_is_that_of_a_plain_loop(tiny_llama, layers):
    lm, concepts, site = tiny_llama, concepts_of(5, 2), tiny.site_of(tiny_llama)
    still = Lora(**SHORT, layers=layers, epochs=1, learning_rate=1e-30)
    method = Lora(**SHORT, layers=layers, epochs=2, learning_rate=0.01)
    start, learned = (one.fit(lm, site, concepts) for one in (still, method))
    for number, entry in enumerate(concepts):
        model = by_peft(lm, start, number, method)
        trained = [p for p in model.parameters() if p.requires_grad]
        trained_plainly(model, lm, entry, recipe_of(method), trained)
        for layer, name in zip(start.tensors["layers"], start.notes["projections"], strict=True):
            adapter = model.base_model.model.get_submodule(name)
            for side, part in (("A", adapter.lora_A), ("B", adapter.lora_B)):
                found = learned.tensors[f"{side}.{layer}"][number]
                expected = part["default"].weight.detach()
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
                assert not torch.allclose(found, start.tensors[f"{side}.{layer}"][number])


def test_adapters_of_a_bfloat16_model_are_learnt_in_float32():
    """Steps that bfloat16 would have lost: every entry of A has moved, by about three of them."""
    half = BaseLM.of(tiny.model_of("llama").to(torch.bfloat16), tiny.tokenizer(), name="half")
    still, moving = (Lora(**SHORT, epochs=2, learning_rate=rate) for rate in (1e-30, 1e-5))
    start, learned = (m.fit(half, tiny.site_of(half), concepts_of(5)) for m in (still, moving))
    for key, found in learned.tensors.items():
        if key[0] in "AB":
            assert found.dtype == torch.float32
            moved = (found - start.tensors[key]).abs()
            assert (moved > 1e-7).float().mean() > 0.95, key
            assert moved.max() < 1e-4


def test_a_concept_is_learnt_the_same_alone_and_beside_others(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 3)
    torch.manual_seed(1)
    together = Lora(epochs=1).fit(tiny_llama, site, concepts).tensors
    drawn = torch.rand(1)
    torch.manual_seed(2)
    apart = Lora(epochs=1, cache_bytes=0).fit(tiny_llama, site, concepts[1:]).tensors
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    for name in ("A.1", "B.3"):
        torch.testing.assert_close(together[name][1], apart[name][0], atol=1e-5, rtol=0)
    other = Lora(epochs=1, dropout=0.5).fit(tiny_llama, site, concepts).tensors
    assert not torch.allclose(other["B.3"], together["B.3"])


def test_each_concept_answers_with_its_word(tiny_llama):
    method = Lora(epochs=20, batch_size=8, learning_rate=0.03)
    check_words(tiny_llama, tiny.site_of(tiny_llama), method)


def test_cost_and_bad_settings(tiny_llama, monkeypatch):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    steps = []
    learned = Lora(epochs=3).fit(tiny_llama, site, [entry], done=steps.append)
    assert sum(steps) == pytest.approx(1)
    assert learned.cost.parameters == 3 * 2 * 4 * tiny.WIDTH
    assert learned.cost.flops > 0
    with pytest.raises(DataError, match=r"LoRA cannot learn concept 7.*positive"):
        Lora().fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="rank 0"):
        Lora(rank=0)
    with pytest.raises(ConfigError, match=r"dropout 1"):
        Lora(dropout=1.0)
    with pytest.raises(ModelError, match="layer 9 is out of range"):
        Lora(layers=(9,)).fit(tiny_llama, site, [entry])
    with pytest.raises(SteeringError, match="concept 10"):
        Lora().steer(tiny_llama, site, learned, [Asked(concepts_of(1, 1)[1].concept, "Why")])
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hypersteer\[peft\]'"):
        Lora()
