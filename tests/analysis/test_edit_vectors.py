"""What stands for an edit: its vector, or what it writes on ordinary states, by bare hooks."""

import pytest
import torch

import tiny
from analysis.texts import PROMPTS, STEER
from hypersteer.analysis.edit_vectors import ORDINARY, edit_vectors
from hypersteer.lm.units import token_norms


def states_of(lm, site, prompt):
    """States [T, D] at a residual site after the chat prefix, from a bare call of the model."""
    said = lm.chat.prompt(prompt)
    seen = []

    def watch(_module, _args, output):
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    hook = lm.blocks[site.layer].register_forward_hook(watch)
    try:
        with torch.no_grad():
            lm.model(torch.tensor([said.ids]))
    finally:
        hook.remove()
    return seen[0][said.prefix :]


@pytest.mark.parametrize("variant", ["cross-attention", "in-context"])
def test_every_pair_has_the_vector_that_the_steerer_gives(variant):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), variant)
    made = edit_vectors(steerer, STEER, PROMPTS)
    assert made.exact
    assert list(zip(made.concept.tolist(), made.prompt.tolist(), strict=True)) == [
        (c, p) for c in range(2) for p in range(3)
    ]
    for row, concept, prompt in zip(made.writes, made.concept, made.prompt, strict=True):
        wanted = steerer.edit(STEER[concept], PROMPTS[prompt]).vector
        assert torch.allclose(row[0], wanted, atol=1e-5)


def test_without_context_each_concept_has_one_edit():
    made = edit_vectors(tiny.steerer_of(tiny.lm_of("llama"), "no-context"), STEER, PROMPTS)
    assert made.concept.tolist() == [0, 1]
    assert made.prompt.tolist() == [0, 0]


def test_a_gated_edit_stands_as_its_mean_write():
    lm = tiny.lm_of("llama")
    steerer = tiny.steerer_of(lm, "no-context", edit="gated", more_layers=(2,))
    made = edit_vectors(steerer, STEER, PROMPTS)
    assert not made.exact
    assert made.writes.shape == (2, 2, tiny.WIDTH)
    for text, writes in zip(STEER, made.writes, strict=True):
        for edit, write in zip(steerer.edit(text), writes, strict=True):
            up, down, gate, bias, gate_bias = edit.params.values()
            states = torch.cat([states_of(lm, edit.site, p) for p in PROMPTS[:ORDINARY]])
            latents = states @ down.T + bias
            added = (latents * torch.sigmoid(states @ gate.T + gate_bias)) @ up
            assert torch.allclose(write, added.mean(0), atol=1e-4)


def test_lengths_and_rows_are_in_units_of_the_states():
    lm = tiny.lm_of("llama")
    steerer = tiny.steerer_of(lm, "no-context", more_layers=(2, 3))
    made = edit_vectors(steerer, STEER, PROMPTS)
    for number, site in enumerate(made.sites):
        states = torch.cat([states_of(lm, site, prompt) for prompt in PROMPTS[:ORDINARY]])
        typical = token_norms(states).median()
        assert made.sizes[number] == pytest.approx(float(typical), rel=1e-4)
        own = made.writes[:, number]
        assert torch.allclose(made.lengths()[:, number], own.norm(dim=-1) / typical, rtol=1e-4)
        part = made.rows()[:, number * tiny.WIDTH : (number + 1) * tiny.WIDTH]
        assert torch.allclose(part, own / typical, rtol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_per_token_edits_stand_as_their_mean_write(own):
    """Two edits differ, and a batch of many gives what each gives alone."""
    lm = tiny.lm_of("llama")
    steerer = tiny.steerer_of(lm, "no-context", edit="per-token", self_attention=own)
    both = edit_vectors(steerer, STEER, PROMPTS)
    assert not both.exact
    assert not torch.allclose(both.writes[0], both.writes[1], atol=1e-3)
    for text, write in zip(STEER, both.writes, strict=True):
        alone = edit_vectors(steerer, [text], PROMPTS)
        assert torch.allclose(alone.writes[0], write, atol=1e-4)
