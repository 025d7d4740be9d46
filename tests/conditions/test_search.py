"""The chosen point against a search that tries everything one by one."""

import itertools

import pytest
import torch

from hypersteer.conditions import search
from hypersteer.conditions.search import describe, find_point
from hypersteer.errors import ConfigError, DataError

LABELS = torch.tensor([True] * 9 + [False] * 7)


def scores(seed, layers=4, coarse=False):
    found = torch.randn(len(LABELS), layers, generator=torch.Generator().manual_seed(seed))
    found[LABELS] += 0.5
    return (found * 2).round() / 2 if coarse else found


def candidates(values):
    """Midpoints between neighbouring distinct values, and half their distance."""
    ordered = sorted(set(values))
    return [((a + b) / 2, (b - a) / 2) for a, b in itertools.pairwise(ordered)]


def counts(values, threshold, fires):
    called = [v > threshold if fires == "above" else v < threshold for v in values]
    hits = sum(c and label for c, label in zip(called, LABELS.tolist(), strict=True))
    return hits, sum(called) - hits


def everything(table, most):
    """Every (columns, threshold, direction) with its counts and relative width."""
    for size in range(1, most + 1):
        for columns in itertools.combinations(range(table.shape[1]), size):
            for fires, pick in (("above", max), ("below", min)):
                values = [pick(row) for row in table[:, list(columns)].tolist()]
                spread = float(torch.tensor(values).std())
                for threshold, half in candidates(values):
                    yield (
                        columns,
                        fires,
                        threshold,
                        *counts(values, threshold, fires),
                        half / spread,
                    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_best_f1_with_the_widest_margin(seed, most, coarse):
    table = scores(seed, coarse=coarse).double()
    point = find_point(table, LABELS, max_layers=most)

    def rank(one):
        *_, hits, wrong, width = one
        return (2 * hits / (hits + wrong + 9), round(width, 9))

    best = max(everything(table, most), key=rank)
    mine = counts(
        [
            (max if point.fires == "above" else min)(row)
            for row in table[:, list(point.columns)].tolist()
        ],
        point.threshold,
        point.fires,
    )
    assert point.f1 == pytest.approx(rank(best)[0])
    assert point.f1 == pytest.approx(2 * mine[0] / (sum(mine) + 9))
    same = [one for one in everything(table, most) if rank(one) == rank(best)]
    assert (point.columns, point.fires) in [one[:2] for one in same]
    assert any(point.threshold == pytest.approx(one[2]) for one in same)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [0.0, 0.2, 0.5])
def test_a_budget_of_false_positives(seed, budget):
    table = scores(seed).double()
    point = find_point(table, LABELS, false_positives=budget)
    within = [one for one in everything(table, 1) if one[4] <= budget * 7]
    best = max(within, key=lambda one: (one[3], -one[4]))
    assert point.false_positives <= budget
    assert (point.recall, point.false_positives) == pytest.approx((best[3] / 9, best[4] / 7))


def test_a_budget_takes_what_it_allows_and_no_rounding():
    labels = torch.tensor([True] * 2 + [False] * 100)
    values = torch.cat([torch.tensor([71.6, 71.7]), torch.arange(1.5, 101.5)])[:, None]
    point = find_point(values, labels, false_positives=0.29)  # 0.29 * 100 is a little below 29
    assert (point.recall, point.false_positives) == (1.0, 0.29)


def test_a_budget_that_leaves_no_hits_is_told():
    outer = torch.where(LABELS, 0.0, 1.0) * torch.tensor([-1.0, 1.0] * 8)
    with pytest.raises(DataError, match="at most a share of 0 of the off-topic texts"):
        find_point(outer[:, None], LABELS, false_positives=0.0)


@pytest.mark.parametrize("together", [1, 7, 40])
def test_combinations_are_searched_in_parts(monkeypatch, together):
    table = scores(5, layers=6, coarse=True)
    whole = find_point(table, LABELS, max_layers=3)
    monkeypatch.setattr(search, "MOST_SCORES", together * len(LABELS))
    assert find_point(table, LABELS, max_layers=3) == whole


def test_ties_go_to_the_widest_margin_then_to_lower_layers():
    apart = torch.where(LABELS, 1.0, 0.0) + 0.001 * torch.arange(len(LABELS))
    near = apart.clone()
    near[LABELS] -= 0.95
    point = find_point(torch.stack([near, apart, apart], 1), LABELS, max_layers=2)
    assert (point.columns, point.fires, point.f1, point.auroc) == ((1,), "above", 1.0, 1.0)
    assert point.margin == pytest.approx(
        float(apart[LABELS].min() - apart[~LABELS].max()) / 2, abs=1e-6
    )


def test_layers_that_point_the_other_way_fire_below():
    table = -torch.where(LABELS, 1.0, 0.0)[:, None] + 0.1 * scores(0, 1)
    point = find_point(table, LABELS)
    assert (point.fires, point.f1) == ("below", 1.0)
    assert point.auroc == 1.0


def test_figures_by_hand():
    values = torch.tensor([3.0, 2.0, 0.0, 1.0, -1.0])
    point = describe(values, torch.tensor([True, True, True, False, False]), (2,), 0.5, "above")
    assert (point.precision, point.recall, point.false_positives) == (2 / 3, 2 / 3, 1 / 2)
    assert (point.f1, point.margin) == (pytest.approx(2 / 3), 0.5)
    assert point.auroc == pytest.approx(5 / 6)


def test_bad_scores():
    with pytest.raises(DataError, match="both sides"):
        find_point(scores(0), torch.ones(16, dtype=torch.bool))
    with pytest.raises(DataError, match="no threshold"):
        find_point(torch.ones(16, 2), LABELS)
    with pytest.raises(ConfigError, match="are 637,392 combinations"):
        find_point(torch.zeros(16, 63), LABELS, max_layers=4)
