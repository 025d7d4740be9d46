"""AUROC by counting pairs, and bootstrap intervals computed another way."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypersteer.errors import DataError
from hypersteer.stats import auroc, bootstrap, bootstrap_ratio

LABELS = torch.tensor([True] * 9 + [False] * 7)

# Few distinct values, so that ties abound.
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)


def area(positives, negatives):
    return float(auroc(torch.tensor(positives), torch.tensor(negatives)))


def pairs(positives, negatives):
    """Share of pairs in the right order, a tie counting half."""
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


@given(scores, scores)
def test_auroc_counts_pairs(positives, negatives):
    assert area(positives, negatives) == pytest.approx(pairs(positives, negatives), abs=1e-12)
    assert area(negatives, positives) == pytest.approx(1 - pairs(positives, negatives), abs=1e-12)


def test_auroc_counts_pairs_in_each_column():
    generator = torch.Generator().manual_seed(0)
    shows = torch.randint(0, 4, (7, 30), generator=generator).float()
    lacks = torch.randint(0, 4, (5, 30), generator=generator).float()
    for column, found in enumerate(auroc(shows, lacks)):
        pairs = [(float(a), float(b)) for a in shows[:, column] for b in lacks[:, column]]
        expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
        assert float(found) == pytest.approx(expected)


def test_auroc_by_counting():
    noise = torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(3))
    table = ((noise + 0.5 * LABELS[:, None]) * 2).round() / 2
    for column in range(table.shape[1]):
        wins = [
            (a > b) + 0.5 * (a == b)
            for a in table[LABELS, column].tolist()
            for b in table[~LABELS, column].tolist()
        ]
        found = auroc(table[LABELS], table[~LABELS])[column]
        assert float(found) == pytest.approx(sum(wins) / len(wins))


def test_bootstrap_against_all_resamples():
    # Of three values there are 27 resamples; their percentiles are the limit of the random ones.
    values = [0.2, 0.5, 1.4]
    means = sorted(statistics.fmean(drawn) for drawn in itertools.product(values, repeat=3))
    interval = bootstrap(values, resamples=20_000)
    assert interval.mean == pytest.approx(0.7)
    assert interval.low == pytest.approx(means[0])  # 1 of 27 is more than 2.5 %
    assert interval.high == pytest.approx(means[-1])
    assert interval.count == 3


def test_bootstrap_of_many_values_is_the_normal_interval():
    values = [math.sin(i) for i in range(400)]
    error = statistics.pstdev(values) / math.sqrt(400)
    interval = bootstrap(values)
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.15 * error)
    assert bootstrap(values) == interval
    assert bootstrap(values, seed=1) != interval


def test_one_concept_has_no_interval():
    interval = bootstrap([0.5])
    assert interval.mean == 0.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_nothing_is_not_zero(values):
    with pytest.raises(DataError):
        bootstrap(values)


def test_a_ratio_is_of_means_and_resampled_in_pairs():
    theirs = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    halved = bootstrap_ratio([value / 2 for value in theirs], theirs)
    assert halved == (0.5, 0.5, 0.5, 8)  # pairs that vary together leave the ratio as it is
    ours = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    found = bootstrap_ratio(ours, theirs)
    assert found.mean == pytest.approx(statistics.fmean(ours) / statistics.fmean(theirs))
    assert found.low < found.mean < found.high
    assert bootstrap_ratio(ours, theirs) == found
    assert bootstrap_ratio(ours, theirs, seed=1) != found


def test_a_ratio_over_nothing_is_none_and_draws_without_any_are_left_out():
    assert bootstrap_ratio([1.0, 0.0], [0.0, 0.0]) is None
    rare = bootstrap_ratio([0.0, 1.0, 0.0], [1.0, 0.0, 0.0])  # many draws have no denominator
    assert math.isfinite(rare.low)
    assert math.isfinite(rare.high)
    single = bootstrap_ratio([1.0], [2.0])
    assert (single.mean, single.count) == (0.5, 1)
    assert math.isnan(single.low)
    assert math.isnan(single.high)


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ([1.0], [1.0, 0.0], "1 and 2 values are not of the same items"),
        ([math.nan, 1.0], [1.0, 1.0], "not finite"),
        ([1.0, 1.0], [math.inf, 1.0], "not finite"),
        ([], [], "no values"),
    ],
)
def test_a_ratio_of_what_is_no_pairs_of_numbers_is_refused(ours, theirs, told):
    with pytest.raises(DataError, match=told):
        bootstrap_ratio(ours, theirs)
