"""The mass-mean probe in numpy, and its shrinkage against the best there is."""

import numpy as np
import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.concept_states import moments
from hypersteer.methods.mass_mean import MassMean, estimated_shrinkage
from methods.cases import concepts_of, example, states_alone


def both_sides(lm, site, entry):
    return [
        torch.cat([states_alone(lm, site, row) for row in rows]).double().numpy()
        for rows in (entry.positives, entry.negatives)
    ]


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_direction_length_and_tilt(lm, shrinkage):
    site, concepts = tiny.site_of(lm), concepts_of(5, 3)
    method = MassMean(shrinkage=shrinkage)
    learned = method.fit(lm, site, concepts)
    texts = [*concepts[0].positives, *concepts[1].negatives]
    scores = method.detect(lm, site, learned, [entry.concept for entry in concepts], texts)
    for number, entry in enumerate(concepts):
        shows, lacks = both_sides(lm, site, entry)
        difference = shows.mean(0) - lacks.mean(0)
        vector = learned.tensors["activations"][number] * learned.tensors["directions"][number]
        np.testing.assert_allclose(vector, difference, atol=2e-4)
        around = np.concatenate([shows - shows.mean(0), lacks - lacks.mean(0)])
        spread = around.T @ around / len(around)
        spread = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / 32 * np.eye(32)
        probe = np.linalg.inv(spread) @ difference
        probe /= np.linalg.norm(probe)
        tops = [(states_alone(lm, site, text).numpy() @ probe).max() for text in texts]
        np.testing.assert_allclose(scores[number], tops, atol=1e-3, rtol=1e-3)
    assert learned.cost.parameters == 2 * tiny.WIDTH + 1


def test_the_tilt_sees_past_a_direction_that_varies_anyway():
    """Classes apart along one axis, in states that vary ten times as much along it and another."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    states = noise @ torch.tensor([[10.0, 10.0], [0.5, -0.5]], dtype=torch.float64)
    states[:1000, 0] += 2
    method, spread = MassMean(shrinkage=0.0), torch.cov(states[1000:].T, correction=0)
    found = method._spread(moments([states[:1000]]), moments([states[1000:]]), texts=2000)
    torch.testing.assert_close(found, spread, rtol=0.1, atol=0)
    tilted = torch.linalg.solve(found, torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert torch.nn.functional.cosine_similarity(
        tilted, torch.tensor([1.0, -1.0], dtype=torch.float64), dim=0
    ) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("samples", [10, 40, 400])
def test_the_estimated_shrinkage_is_near_the_best(samples):
    """The best is found by trying all, against the true covariance."""
    width, shares = 20, np.linspace(0, 1, 201)
    spectrum = np.diag(np.linspace(0.2, 3, width) ** 2)
    generator = np.random.default_rng(0)
    found, errors = [], np.zeros(len(shares))
    for _ in range(30):
        rows = generator.standard_normal((samples, width)) @ np.sqrt(spectrum)
        sample = rows.T @ rows / samples
        found.append(estimated_shrinkage(torch.from_numpy(sample), samples))
        level = np.trace(sample) / width * np.eye(width)
        errors += [np.sum(((1 - s) * sample + s * level - spectrum) ** 2) for s in shares]
    assert np.mean(found) == pytest.approx(shares[errors.argmin()], abs=0.08)


def test_massive_dimensions_do_not_set_how_far_the_others_are_shrunk():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(64, 64, generator=generator) + 3 * torch.eye(64)
    sides = [moments([torch.randn(600, 64, generator=generator) @ mixing]) for _ in range(2)]
    units = torch.ones(64, dtype=torch.float64)
    units[[3, 17]] = 300.0
    massive = [
        one._replace(mean=one.mean * units, scatter=one.scatter * torch.outer(units, units))
        for one in sides
    ]
    plain, found = (MassMean()._spread(*both, texts=100) for both in (sides, massive))
    rest = [place for place in range(64) if place not in (3, 17)]
    moved = (found.diagonal() - plain.diagonal())[rest].abs()
    assert moved.max() < 0.5 * plain.diagonal().mean()


def test_fewer_tokens_than_dimensions_have_a_probe_all_the_same(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(1, negatives=1)
    entry = entry._replace(negatives=[example("Why", "fig")])
    shows, lacks = both_sides(tiny_llama, site, entry)
    assert len(shows) + len(lacks) < tiny.WIDTH
    probe = MassMean().fit(tiny_llama, site, [entry]).tensors["probes"]
    assert probe.isfinite().all()
    assert estimated_shrinkage(torch.eye(4), 9) == 1.0


def test_strength_may_be_the_maximum_activation(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(4)
    learned = MassMean(length="activation").fit(tiny_llama, site, [entry])
    states = np.concatenate(both_sides(tiny_llama, site, entry))
    highest = (states @ learned.tensors["directions"][0].numpy()).max()
    assert float(learned.tensors["activations"]) == pytest.approx(highest, rel=1e-4)


def test_bad_settings_and_rows(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"the mass-mean probe cannot learn concept 7.*negative"):
        MassMean().fit(tiny_llama, tiny.site_of(tiny_llama), [entry._replace(negatives=[])])
    with pytest.raises(ConfigError, match="shrinkage 2"):
        MassMean(shrinkage=2.0)
