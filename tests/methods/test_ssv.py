"""SSV against a plain loop, and on a model in which the direction is known."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError, TrainingError
from hypersteer.learning.adapter_training import recipe_of
from hypersteer.learning.values import Asked, ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.protocol import Detector
from hypersteer.methods.ssv import Ssv
from methods.cases import Untouched, alone, concepts_of, example, hooked, states_alone
from methods.loops import trained_plainly

SHORT = Ssv(batch_size=3, epochs=2, learning_rate=0.03)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_all_at_once_equals_the_recipe_one_after_another(tiny_llama, kind):
    site, concepts = tiny.site_of(tiny_llama, kind), concepts_of(5, 2)
    with Untouched(tiny_llama):
        tensors = SHORT.fit(tiny_llama, site, concepts).tensors
    vectors = tensors["activations"][:, None] * tensors["directions"]
    for entry, vector in zip(concepts, vectors, strict=True):
        w = torch.full((tiny.WIDTH,), 0.01, requires_grad=True)

        def add(one, w=w):
            after = (torch.arange(alone(tiny_llama, one)[0].shape[1]) >= one_prefix(one))[:, None]
            return hooked(tiny.module_at(tiny_llama, site), lambda hidden: hidden + after * w)

        def one_prefix(one):
            return alone(tiny_llama, one)[1]

        trained_plainly(tiny_llama.model, tiny_llama, entry, recipe_of(SHORT), [w], add)
        torch.testing.assert_close(vector, w.detach(), atol=1e-4, rtol=0)


def test_strength_one_adds_the_vector_as_it_was_trained(lm):
    """On prompt and response, and the loss of what it was trained on falls."""
    site, concepts = tiny.site_of(lm), concepts_of(4, 3)
    method = Ssv(epochs=12, learning_rate=0.02)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
        asked = [
            Asked(concepts[n].concept, row.prompt) for n in (1, 0) for row in rows_of(concepts, n)
        ]
        steering = method.steer(lm, site, learned, asked)
    rows = [row for n in (1, 0) for row in rows_of(concepts, n)]
    prompts = [lm.chat.prompt(row.prompt) for row in rows]
    answers = [lm.chat.response(row.response, ends=True) for row in rows]
    steered = response_token_losses(lm, prompts, answers, steering.writers)
    plain = response_token_losses(lm, prompts, answers)
    assert sum(float(x.mean()) for x in steered) < sum(float(x.mean()) for x in plain) - 0.1
    tensors = learned.tensors
    for row, losses, number in zip(rows, steered, [1, 1, 0, 0], strict=True):
        ids, prefix, end = alone(lm, row)
        vector = tensors["activations"][number] * tensors["directions"][number]
        marks = (torch.arange(ids.shape[1]) >= prefix)[:, None]
        with hooked(tiny.module_at(lm, site), lambda h, v=vector, m=marks: h + v * m):
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = F.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-4)


def rows_of(concepts, number):
    return concepts[number].positives[:2]


def test_the_other_scaling_is_the_maximum_activation(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(3)
    trained = SHORT.fit(tiny_llama, site, [entry]).tensors
    method = Ssv(batch_size=3, epochs=2, learning_rate=0.03, scaling="activation")
    found = method.fit(tiny_llama, site, [entry]).tensors
    torch.testing.assert_close(found["directions"], trained["directions"])
    rows = [*entry.positives, *entry.negatives]
    (direction,) = found["directions"]
    highest = max(float((states_alone(tiny_llama, site, r) @ direction).max()) for r in rows)
    assert float(found["activations"]) == pytest.approx(highest, rel=1e-4)
    assert highest != pytest.approx(float(trained["activations"]), rel=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_direction_is_recovered(seed):
    """Blocks add nothing, so logits are the head's; one direction in it makes the word likely.

    Its entries have one size, as the first steps of AdamW do; a random one of the kind has nearly
    no cosine with it, and neither has what is learnt where the head knows no such direction.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randint(0, 2, (tiny.WIDTH,), generator=generator) * 2.0 - 1
    found = {}
    for planted in (direction, 0 * direction):
        model = copy.deepcopy(tiny.lm_of("llama").model)
        lm = BaseLM.of(model, tiny.tokenizer(), name="llama")
        word = lm.chat.response("owl")
        with torch.no_grad():
            for block in model.model.layers:
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()
            model.model.norm.weight.fill_(1)
            model.lm_head.weight.mul_(0.05)
            model.lm_head.weight[word] = 0.5 * planted
        entry = ConceptExamples(
            Concept(id=0, text="owls"),
            [example(f"Tell me {n}", "owl " * 3, 0, complete=False) for n in range(12)],
            [],
        )
        vectors = Ssv(epochs=6).fit(lm, Site(1), [entry]).tensors["directions"]
        found[bool(planted.any())] = float(F.cosine_similarity(vectors[0], direction, dim=0))
    assert found[True] > 0.9
    assert abs(found[False]) < 0.5


def test_it_detects_as_other_vectors_do(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3, 2)
    learned = SHORT.fit(tiny_llama, site, concepts)
    assert isinstance(SHORT, Detector)
    texts = concepts[0].positives
    scores = SHORT.detect(tiny_llama, site, learned, [concepts[1].concept], texts)
    direction = learned.tensors["directions"][1]
    expected = [(states_alone(tiny_llama, site, text) @ direction).max() for text in texts]
    torch.testing.assert_close(scores[0], torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_bad_settings_and_rows(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    with pytest.raises(DataError, match=r"SSV cannot learn concept 7.*positive"):
        SHORT.fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="epochs 0"):
        Ssv(epochs=0)
    with pytest.raises(TrainingError, match="concept 7"):
        Ssv(learning_rate=math.inf).fit(tiny_llama, site, [entry])


def test_cost_is_per_concept(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3, 3, negatives=0)
    SHORT.fit(tiny_llama, site, concepts)  # whether blocks can be left out is tried once
    with tiny.counting_flops() as counter:
        cost = SHORT.fit(tiny_llama, site, concepts).cost
    assert 2 * cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert cost.parameters == tiny.WIDTH + 1
    assert 0 < cost.seconds < 60
