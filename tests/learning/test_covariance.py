"""Moments and first components against numpy on all rows at once."""

import numpy as np
import pytest
import torch

from hypersteer.learning.covariance import first_component, moments, published_sign, towards


def some_rows(count=500, width=20, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + offset


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_do_not_depend_on_the_parts(offset):
    """Also where an offset common to all rows is much larger than their spread."""
    rows = some_rows(offset=offset)
    found = moments(part for part in rows.split([7, 200, 1, 292]))
    plain = rows.double().numpy()
    assert found.count == 500
    np.testing.assert_allclose(found.mean, plain.mean(0), rtol=1e-6, atol=1e-6)
    scatter = np.cov(plain.T, bias=True) * 500
    np.testing.assert_allclose(found.scatter, scatter, rtol=1e-4, atol=1e-4 * scatter.max())


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
