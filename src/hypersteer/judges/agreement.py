"""How far two judges, or a judge and a reader, agree: rank correlations, and kappa of labels."""

from collections.abc import Sequence

import numpy as np


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation of two lists of scores, ties sharing their mean rank.

    Args:
        first: N scores.
        second: N scores of the same items.

    Returns:
        from -1 to 1; NaN where one list is all alike.
    """
    a, b = (_ranks(values) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else float("nan")


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau-b of two lists of scores: pairs in the same order less the others.

    Args:
        first: N scores.
        second: N scores of the same items.

    Returns:
        from -1 to 1; NaN where one list is all alike.
    """
    a, b = (_orders(values) for values in (first, second))
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else float("nan")


def ordered_alike(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how many of the pairs that `first` tells apart `second` orders as it does.

    Where many of the first scores are equal, Kendall's tau-b cannot reach 1; this can.

    Args:
        first: N scores that count as true.
        second: N scores of the same items; a tie counts half.

    Returns:
        from 0 to 1, 0.5 by chance; NaN where all the first scores are alike.
    """
    a, b = (_orders(values) for values in (first, second))
    pairs = float(np.abs(a).sum())
    return (1 + float((a * b).sum()) / pairs) / 2 if pairs else float("nan")


def weighted_kappa(first: Sequence[int], second: Sequence[int], levels: int = 3) -> float:
    """Return Cohen's kappa with quadratic weights: agreement above what chance would give.

    Args:
        first: N labels from 0 to `levels` - 1.
        second: N labels of the same items by another reader.
        levels: how many labels there are.

    Returns:
        at most 1; NaN where both readers gave all items one and the same label.
    """
    table = np.zeros((levels, levels))
    np.add.at(table, (np.asarray(first), np.asarray(second)), 1.0)
    table /= table.sum()
    by_chance = np.outer(table.sum(1), table.sum(0))
    apart = np.subtract.outer(np.arange(levels), np.arange(levels)) ** 2
    expected = float((apart * by_chance).sum())
    return 1 - float((apart * table).sum()) / expected if expected else float("nan")


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value; equal ones have the mean of theirs."""
    _, places, counts = np.unique(
        np.asarray(values, float), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def _orders(values: Sequence[float]) -> np.ndarray:
    """Return the sign of the difference of every two values."""
    array = np.asarray(values, float)
    rows, columns = np.triu_indices(len(array), 1)
    return np.sign(array[rows] - array[columns])
