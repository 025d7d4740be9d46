"""Moments of states against numpy on all rows at once."""

import numpy as np
import pytest
import torch

from hypersteer.learning.concept_states import moments


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
