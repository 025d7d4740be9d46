"""Concept detection on scores: AUROC, hard negatives, and F1, balanced and with few positives.

A text is called positive if its score is at or above a threshold. Definitions follow AxBench
(sections 3 and 4 of arXiv 2501.17148), but a concept without the texts that a metric needs is
missing from that metric, where the published code drops or zeroes it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from hypersteer.errors import DataError
from hypersteer.stats import Interval, auroc, bootstrap

RATIO = 100
"""Negatives of other concepts per positive, in AxBench."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScores:
    """Scores that one concept's detector gives to texts, higher where the concept shows.

    Attributes:
        concept_id: the concept.
        positives: of texts that show it.
        negatives: of texts that do not.
        hard_negatives: of texts that use its words in another meaning; there may be none.
        others: of the negatives of other concepts, by this concept's detector; there may be none.
        pool: how many of those there are, where `others` are the scores of the drawn ones alone
            (see `draw`); by default `others` are all of them.
    """

    concept_id: int
    positives: Sequence[float]
    negatives: Sequence[float]
    hard_negatives: Sequence[float] = ()
    others: Sequence[float] = ()
    pool: int | None = None


def area(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the AUROC of checked scores, see `hypersteer.stats.auroc`.

    Raises:
        DataError: one of the two is empty, or a score is NaN.
    """
    above, below = _array(positives, "positive"), _array(negatives, "negative")
    return float(auroc(torch.from_numpy(above), torch.from_numpy(below)))


class _Rates(NamedTuple):
    """How many texts are at or above each threshold; thresholds descend."""

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray


def _rates(above: np.ndarray, below: np.ndarray) -> _Rates:
    thresholds = np.unique(np.concatenate([above, below]))[::-1]
    true_positives = len(above) - np.searchsorted(np.sort(above), thresholds)
    false_positives = len(below) - np.searchsorted(np.sort(below), thresholds)
    return _Rates(thresholds, true_positives, false_positives)


def youden_threshold(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the score with the largest true minus false positive rate; the highest of equals.

    Raises:
        DataError: one of the two is empty, or a score is NaN.
    """
    above, below = _array(positives, "positive"), _array(negatives, "negative")
    rates = _rates(above, below)
    # Cross-multiplied to whole numbers, so that equals are equal.
    gain = rates.true_positives * len(below) - rates.false_positives * len(above)
    return float(rates.thresholds[np.argmax(gain)])


class HardNegatives(NamedTuple):
    """How well a detector tells a concept from its words in another meaning.

    Attributes:
        threshold: the best by Youden's J on positives against plain negatives.
        positives: share of positives at or above it.
        hard_negatives: share of hard negatives below it.
        accuracy: mean of the two shares.
        auroc: positives against hard negatives, without a threshold.
    """

    threshold: float
    positives: float
    hard_negatives: float
    accuracy: float
    auroc: float


def hard_negatives(scores: TextScores) -> HardNegatives | None:
    """Measure hard negatives; return None for a concept that has none.

    Raises:
        DataError: there are no positives or no plain negatives, or a score is NaN.
    """
    threshold = youden_threshold(scores.positives, scores.negatives)
    if not len(scores.hard_negatives):
        return None
    hard = _array(scores.hard_negatives, "hard negative")
    kept = float(np.mean(_array(scores.positives, "positive") >= threshold))
    refused = float(np.mean(hard < threshold))
    beyond = area(scores.positives, scores.hard_negatives)
    return HardNegatives(threshold, kept, refused, (kept + refused) / 2, beyond)


def best_f1(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return F1 of the positives at the threshold where it is best.

    Raises:
        DataError: one of the two is empty, or a score is NaN.
    """
    above, below = _array(positives, "positive"), _array(negatives, "negative")
    rates = _rates(above, below)
    f1 = 2 * rates.true_positives / (rates.true_positives + rates.false_positives + len(above))
    return float(f1.max())


class Imbalanced(NamedTuple):
    """F1 with few positives, and whether some negatives had to be drawn more than once."""

    f1: float
    repeated: bool


def draw(positives: int, pool: int, *, ratio: int = RATIO, seed: int = 42) -> np.ndarray:
    """Return places of `ratio` negatives of other concepts per positive, among a pool of them.

    The draw depends on the seed and on the numbers of texts only, so it is the same for all
    methods, and known before a text is scored. With too few texts to draw from it is with
    replacement.
    """
    wanted = ratio * positives
    return np.random.default_rng(seed).choice(pool, wanted, replace=wanted > pool)


def imbalanced_f1(scores: TextScores, *, ratio: int = RATIO, seed: int = 42) -> Imbalanced | None:
    """Return the best F1 with `ratio` negatives of other concepts added per positive.

    Returns:
        None where there are no negatives of other concepts.

    Raises:
        DataError: there are no positives or no plain negatives, or a score is NaN.
    """
    own = _array(scores.negatives, "negative")
    if not len(scores.others):
        return None
    drawn = _array(scores.others, "other concepts' negative")
    pool, count = scores.pool, len(scores.positives)
    if pool is None:
        pool = len(drawn)
        drawn = drawn[draw(count, pool, ratio=ratio, seed=seed)]
    negatives = np.concatenate([own, drawn])
    return Imbalanced(best_f1(scores.positives, negatives.tolist()), ratio * count > pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Detection metrics of a method, means over the concepts that have each.

    Attributes:
        auroc: positives against plain negatives.
        f1: at the best threshold, on the same texts.
        imbalanced_f1: with `ratio` more negatives per positive; None where there are none to draw.
        repeated: whether they were drawn with replacement for some concept.
        hard_positives: share of positives at or above Youden's threshold.
        hard_negatives: share of hard negatives below it; None where no concept has hard negatives.
        hard_accuracy: mean of the two.
        hard_auroc: positives against hard negatives.
        ratio: of drawn negatives to positives.
    """

    auroc: Interval
    f1: Interval
    imbalanced_f1: Interval | None
    repeated: bool
    hard_positives: Interval | None
    hard_negatives: Interval | None
    hard_accuracy: Interval | None
    hard_auroc: Interval | None
    ratio: int


class _Found(NamedTuple):
    """The metrics of one concept."""

    auroc: float
    f1: float
    rare: Imbalanced | None
    hard: HardNegatives | None


def detect(concepts: Iterable[TextScores], *, ratio: int = RATIO, seed: int = 42) -> Detection:
    """Measure one method over its concepts, whose scores are read one after the other.

    Raises:
        DataError: there are no concepts, or one lacks positives or negatives.
    """
    found = [
        _Found(
            area(one.positives, one.negatives),
            best_f1(one.positives, one.negatives),
            imbalanced_f1(one, ratio=ratio, seed=seed),
            hard_negatives(one),
        )
        for one in concepts
    ]
    hard = [one.hard for one in found if one.hard is not None]
    rare = [one.rare for one in found if one.rare is not None]
    return Detection(
        auroc=bootstrap([one.auroc for one in found]),
        f1=bootstrap([one.f1 for one in found]),
        imbalanced_f1=bootstrap([r.f1 for r in rare]) if rare else None,
        repeated=any(r.repeated for r in rare),
        hard_positives=bootstrap([h.positives for h in hard]) if hard else None,
        hard_negatives=bootstrap([h.hard_negatives for h in hard]) if hard else None,
        hard_accuracy=bootstrap([h.accuracy for h in hard]) if hard else None,
        hard_auroc=bootstrap([h.auroc for h in hard]) if hard else None,
        ratio=ratio,
    )


def _array(scores: Sequence[float], kind: str) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if not len(values):
        raise DataError(f"there is no {kind} text to detect; give at least one per concept")
    if np.isnan(values).any():
        raise DataError(f"the score of a {kind} text is NaN; the detector or its input is broken")
    return values
