"""The control: seeded by concept, and strong enough without rows of its own."""

import dataclasses

import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import Asked
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.random import Random, unit_vectors
from massive import massive_dimensions
from methods.cases import concepts_of, hooked, lengths_by_hand, states_alone


def test_a_vector_depends_on_seed_and_concept_only(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(2, 2, 2)
    both = Random(seed=5).fit(tiny_llama, site, concepts).tensors["directions"]
    alone = Random(seed=5).fit(tiny_llama, site, concepts[2:]).tensors["directions"]
    other = Random(seed=6).fit(tiny_llama, site, concepts[2:]).tensors["directions"]
    assert torch.equal(both[2:], alone)
    assert not torch.allclose(alone, other)
    products = both @ both.T - torch.eye(3)
    assert products.abs().max() < 0.6


def test_directions_are_uniform():
    drawn = unit_vectors(range(2000), 8, seed=0)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(2000))
    assert drawn.mean(0).abs().max() < 0.04  # 5 standard errors of 0.35 / sqrt(2000)
    torch.testing.assert_close(drawn.T @ drawn / 2000, torch.eye(8) / 8, atol=0.02, rtol=0)


def test_a_held_out_concept_takes_the_rows_of_the_others(tiny_llama):
    site, (known, held_out) = tiny.site_of(tiny_llama), concepts_of(3, 2)
    held_out = held_out._replace(positives=[], negatives=[])
    learned = Random().fit(tiny_llama, site, [known, held_out])
    direction = learned.tensors["directions"][1]
    rows = [*known.positives, *known.negatives]
    highest = max(float((states_alone(tiny_llama, site, r) @ direction).max()) for r in rows)
    assert float(learned.tensors["activations"][1]) == pytest.approx(highest, rel=1e-4)


def test_without_any_rows_the_strength_is_the_mean_length_on_the_concepts_text(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(2, 2)
    bare = [entry._replace(positives=[], negatives=[]) for entry in concepts]
    learned = Random().fit(tiny_llama, site, bare)
    for number, entry in enumerate(bare):
        prompt = tiny_llama.chat.prompt(entry.concept.text)
        seen = []
        with hooked(tiny.module_at(tiny_llama, site), lambda h, s=seen: s.append(h)):
            tiny_llama.model(input_ids=torch.tensor([prompt.ids]))
        length = float(lengths_by_hand(seen[0][0, prompt.prefix :]).mean())
        assert float(learned.tensors["activations"][number]) == pytest.approx(length, rel=1e-4)


def test_massive_dimensions_do_not_make_it_stronger(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(2, 2)
    bare = [entry._replace(positives=[], negatives=[]) for entry in concepts]
    plain = Random().fit(tiny_llama, site, bare).tensors["activations"]
    with massive_dimensions(tiny_llama):
        found = Random().fit(tiny_llama, site, bare).tensors["activations"]
    assert bool((found < 1.5 * plain).all())


def test_a_concept_that_fit_has_not_seen_is_as_strong_as_the_others(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3, 2, 2)
    method = Random(seed=2)
    learned = method.fit(tiny_llama, site, concepts[:2])
    asked = [Asked(entry.concept, "Why") for entry in (concepts[2], concepts[0], concepts[2])]
    (writer,) = method.steer(tiny_llama, site, learned, asked).writers
    prompt = tiny_llama.chat.prompt("Why")
    response_token_losses(tiny_llama, [prompt] * 3, [[5]] * 3, [writer])
    first, second = learned.tensors["activations"].tolist()
    (direction,) = unit_vectors([concepts[2].concept.id], tiny.WIDTH, 2)
    torch.testing.assert_close(writer.params["vector"][0], (first + second) / 2 * direction)
    torch.testing.assert_close(writer.params["vector"][1], first * learned.tensors["directions"][0])
    assert torch.equal(writer.params["vector"][0], writer.params["vector"][2])
    none = method.fit(tiny_llama, site, [])
    with pytest.raises(SteeringError, match="was not learnt"):
        method.steer(tiny_llama, site, none, asked)


def test_no_concepts_and_a_bad_seed(tiny_llama):
    learned = Random().fit(tiny_llama, tiny.site_of(tiny_llama), [])
    assert learned.tensors["directions"].shape == (0, tiny.WIDTH)
    with pytest.raises(ConfigError, match="seed -1"):
        Random(seed=-1)


def test_a_concept_that_outgrows_the_window_is_told(tiny_llama):
    """It is read where there are no examples."""
    (entry,) = concepts_of(0)
    long = dataclasses.replace(entry.concept, text="speak of owls " * 100)
    bare = entry._replace(concept=long, positives=[], negatives=[])
    with pytest.raises(SteeringError, match=r"'speak of owls .*context window"):
        Random().fit(tiny_llama, tiny.site_of(tiny_llama), [bare])
