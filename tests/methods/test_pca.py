"""PCA against a singular value decomposition of all states, and its sign."""

import numpy as np
import pytest
import torch

import tiny
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.concept_states import moments
from hypersteer.methods.pca import Pca, first_component, published_sign, towards
from methods.cases import concepts_of, states_alone


def all_states(lm, site, rows):
    return torch.cat([states_alone(lm, site, row) for row in rows]).double()


@pytest.mark.parametrize("limits", [{}, {"batch_tokens": 30, "cache_bytes": 0}])
def test_first_component_of_the_positives_towards_them(lm, limits):
    site, concepts = tiny.site_of(lm), concepts_of(5, 3)
    found = Pca(**limits).fit(lm, site, concepts).tensors["directions"]
    published = Pca(sign="published", **limits).fit(lm, site, concepts).tensors["directions"]
    for number, entry in enumerate(concepts):
        states = all_states(lm, site, entry.positives)
        expected = np.linalg.svd((states - states.mean(0)).numpy())[2][0]
        difference = states.mean(0) - all_states(lm, site, entry.negatives).mean(0)
        sign = np.sign(expected @ difference.numpy())
        np.testing.assert_allclose(found[number], sign * expected, atol=1e-3)
        sign = np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(published[number], sign * expected, atol=1e-3)


def test_without_negatives_it_points_away_from_0(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(4, negatives=0)
    (found,) = Pca().fit(tiny_llama, site, [entry]).tensors["directions"]
    assert all_states(tiny_llama, site, entry.positives).mean(0) @ found.double() > 0


def test_each_concept_is_learnt_by_itself(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 3)
    steps = []
    together = Pca().fit(tiny_llama, site, concepts, done=steps.append)
    alone = Pca().fit(tiny_llama, site, concepts[1:])
    for name in ("directions", "activations"):
        torch.testing.assert_close(together.tensors[name][1:], alone.tensors[name])
    assert sum(steps) == pytest.approx(1)
    assert together.cost.parameters == tiny.WIDTH + 1
    empty = Pca().fit(tiny_llama, site, [])
    assert empty.tensors["directions"].shape == (0, tiny.WIDTH)


def test_what_cannot_be_learnt_is_told(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    with pytest.raises(DataError, match=r"PCA cannot learn concept 7.*positive rows"):
        Pca().fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        Pca(batch_tokens=0)


def some_rows(count=500, width=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing


@pytest.mark.parametrize("width", [1, 3, 8, 40])
def test_the_first_component_is_the_largest_eigenvector(width):
    scatter = moments([some_rows(width=width)]).scatter
    expected = np.linalg.eigh(scatter.numpy())[1][:, -1]
    found = first_component(scatter)
    assert abs(float(found @ torch.from_numpy(expected))) == pytest.approx(1, abs=1e-9)
    assert float(found.norm()) == pytest.approx(1)


def test_close_eigenvalues_are_told_apart():
    """Too many for the subspace to hold, so that all eigenvectors have to be computed."""
    values = torch.cat([torch.tensor([1.0 + 1e-6]), torch.ones(19)]).double()
    turn = torch.linalg.qr(some_rows(20).double()).Q
    found = first_component(turn * values @ turn.T)
    assert abs(float(found @ turn[:, 0])) == pytest.approx(1, abs=1e-6)


def test_signs():
    direction = torch.tensor([0.1, -0.9, 0.4])
    assert torch.equal(published_sign(direction), -direction)
    assert torch.equal(published_sign(-direction), -direction)
    goal = torch.tensor([1.0, 0.0, 0.0])
    assert torch.equal(towards(direction, goal), direction)
    assert torch.equal(towards(direction, -goal), -direction)
