"""What texts begin with is run once, and no state differs, for all architectures."""

import pytest
import torch

import architectures
import tiny
from hypersteer.conditions.contrasts import read_states
from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.beginning import Beginning
from hypersteer.lm.chat import collate
from hypersteer.lm.pooling import pooled_states

TEXTS = ["Hi", "Tell me about your day at the sea, the ship and the bees.", ("Why?", "It is blue.")]
LAYERS = [0, 2]


def alone(lm, texts, pooling):
    """Pooled states of texts, each read by itself from its first token on."""
    found = []
    for text in texts:
        prompt, answer = text if isinstance(text, tuple) else (text, "")
        rows = [lm.chat.prompt(prompt)], [lm.chat.response(answer)]
        found.append(pooled_states(lm, collate(*rows, pad_id=lm.chat.pad_id), LAYERS, pooling)[0])
    return torch.stack(found)


@pytest.mark.parametrize("name", architectures.OPTIONS)
def test_states_are_those_of_the_whole(name, silent_libraries):
    try:
        model = architectures.model_of(name)
        if model is None:
            pytest.skip(f"this release of transformers has no {name}")
        lm = BaseLM.of(model, tiny.tokenizer(), name=name)
    except Exception as error:
        silent_libraries.clear()
        if isinstance(error, ModelError) or tiny.older_than_the_page():
            pytest.skip(f"refused when it loads: {error!r:.200}")
        raise
    for pooling in ("turn", "prompt", "last"):
        found = read_states(lm, TEXTS, LAYERS, pooling)
        torch.testing.assert_close(found, alone(lm, TEXTS, pooling), rtol=1e-4, atol=1e-5)
    silent_libraries.clear()  # about how such models are made


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_answers_and_whole_prompts_are_read_alike(family):
    lm = tiny.lm_of(family)
    answers = [("Hi", "Hello there."), ("Why is it blue?", "Because."), ("Why?", "It is. It is.")]
    for pooling, texts in (("response", answers), ("all", TEXTS)):
        found = read_states(lm, texts, LAYERS, pooling)
        torch.testing.assert_close(found, alone(lm, texts, pooling), rtol=1e-4, atol=1e-5)


def test_the_prefix_is_run_once():
    lm, seen = tiny.lm_of("llama"), []
    handle = lm.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    try:
        read_states(lm, ["Hi", "Why is it blue?", "Tell me."], LAYERS, "turn", batch_tokens=1)
    finally:
        handle.remove()
    prompts = [lm.chat.prompt(text) for text in ("Hi", "Tell me.", "Why is it blue?")]
    own = sorted((1, len(prompt.ids) - prompt.prefix) for prompt in prompts)
    assert [tuple(shape[:2]) for shape in seen] == [(1, prompts[0].prefix), *own]


def test_texts_without_anything_in_common_share_nothing():
    lm = tiny.lm_of("llama")
    prompts = [lm.chat.prompt("Hi"), lm.chat.prompt("Why?")]
    other = prompts[1]._replace(ids=[5, *prompts[1].ids[1:]])
    beginning = Beginning(lm, [prompts[0], other], 2)
    assert beginning.tokens == 0
    batch = collate([prompts[0], other], pad_id=lm.chat.pad_id)
    assert torch.equal(beginning.rest(batch).ids, batch.ids)
    found, wanted = (pooled_states(lm, batch, LAYERS, "prompt", one) for one in (beginning, None))
    assert torch.equal(found, wanted)
