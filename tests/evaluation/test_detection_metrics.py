"""Detection figures against brute force."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersteer.errors import DataError
from hypersteer.evaluation.detection_metrics import (
    TextScores,
    area,
    best_f1,
    detect,
    hard_negatives,
    imbalanced_f1,
    youden_threshold,
)

# Few distinct values, so that ties abound.
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def thresholds(positives, negatives):
    """Every threshold that tells texts apart: each score, from the highest down."""
    return sorted({*positives, *negatives}, reverse=True)


def f1_at(threshold, positives, negatives):
    found = sum(p >= threshold for p in positives)
    called = found + sum(n >= threshold for n in negatives)
    precision, recall = found / called if called else 0.0, found / len(positives)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(scores, scores, st.sampled_from([math.exp, math.atan, lambda x: 3 * x - 7, lambda x: x**3]))
def test_auroc_and_f1_see_only_the_order(positives, negatives, rising):
    moved = [rising(x) for x in positives], [rising(x) for x in negatives]
    assert area(*moved) == area(positives, negatives)
    assert best_f1(*moved) == best_f1(positives, negatives)


@given(scores, scores)
def test_best_f1_over_all_thresholds(positives, negatives):
    by_hand = max(f1_at(t, positives, negatives) for t in thresholds(positives, negatives))
    assert best_f1(positives, negatives) == pytest.approx(by_hand, abs=1e-12)


@given(scores, scores)
def test_youden_over_all_thresholds(positives, negatives):
    def gain(threshold):
        kept = sum(p >= threshold for p in positives) * len(negatives)
        return kept - sum(n >= threshold for n in negatives) * len(positives)

    by_hand = max(thresholds(positives, negatives), key=gain)  # the first, so the highest, of ties
    assert youden_threshold(positives, negatives) == by_hand


def test_hard_negatives_by_hand():
    texts = TextScores(
        concept_id=0,
        positives=[5.0, 4.0, 3.0, 0.5],
        negatives=[1.0, 2.0, 0.0],
        hard_negatives=[3.5, 1.0],
    )
    found = hard_negatives(texts)
    assert found is not None
    # At 3 three quarters of the positives and no plain negative are called positive.
    assert found == (3.0, 0.75, 0.5, 0.625, pytest.approx(5 / 8))
    assert hard_negatives(TextScores(concept_id=0, positives=[1.0], negatives=[0.0])) is None


def test_imbalanced_f1_adds_a_hundred_negatives_per_positive():
    # One positive at 1, under one of the 100 negatives drawn (all of them, as 100 are there).
    others = [0.0] * 99 + [2.0]
    texts = TextScores(concept_id=0, positives=[1.0], negatives=[0.0], others=others)
    assert best_f1(texts.positives, texts.negatives) == 1.0
    assert imbalanced_f1(texts) == (pytest.approx(2 / 3), False)
    # Twice as many are wanted as there are: drawn again and again, and said so.
    again = imbalanced_f1(texts, ratio=200)
    assert again is not None
    assert again.repeated
    assert imbalanced_f1(TextScores(concept_id=0, positives=[1.0], negatives=[0.0])) is None


def test_the_draw_depends_on_the_seed_alone():
    others = [x / 100 for x in range(300)]
    texts = TextScores(concept_id=0, positives=[2.0, 2.5], negatives=[0.0], others=others)
    found = {imbalanced_f1(texts, ratio=10, seed=seed) for seed in range(20)}
    assert len(found) > 1
    assert imbalanced_f1(texts, ratio=10, seed=3) == imbalanced_f1(texts, ratio=10, seed=3)


def test_a_method_is_the_mean_of_its_concepts():
    easy = TextScores(concept_id=0, positives=[2.0, 3.0], negatives=[0.0, 1.0], others=[0.0])
    hard = TextScores(
        concept_id=1, positives=[1.0, 1.0], negatives=[1.0, 1.0], hard_negatives=[0.0]
    )
    found = detect([easy, hard], ratio=1)
    assert found.auroc[::3] == (0.75, 2)
    assert found.f1.mean == pytest.approx((1 + 2 / 3) / 2)
    assert found.hard_auroc is not None
    assert found.hard_auroc[::3] == (1.0, 1)  # the concept without hard negatives is not a 0
    assert found.hard_accuracy is not None
    assert found.hard_accuracy.mean == 1.0
    assert found.imbalanced_f1 is not None
    assert found.imbalanced_f1.count == 1
    assert found.repeated
    without = detect([TextScores(concept_id=0, positives=[1.0], negatives=[0.0])])
    assert without.hard_auroc is None
    assert without.imbalanced_f1 is None
    assert not without.repeated


def test_nothing_to_detect():
    with pytest.raises(DataError, match="no positive text"):
        area([], [1.0])
    with pytest.raises(DataError, match="no negative text"):
        best_f1([1.0], [])
    with pytest.raises(DataError, match="NaN"):
        youden_threshold([1.0], [math.nan])
    with pytest.raises(DataError):
        detect([])
