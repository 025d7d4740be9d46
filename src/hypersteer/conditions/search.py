"""Where a condition is best read, and what its score must pass: all layers at once.

Scores are worked out once, texts by layers; thresholds come from sorting them. Shapes: M texts,
L layers, C columns (single layers and combinations of them).
"""

from collections.abc import Iterator
from itertools import combinations, islice
from math import comb
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.conditions.condition import Fires
from hypersteer.errors import ConfigError, DataError
from hypersteer.stats import auroc

MOST_COLUMNS = 200_000
"""Combinations of layers that are tried at most."""
MOST_SCORES = 2_000_000
"""Scores that are sorted at a time."""


class Point(NamedTuple):
    """What was chosen.

    Attributes:
        columns: places of the layers among those searched.
        threshold: between two scores.
        fires: `above` or `below` it.
        margin: from the threshold to the nearest score.
        auroc: of the combined score.
        f1: of the texts called positive.
        precision: share of those that are.
        recall: share of the positives that are called so.
        false_positives: share of the negatives that are called so.
    """

    columns: tuple[int, ...]
    threshold: float
    fires: Fires
    margin: float
    auroc: float
    f1: float
    precision: float
    recall: float
    false_positives: float


class _Cuts(NamedTuple):
    """The best cut of every column: how good, how wide relative to the spread, and where."""

    gains: Tensor
    widths: Tensor
    thresholds: Tensor


def find_point(
    scores: Float[Tensor, "M L"],
    positive: Bool[Tensor, " M"],
    *,
    max_layers: int = 1,
    false_positives: float | None = None,
) -> Point:
    """Choose layers, threshold and direction of comparison.

    The best F1 wins; with a budget of false positives, the most true positives within it, and then
    the fewest false ones. Ties go to the widest margin in units of the scores' spread, then to
    fewer layers, to firing above, and to lower layers.

    Args:
        scores: of every text at every layer.
        positive: which texts should fire.
        max_layers: most layers joined by "any of them".
        false_positives: most false positives, as a share of the negatives.

    Raises:
        ConfigError: if there are too many combinations.
        DataError: if one side is empty, no threshold separates any scores, or none has a true
            positive within the budget.
    """
    scores = scores.double()
    if not bool(positive.any()) or bool(positive.all()):
        raise DataError("texts of both sides are needed to choose a threshold")
    check_combinations(scores.shape[1], max_layers)
    best: tuple[float, float] | None = None
    chosen: tuple[tuple[int, ...], float, Fires] | None = None
    for fires, members in _searched(scores.shape[1], max_layers, len(scores)):
        values = scores[:, torch.tensor(members)]
        joined = values.amax(-1) if fires == "above" else -values.amin(-1)
        cuts = _best_cuts(joined, positive, false_positives)
        gain = float(cuts.gains.max())
        widths = cuts.widths.masked_fill(cuts.gains < gain, -1.0)
        place = int(widths.argmax())
        rank = (gain, float(widths[place]))
        if gain > -torch.inf and (best is None or rank > best):
            best = rank
            threshold = float(cuts.thresholds[place]) * (1 if fires == "above" else -1)
            chosen = (members[place], threshold, fires)
    if chosen is None and false_positives is not None:
        raise DataError(
            f"no threshold lets at most a share of {false_positives:g} of the off-topic texts "
            "through and any of the others; raise false_positives, or give other texts"
        )
    if chosen is None:
        raise DataError("no threshold tells any scores apart; give other texts or layers")
    columns, threshold, fires = chosen
    picked = scores[:, list(columns)]
    combined = picked.amax(1) if fires == "above" else picked.amin(1)
    return describe(combined, positive, columns, threshold, fires)


def describe(
    scores: Float[Tensor, " M"],
    positive: Bool[Tensor, " M"],
    columns: tuple[int, ...],
    threshold: float,
    fires: Fires,
) -> Point:
    """Measure how a threshold does on texts."""
    called = scores > threshold if fires == "above" else scores < threshold
    hits = int((called & positive).sum())
    wrong = int((called & ~positive).sum())
    wanted = int(positive.sum())
    upward = scores if fires == "above" else -scores
    return Point(
        columns=columns,
        threshold=threshold,
        fires=fires,
        margin=float((scores - threshold).abs().min()),
        auroc=float(auroc(upward[positive], upward[~positive])),
        f1=2 * hits / (hits + wrong + wanted),
        precision=hits / max(1, hits + wrong),
        recall=hits / wanted,
        false_positives=wrong / (len(scores) - wanted),
    )


def _best_cuts(
    scores: Float[Tensor, "M C"], positive: Bool[Tensor, " M"], budget: float | None
) -> _Cuts:
    """Find the best threshold of every column for firing above it."""
    ordered, order = scores.sort(0, descending=True)
    hits = positive[order].double().cumsum(0)[:-1]
    called = torch.arange(1, len(scores), dtype=torch.double)[:, None]
    wanted = float(positive.sum())
    upper, lower = ordered[:-1], ordered[1:]
    middles = (upper + lower) / 2
    if budget is None:
        gains = 2 * hits / (called + wanted)
    else:
        wrong = called - hits
        # A false positive less never outweighs a true positive more.
        gains = hits - wrong / (len(scores) + 1)
        allowed = budget * (len(scores) - wanted) + 1e-9
        gains = gains.masked_fill((wrong > allowed) | (hits == 0), -torch.inf)
    gains = gains.masked_fill(~((upper > middles) & (middles >= lower)), -torch.inf)
    widths = (upper - lower) / scores.std(0).clamp(min=1e-12)
    best = gains.amax(0)
    places = widths.masked_fill(gains < best, -1.0).argmax(0)[None]
    return _Cuts(best, widths.gather(0, places)[0], middles.gather(0, places)[0])


def check_combinations(layers: int, most: int) -> None:
    """Refuse more combinations of layers than can be tried.

    Raises:
        ConfigError: naming both numbers.
    """
    most = min(most, layers)
    count = sum(comb(layers, size) for size in range(1, most + 1))
    if count > MOST_COLUMNS:
        raise ConfigError(
            f"{layers} layers in groups of up to {most} are {count:,} combinations; "
            "give fewer layers or a smaller max_layers"
        )


def _searched(layers: int, most: int, texts: int) -> Iterator[tuple[Fires, list[tuple[int, ...]]]]:
    """Yield combinations in the order that resolves ties, as many together as memory allows."""
    together = max(1, MOST_SCORES // texts)
    for size in range(1, min(most, layers) + 1):
        for fires in get_args(Fires):
            groups = combinations(range(layers), size)
            while members := list(islice(groups, together)):
                yield fires, members
