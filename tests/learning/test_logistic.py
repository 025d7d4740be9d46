"""Logistic regression against the gradient of its objective, taken in the weights."""

import pytest
import torch
from torch.nn import functional as F

from hypersteer.learning.logistic import fit_logistic


def problem(rows=30, width=50, fits=4, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(rows, generator=generator) < 0.4
    values = torch.randn(fits, rows, width, generator=generator, dtype=torch.float64)
    values[1:] += labels[None, :, None]  # the first has nothing to tell
    return scale * values, labels


def gradients(rows, labels, c, weights, intercept):
    weights = weights.clone().requires_grad_()
    intercept = intercept.clone().requires_grad_()
    losses = F.binary_cross_entropy_with_logits(
        rows @ weights + intercept, labels.double(), reduction="sum"
    )
    return torch.autograd.grad(losses + weights.square().sum() / (2 * c), [weights, intercept])


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("width", [3, 50])
def test_the_optimum_has_no_gradient(c, scale, width):
    """For separable rows (more dimensions than rows) and others."""
    values, labels = problem(width=width, scale=scale)
    found = fit_logistic(values @ values.mT, labels, c)
    for rows, dual, intercept in zip(values, *found, strict=True):
        weights = c * rows.T @ dual
        by_weights, by_intercept = gradients(rows, labels, c, weights, intercept)
        assert by_weights.abs().max() < 1e-5 * scale * len(rows)
        assert float(by_intercept.abs()) < 1e-3  # its prior is wide, not flat


def test_fits_do_not_touch_each_other():
    values, labels = problem()
    together = fit_logistic(values @ values.mT, labels, 1.0)
    for number, rows in enumerate(values):
        alone = fit_logistic(rows @ rows.T, labels, 1.0)
        torch.testing.assert_close(together.dual[number], alone.dual, atol=1e-6, rtol=1e-6)
