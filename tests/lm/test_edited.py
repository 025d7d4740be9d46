"""Edits around any call of the Hugging Face model: its `generate`, pipelines, plain forwards."""

import pytest
import torch
from transformers import GenerationConfig, pipeline

import tiny
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import CheckpointError, SteeringError
from hypersteer.lm.chat import collate
from hypersteer.lm.edited import edit_writers

TEXTS = ("Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?")
STEPS = tiny.WINDOW + 4


def theirs(lm, texts=TEXTS, **options):
    """transformers' own greedy decoding of a left-padded batch, which never ends early."""
    batch = collate([lm.chat.prompt(text) for text in texts], pad_id=lm.chat.pad_id, side="left")
    never = lm.model.get_input_embeddings().num_embeddings  # None would mean the model's own end
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": never, **options}
    ids = lm.model.generate(
        batch.ids,
        attention_mask=batch.spans.real.long(),
        generation_config=GenerationConfig(pad_token_id=lm.chat.pad_id, **options),
    )
    return ids[:, batch.ids.shape[1] :].tolist()


def ours(lm, edits, strengths, texts=TEXTS):
    prompts = [lm.chat.prompt(text) for text in texts]
    decoding = Decoding(max_new_tokens=STEPS)
    return generate_ids(lm, prompts, edit_writers(lm, edits, strengths), decoding)


def edits_of(lm):
    return [tiny.edit_of(lm, Site(1), 1), tiny.edit_of(lm, Site(2, "mlp"), 2)]


@pytest.mark.parametrize(
    "scope", ["all", "everywhere", "prompt", "response", "last_prompt", "prompt_ends"]
)
def test_their_generate_is_steered_as_ours(lm, scope):
    lm = tiny.ending_with(lm)
    edit = tiny.edit_of(lm, Site(1), 1, scope)
    plain = theirs(lm)
    with lm.edited(edit, strength=1.5):
        steered = theirs(lm)
    assert steered == ours(lm, [edit] * 3, [1.5] * 3)
    assert steered != plain
    assert theirs(lm) == plain


def test_one_per_row_several_on_a_row_and_copies_of_rows(lm):
    lm = tiny.ending_with(lm)
    first, second = edits_of(lm)
    rows, strengths = [first, None, [second, (first, -0.5)]], [1.0, 2.0, 0.5]
    expected = ours(lm, rows, strengths)
    with lm.edited(rows, strength=strengths):
        assert theirs(lm) == expected
        copies = theirs(lm, num_return_sequences=2, num_beams=2, max_new_tokens=3)
    assert len(copies) == 6
    both = [[first, first], [first], [second, (first, -0.5), first]]
    expected = ours(lm, both, strengths)
    with lm.edited(rows, edits=[first], strength=strengths):
        assert theirs(lm) == expected
    with lm.edited(rows), pytest.raises(SteeringError, match="called with 2 rows, but there are"):
        theirs(lm, TEXTS[:2])


def test_a_plain_forward_is_edited_and_exactly_undone(lm):
    edit = edits_of(lm)[0]
    batch = collate([lm.chat.prompt(text) for text in TEXTS], pad_id=lm.chat.pad_id)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.spans.real.long()}
    with torch.no_grad():
        plain = lm.model(**inputs).logits
        states = lm.states(batch, Site(1))
        seen = []
        hook = tiny.module_at(lm, Site(1)).register_forward_hook(
            lambda _m, _a, out: seen.append(out if torch.is_tensor(out) else out[0])
        )
        with lm.edited(edit, strength=2.0):
            lm.model(**inputs)
        hook.remove()
        with lm.edited(edit, strength=0.0):
            assert torch.equal(lm.model(**inputs).logits, plain)
        with lm.edited(), lm.edited(None):
            assert torch.equal(lm.model(**inputs).logits, plain)
        with pytest.raises(RuntimeError, match="mine"), lm.edited(edit):
            raise RuntimeError("mine")
        assert torch.equal(lm.model(**inputs).logits, plain)
    del states
    assert len(seen) == 1


def test_the_edit_is_what_is_added_at_the_site(lm):
    edit = edits_of(lm)[0]
    batch = collate([lm.chat.prompt(text) for text in TEXTS], pad_id=lm.chat.pad_id, side="left")
    before = lm.states(batch, Site(1))
    with torch.no_grad(), lm.edited(edit, strength=2.0):
        after = lm.states(batch, Site(1))
    expected = before.clone()
    expected[batch.spans.prompt] += 2 * edit.vector
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)


def test_a_pipeline_is_steered(tiny_llama, silent_libraries):
    lm = tiny.ending_with(tiny_llama)
    edit = edits_of(lm)[0]
    pipe = pipeline("text-generation", model=lm.model, tokenizer=lm.tokenizer)
    pipe.generation_config = GenerationConfig(pad_token_id=lm.chat.pad_id)
    chat = [{"role": "user", "content": TEXTS[0]}]
    options = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    plain = pipe(chat, **options)[0]["generated_text"]
    with lm.edited(edit, strength=2.0):
        steered = pipe(chat, **options)[0]["generated_text"]
    assert steered == lm.generate(TEXTS[0], edit=edit, strength=2.0, max_new_tokens=5)
    assert steered != plain
    assert pipe(chat, **options)[0]["generated_text"] == plain
    if tiny.older_than_the_page():  # whose pipelines complain of their own settings
        silent_libraries.clear()


def test_gradients_pass_through(tiny_llama):
    """So that others' adapters can be trained under an edit."""
    lm = tiny_llama
    embeds = lm.embeddings(torch.tensor([lm.chat.prompt("Hi").ids])).requires_grad_()
    with lm.edited(edits_of(lm)[0]):
        lm.model(inputs_embeds=embeds).logits.sum().backward()
    assert embeds.grad.abs().max() > 0


def test_what_is_no_edit_is_told_at_once(tiny_llama):
    lm, other = tiny_llama, tiny.lm_of("llama", seed=1)
    for edit, error, told in (
        ("sing", SteeringError, "'sing' is not an edit"),
        (tiny.edit_of(other, Site(1)), CheckpointError, other.fingerprint),
        (edits_of(lm)[0], SteeringError, "2 values of 'strength' for 1 prompts"),
    ):
        strength = [1.0, 2.0] if told.startswith("2") else 1.0
        with pytest.raises(error, match=told), lm.edited(edit, strength=strength):
            pytest.fail("entered")
    with pytest.raises(SteeringError, match="inf"), lm.edited(edits_of(lm)[0], strength=1e999):
        pytest.fail("entered")
