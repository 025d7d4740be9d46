"""Agreement of readers and judges, held against computations by hand and by counting pairs."""

import itertools
import math
import random

import pytest

from hypersteer.judges.agreement import kendall_tau, ordered_alike, spearman, weighted_kappa
from hypersteer.judges.gold import gold_answers


def ranks(values):
    """Mean ranks by counting."""
    return [
        sum(v < one for v in values) + (sum(v == one for v in values) + 1) / 2 for one in values
    ]


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    above = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    size = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return above / math.sqrt(size)


def tau(a, b):
    """Tau-b pair by pair."""
    same = other = only_a = only_b = 0
    for (x, y), (v, w) in itertools.combinations(zip(a, b, strict=True), 2):
        if x == v and y == w:
            continue
        if x == v:
            only_a += 1
        elif y == w:
            only_b += 1
        elif (x < v) == (y < w):
            same += 1
        else:
            other += 1
    pairs = same + other
    return (same - other) / math.sqrt((pairs + only_a) * (pairs + only_b))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlations_agree_with_counting(seed):
    draw = random.Random(seed)
    a = [draw.randint(0, 4) for _ in range(30)]
    b = [x + draw.randint(-2, 2) for x in a]
    assert spearman(a, b) == pytest.approx(pearson(ranks(a), ranks(b)))
    assert kendall_tau(a, b) == pytest.approx(tau(a, b))


def test_the_ends_of_the_scales():
    assert spearman([1, 2, 3], [2, 4, 9]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 4, 2]) == pytest.approx(-1)
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert math.isnan(kendall_tau([1, 2], [1, 1]))


def test_kappa_by_hand():
    assert weighted_kappa([0, 1, 2, 2], [0, 1, 2, 2]) == 1
    # Two items one step apart, of ten; by chance the sum of squares is 2 * variance + 0 of means.
    first, second = [0] * 5 + [2] * 5, [0] * 4 + [1] + [2] * 4 + [1]
    by_chance = sum((x - y) ** 2 for x in first for y in second) / 100
    assert weighted_kappa(first, second) == pytest.approx(1 - 0.2 / by_chance)
    assert math.isnan(weighted_kappa([1, 1], [1, 1]))
    assert weighted_kappa([0, 2, 0, 2], [2, 0, 2, 0]) == pytest.approx(-1)


def test_the_labelled_answers_are_whole():
    answers = gold_answers()
    assert len(answers) >= 300
    assert len({one.id for one in answers}) == len(answers)
    assert len({one.answer.concept for one in answers}) == 40
    assert len({one.method for one in answers}) >= 8
    assert {"smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"} <= {one.lm for one in answers}
    assert sum(one.second is not None for one in answers) >= 100
    for one in answers:
        for labels in (one.labels, one.second or one.labels):
            assert set(labels.values()) <= {0, 1, 2}
        assert one.answer.instruction
        assert one.answer.plain


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_are_ordered_alike_are_counted_one_by_one(seed):
    chance = random.Random(seed)
    a, b = ([chance.randrange(4) for _ in range(12)] for _ in range(2))
    points = [
        1.0 if (x < y) == (v < w) and v != w else 0.5 if v == w else 0.0
        for (x, v), (y, w) in itertools.combinations(zip(a, b, strict=True), 2)
        if x != y
    ]
    assert ordered_alike(a, b) == pytest.approx(sum(points) / len(points))
    assert ordered_alike(a, a) == 1.0
    assert ordered_alike(a, [-x for x in a]) == 0.0
    assert math.isnan(ordered_alike([1.0] * 12, b))


def test_the_answers_that_nothing_was_chosen_on_are_others():
    """Same labels and fields, and no answer is in both files."""
    unseen, chosen_on = gold_answers(unseen=True), gold_answers()
    assert len(unseen) >= 100
    assert len({one.id for one in (*unseen, *chosen_on)}) == len(unseen) + len(chosen_on)
    assert not {one.answer for one in unseen} & {one.answer for one in chosen_on}
    for one in unseen:
        assert one.second is not None
        for labels in (one.labels, one.second):
            assert set(labels) == {"concept", "instruction", "fluency"}
            assert set(labels.values()) <= {0, 1, 2}
