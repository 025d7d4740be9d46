"""Statistics that several packages report: AUROC, and means with bootstrap intervals."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.errors import DataError

RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean over concepts or items, or a ratio of means, with its 95 % interval.

    Attributes:
        mean: over the concepts.
        low: 2.5th percentile of the resampled means; NaN for one concept, which has no spread.
        high: 97.5th percentile, likewise.
        count: concepts.
    """

    mean: float
    low: float
    high: float
    count: int


def auroc(
    positives: Float[Tensor, "P *columns"], negatives: Float[Tensor, "Q *columns"]
) -> Float[Tensor, "*columns"]:
    """Return the probability that a positive scores above a negative, a tie counting half.

    Each column is a score of its own. Its negatives are sorted, and the places of its positives
    among them are looked up; counts are whole numbers, so the result (float64) is rounded once.

    Args:
        positives: scores of P items of the class, at least one.
        negatives: scores of Q items outside it, at least one.
    """
    low = negatives.double().movedim(0, -1).contiguous().sort(-1).values
    high = positives.double().movedim(0, -1).contiguous()
    below, up_to = (torch.searchsorted(low, high, right=right) for right in (False, True))
    return (below + up_to).double().sum(-1) / (2 * high.shape[-1] * low.shape[-1])


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean, correctly rounded.

    Raises:
        DataError: of nothing.
    """
    numbers = list(values)
    if not numbers:
        raise DataError("there is no mean of no values; evaluate at least one concept and judge it")
    return math.fsum(numbers) / len(numbers)


def bootstrap(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean with its 95 % percentile bootstrap interval.

    Args:
        values: one per concept.
        resamples: how often concepts are drawn anew, with replacement.
        seed: of the draws.

    Raises:
        DataError: there are no values, or one is not finite.
    """
    if not all(map(math.isfinite, values)):
        raise DataError("cannot average a value that is not finite; leave such concepts out")
    average = mean(values)
    if len(values) == 1:
        return Interval(average, math.nan, math.nan, 1)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.asarray(values, dtype=float)[drawn].mean(1), [2.5, 97.5])
    return Interval(average, float(low), float(high), len(values))


def bootstrap_ratio(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Return the mean of ours over the mean of theirs, resampled in pairs.

    Args:
        ours: one value per item.
        theirs: values of the same items, in their order; none is negative.
        resamples: how often items are drawn anew, with replacement.
        seed: of the draws.

    Returns:
        None where theirs are all 0. Draws in which they are have no ratio and are left out.

    Raises:
        DataError: there are no values, one is not finite, or they are not of the same items.
    """
    if len(ours) != len(theirs):
        raise DataError(f"{len(ours)} and {len(theirs)} values are not of the same items")
    if not all(map(math.isfinite, (*ours, *theirs))):
        raise DataError("cannot average a value that is not finite; leave such items out")
    above, below = mean(ours), mean(theirs)
    if below == 0:
        return None
    if len(ours) == 1:
        return Interval(above / below, math.nan, math.nan, 1)
    drawn = np.random.default_rng(seed).integers(0, len(ours), (resamples, len(ours)))
    tops, bottoms = (np.asarray(values, dtype=float)[drawn].mean(1) for values in (ours, theirs))
    ratios = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(above / below, float(low), float(high), len(ours))
