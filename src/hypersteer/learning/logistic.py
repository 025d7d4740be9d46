"""Logistic regression from the products of rows: few rows, however wide, and many fits at once."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

INTERCEPT = 1e4
"""Prior variance of the intercept: as good as free, so that it needs no case of its own."""
ROUNDS, HALVINGS, TOLERANCE = 100, 30, 1e-8


class Logistic(NamedTuple):
    """Fits as sums over their rows.

    A score is `c * products @ dual + intercept`, with the products of the scored row and the rows
    that were fitted; the weights are `c * rows.T @ dual`.

    Attributes:
        dual: [..., R], one number per row.
        intercept: [...].
    """

    dual: Tensor
    intercept: Tensor


@torch.no_grad()
def fit_logistic(
    products: Float[Tensor, "*fits R R"], labels: Bool[Tensor, " R"], c: float
) -> Logistic:
    """Minimise the sum of the rows' log-losses plus the weights' squared norm over `2 c`.

    Newton's method in the rows' space, each step halved until it is none for the worse (Rasmussen
    and Williams, Gaussian Processes for Machine Learning, algorithm 3.1), in float64.

    Args:
        products: of all pairs of R rows, for each fit.
        labels: of the rows, the same for all fits.
        c: inverse of the penalty, as scikit-learn has it.
    """
    kernel, targets = c * products.double() + INTERCEPT, labels.to(products.device).double()
    dual = torch.zeros(kernel.shape[:-1], dtype=torch.float64, device=kernel.device)
    for _ in range(ROUNDS):
        scores = _product(kernel, dual)
        chances = scores.sigmoid()
        if float((targets - chances - dual).abs().max()) < TOLERANCE:
            break  # the gradient, but for a factor
        weights = (chances * (1 - chances)).clamp(min=1e-12)
        root = weights.sqrt()
        system = root[..., :, None] * kernel * root[..., None, :]
        system.diagonal(dim1=-2, dim2=-1).add_(1)
        aim = weights * scores + targets - chances
        inner = torch.linalg.solve(system, root * _product(kernel, aim))
        dual = _damped(kernel, targets, dual, aim - root * inner - dual)
    return Logistic(dual, INTERCEPT * dual.sum(-1))


def _damped(kernel: Tensor, targets: Tensor, dual: Tensor, step: Tensor) -> Tensor:
    """Halve the step until it is none for the worse, each fit by itself."""
    before, size = _objective(kernel, targets, dual), torch.ones_like(dual[..., :1])
    for _ in range(HALVINGS):
        worse = _objective(kernel, targets, dual + size * step) > before + 1e-12 * before.abs()
        if not bool(worse.any()):
            break
        size = torch.where(worse[..., None], size / 2, size)
    return dual + size * step


def _objective(kernel: Tensor, targets: Tensor, dual: Tensor) -> Tensor:
    scores = _product(kernel, dual)
    return (F.softplus(scores) - targets * scores + dual * scores / 2).sum(-1)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]
