"""Means, scatters and first principal components of states, without holding all of them."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Sign = Literal["resolved", "published"]
"""Which way a principal component points: towards the positives, or as chance has it."""

BLOCK, ROUNDS, TOLERANCE = 8, 300, 1e-9
"""Vectors of the subspace iteration, its most rounds, and the relative residual that ends it."""


class Moments(NamedTuple):
    """Sums over the states of many tokens, in float64 on the CPU.

    Attributes:
        count: tokens.
        mean: [D].
        scatter: [D, D], sum of products of the states' distances from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor


@torch.no_grad()
def moments(parts: Iterable[Float[Tensor, "_ D"]]) -> Moments:
    """Return mean and scatter of all rows of all parts, of which there is at least one.

    Products are taken in float32 about the first part's mean, which keeps their digits where a
    common offset dwarfs the spread, and are added up in float64.
    """
    count, shift = 0, torch.zeros(())
    total, products = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in parts:
        rows = part.float()
        if not count:
            shift = rows.mean(0)
        rows = rows - shift
        count += len(rows)
        total = total + rows.sum(0).cpu().double()
        products = products + (rows.T @ rows).cpu().double()
    mean = total / count
    return Moments(count, shift.cpu().double() + mean, products - count * torch.outer(mean, mean))


def first_component(scatter: Float[Tensor, "D D"]) -> Float[Tensor, " D"]:
    """Return the unit eigenvector of the largest eigenvalue, of either sign, float64.

    Subspace iteration with Rayleigh-Ritz steps from a fixed start (Golub and Van Loan, Matrix
    Computations, section 8.2.4): for wide models far cheaper than all eigenvectors, which are
    computed only where it does not converge.
    """
    scatter = scatter.double()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(
        len(scatter), min(BLOCK, len(scatter)), generator=generator, dtype=torch.float64
    )
    basis = torch.linalg.qr(start).Q
    for _ in range(ROUNDS):
        image = scatter @ basis
        values, turn = torch.linalg.eigh(basis.T @ image)
        first = basis @ turn[:, -1]
        residual = image @ turn[:, -1] - values[-1] * first
        if residual.norm() <= TOLERANCE * values[-1]:
            return first
        basis = torch.linalg.qr(image).Q
    return torch.linalg.eigh(scatter).eigenvectors[:, -1]


def towards(direction: Float[Tensor, " D"], goal: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the direction or its opposite, whichever has no negative product with the goal."""
    return -direction if float(direction.double() @ goal.double()) < 0 else direction


def published_sign(direction: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the direction with its largest entry positive, as scikit-learn leaves components."""
    return -direction if direction[direction.abs().argmax()] < 0 else direction
