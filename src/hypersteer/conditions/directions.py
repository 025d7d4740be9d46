"""Directions that tell two sets of states apart, at all layers at once.

Shapes: P and N states of either side, L layers, D width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.config.conditions import Contrast
from hypersteer.errors import DataError
from hypersteer.lm.units import dimension_scales, excess

SHRINKAGE = 0.5
"""How far the covariance of `whitened` is drawn towards the identity, from 0 to 1."""


class Directions(NamedTuple):
    """One direction per layer, pointing from the negatives to the positives.

    Attributes:
        vectors: unit length, [L, D].
        means: midpoints between the mean states of the two sides, [L, D].
        gaps: how far apart the two means lie along the direction, [L].
        explained: share of the variance of what the direction was found in, [L].
    """

    vectors: Tensor
    means: Tensor
    gaps: Tensor
    explained: Tensor


@torch.no_grad()
def find_directions(
    positives: Float[Tensor, "P L D"], negatives: Float[Tensor, "N L D"], method: Contrast
) -> Directions:
    """Find the direction of every layer.

    `paired`, `global` and `difference` take the first principal component, as CAST does
    (arXiv 2409.05907), of: both members of each pair minus the pair's midpoint; all states minus
    their mean; the differences of the pairs. Principal components are those of centred data, so
    `difference` leaves out what all pairs have in common; it is there to match published vectors.
    `mean` is the difference of the two means. `whitened` turns that difference away from where the
    states of one side spread anyway (linear discriminant analysis): it is multiplied by the inverse
    of the pooled covariance within the sides, which is drawn by `SHRINKAGE` towards a multiple of
    the identity, since there are fewer texts than dimensions.

    The sign is the one by which most pairs have the positive above (all pairs of a positive and a
    negative where they come without partners).

    Raises:
        DataError: if a side has fewer than two states, pairs are wanted and the sides are not
            equally many, or the states of a layer do not differ.
    """
    check_counts(len(positives), len(negatives), method)
    above, below = positives.double().transpose(0, 1), negatives.double().transpose(0, 1)
    centres = (above.mean(1), below.mean(1))
    vectors, explained = [], []
    for layer in range(len(above)):
        vector, share = _direction(above[layer], below[layer], method)
        vectors.append(vector)
        explained.append(share)
    found = torch.stack(vectors) * _signs(above, below, torch.stack(vectors))[:, None]
    gaps = ((centres[0] - centres[1]) * found).sum(-1)
    return Directions(
        found.float(),
        ((centres[0] + centres[1]) / 2).float(),
        gaps.float(),
        torch.stack(explained).float(),
    )


@torch.no_grad()
def side_scales(
    positives: Float[Tensor, "P L D"], negatives: Float[Tensor, "N L D"]
) -> Float[Tensor, "L D"]:
    """Return what to divide states by, so that no few dimensions decide a direction or a cosine.

    A dimension in which the states of one side spread more than is typical of the layer is brought
    to what is typical; the others stay as they are.
    """
    sides = positives - positives.mean(0), negatives - negatives.mean(0)
    spread = torch.cat(sides).transpose(0, 1)
    return torch.stack([excess(dimension_scales(layer)) for layer in spread])


def check_counts(positives: int, negatives: int, method: Contrast) -> None:
    """Refuse numbers of texts that `find_directions` cannot work with.

    Raises:
        DataError: if a side has fewer than two, or pairs are wanted of unequal sides.
    """
    if min(positives, negatives) < 2:
        raise DataError(
            f"{positives} and {negatives} texts are too few to tell apart; give two or more of each"
        )
    if method in ("paired", "difference") and positives != negatives:
        raise DataError(
            f"method '{method}' needs pairs, but there are {positives} and {negatives} texts; give "
            "as many of each, or use method 'global' or 'mean'"
        )


def _direction(above: Tensor, below: Tensor, method: Contrast) -> tuple[Tensor, Tensor]:
    """Return the unit vector [D] of one layer, and its share of the variance."""
    if method == "paired":
        middle = (above + below) / 2
        data = torch.cat([above - middle, below - middle])
    elif method == "difference":
        data = above - below
    else:
        data = torch.cat([above, below])
    data = data - data.mean(0)
    total = data.square().sum()
    if not float(total) > 0:
        raise DataError("the states of the two sides do not differ; give texts that do")
    if method == "mean":
        vector = F.normalize(above.mean(0) - below.mean(0), dim=0)
    elif method == "whitened":
        vector = _whitened(above, below)
    else:
        vector = _principal(data)
    if not float(vector.norm()) > 0:
        raise DataError("the two sides have the same mean states; give texts that differ")
    return vector, (data @ vector).square().sum() / total


def _principal(data: Float[Tensor, "M D"]) -> Float[Tensor, " D"]:
    """Return the first principal component of centred data, from its smaller Gram matrix."""
    rows, width = data.shape
    if rows >= width:
        return torch.linalg.eigh(data.T @ data).eigenvectors[:, -1]
    return F.normalize(data.T @ torch.linalg.eigh(data @ data.T).eigenvectors[:, -1], dim=0)


def _whitened(above: Float[Tensor, "P D"], below: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """Solve (a I + b X'X) v = gap, with as many unknowns as texts (by Woodbury) or dimensions."""
    gap = above.mean(0) - below.mean(0)
    within = torch.cat([above - above.mean(0), below - below.mean(0)])
    rows, width = within.shape
    gram = within @ within.T if rows < width else within.T @ within
    a = SHRINKAGE * gram.trace() / rows / width
    b = (1 - SHRINKAGE) / rows
    if not float(a) > 0:
        return F.normalize(gap, dim=0)
    inner = gram + (a / b) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    if rows >= width:
        return F.normalize(torch.linalg.solve(inner, gap), dim=0)
    return F.normalize(gap - within.T @ torch.linalg.solve(inner, within @ gap), dim=0)


def _signs(
    above: Float[Tensor, "L P D"], below: Float[Tensor, "L N D"], vectors: Float[Tensor, "L D"]
) -> Float[Tensor, " L"]:
    """Return 1 where most positives lie above their negatives, else -1."""
    high = torch.einsum("lpd,ld->lp", above, vectors)
    low = torch.einsum("lnd,ld->ln", below, vectors)
    paired = high.shape == low.shape
    gaps = high - low if paired else (high[:, :, None] - low[:, None]).flatten(1)
    return torch.where(gaps.sign().sum(1) < 0, -1.0, 1.0).double()
