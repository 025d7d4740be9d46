"""The logit lens against the model's own norm and head, and its words."""

import pytest
import torch

import tiny
from hypersteer.analysis.lens import lens_of, nearest_concepts, readout
from hypersteer.analysis.lens_section import lens_section

NORMS = {"llama": "model.norm", "gpt2": "transformer.ln_f", "phi": "model.final_layernorm"}


@torch.no_grad()
@pytest.mark.parametrize("family", NORMS)
def test_the_readout_is_the_final_norm_and_the_head(family):
    lm = tiny.lm_of(family)
    norm, head = lm.model.get_submodule(NORMS[family]), lm.model.get_output_embeddings()
    vectors = torch.randn(20, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    wanted = head(norm(vectors)) - head(norm(torch.zeros(1, tiny.WIDTH)))
    wanted = wanted - wanted.mean(-1, keepdim=True)
    found = readout(lm, vectors)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not any(module._forward_hooks for module in lm.model.modules())


@torch.no_grad()
def test_a_token_s_own_row_of_the_head_raises_that_token(tiny_llama):
    """With the gains of the norm divided out, no token is nearer to a row than itself."""
    lm = tiny_llama
    weight = lm.model.get_output_embeddings().weight
    rows = torch.nn.functional.normalize(weight, dim=-1)
    token = int((rows @ rows.T - 2 * torch.eye(len(rows))).max(-1).values.argmin())
    gain = lm.model.model.norm.weight
    logits = readout(lm, (weight[token] / gain)[None])[0]
    expected = weight @ weight[token]
    found = lens_of(lm, "here", logits, words=3)
    assert found.raised[0].text == lm.tokenizer.decode([int(expected.argmax())])
    assert found.lowered[0].text == lm.tokenizer.decode([int(expected.argmin())])


def test_words_come_the_strongest_first(tiny_llama):
    logits = torch.zeros(tiny.VOCAB)
    logits[torch.tensor([10, 20, 30, 40])] = torch.tensor([1.0, 3.0, -2.0, -5.0])
    found = lens_of(tiny_llama, "here", logits, words=2)
    decode = tiny_llama.tokenizer.decode
    assert found.raised == [(decode([20]), 3.0), (decode([10]), 1.0)]
    assert found.lowered == [(decode([40]), -5.0), (decode([30]), -2.0)]


def test_the_nearest_concept_to_a_known_one_is_itself(tiny_llama):
    known = ["talk like a pirate", "mention dogs", "bring up chess"]
    found = nearest_concepts(tiny_llama, known, ["mention dogs", "Bring up chess"])
    assert [near[0][0] for near in found.values()] == ["mention dogs", "bring up chess"]
    assert found["mention dogs"][0][1] == pytest.approx(1, abs=1e-4)
    assert nearest_concepts(tiny_llama, [], ["mention dogs"]) == {}


def test_what_sets_an_edit_apart_is_the_edit_without_the_mean_of_others(subject_of):
    """Against the edits that the steerer gives, read out and sorted here."""
    lm = tiny.lm_of("llama")
    steerer = tiny.steerer_of(lm, "no-context", more_layers=(2,))
    subject = subject_of(steerer, concepts=3)
    section = lens_section(subject)

    def whole(text):
        return torch.stack([edit.vector for edit in steerer.edit(text)]).sum(0)

    mean = torch.stack([whole(concept.text) for concept in subject.concepts]).mean(0)
    for text in subject.steer:
        logits = readout(lm, (whole(text) - mean)[None])[0]
        told = section.numbers["words"][text][-1]
        assert told["site"] == "without the mean edit"
        wanted = lens_of(lm, "", logits)
        assert [one.logit for one in told["raised"]] == pytest.approx(
            [one.logit for one in wanted.raised], abs=1e-3
        )
