"""Cosines, silhouettes and projections against the definitions, pair by pair."""

import math
from itertools import pairwise

import numpy as np
import pytest

from hypersteer.analysis.geometry import (
    SHUFFLES,
    clusters,
    cosine_distances,
    mean_cosines,
    projections,
    silhouette,
    unit_rows,
)
from hypersteer.analysis.geometry_figures import Shown, draw_cosines


def points(count=12, width=7, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width))


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.sqrt(
        sum(a * a for a in one) * sum(b * b for b in other)
    )


def test_mean_cosines_are_those_of_all_pairs_without_an_edit_and_itself():
    rows, groups = points(), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 2])
    found = mean_cosines(unit_rows(rows), groups, 3)
    for one in range(3):
        for other in range(3):
            pairs = [
                cosine(rows[i], rows[j])
                for i in range(len(rows))
                for j in range(len(rows))
                if i != j and groups[i] == one and groups[j] == other
            ]
            assert found[one, other] == pytest.approx(sum(pairs) / len(pairs))


def test_a_group_of_one_edit_has_nothing_within():
    rows, groups = points(3), np.array([0, 1, 1])
    found = mean_cosines(unit_rows(rows), groups, 2)
    assert math.isnan(found[0, 0])
    assert found[1, 1] == pytest.approx(cosine(rows[1], rows[2]))
    assert clusters(rows, groups, ["a", "b"], 0).within == pytest.approx(found[1, 1])


def test_the_silhouette_of_four_points_by_hand():
    """Two on one direction, two on another at a right angle, one of them turned by 60 degrees."""
    half = math.sqrt(3) / 2
    rows = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [half, 0.5]])
    groups = np.array([0, 0, 1, 1])
    # Distances: 0-1 0, 0-2 1, 0-3 1-half, 2-3 1/2; so for 0 and 1: a = 0, and the silhouette is 1.
    last = ((1 - half) - 0.5) / 0.5
    third = (1 - 0.5) / 1
    wanted = (1 + 1 + third + last) / 4
    distances = cosine_distances(unit_rows(rows))
    assert silhouette(distances, groups) == pytest.approx(wanted, abs=1e-5)
    assert silhouette(distances, np.zeros(4, dtype=int)) is None
    assert silhouette(distances, np.arange(4)) is None


def test_clusters_stand_out_from_shuffled_groups_and_noise_does_not():
    groups = np.repeat(np.arange(4), 8)
    centres = points(4, 20, seed=1)
    tight = clusters(centres[groups] + 0.2 * points(32, 20), groups, list("abcd"), 0)
    noise = clusters(points(32, 20), groups, list("abcd"), 0)
    assert len(tight.shuffled) == len(noise.shuffled) == SHUFFLES
    assert tight.silhouette > 0.5 > max(tight.shuffled)
    assert tight.spread < 0.2
    assert noise.silhouette <= max(noise.shuffled) + 0.02
    assert noise.spread == pytest.approx(1, abs=0.1)
    assert tight.spread == pytest.approx((1 - tight.within) / (1 - tight.between))


def test_pca_finds_the_plane_that_points_lie_in():
    plane = np.linalg.qr(points(6, 2, seed=3))[0].T
    places = points(40, 2, seed=4) * [5.0, 1.0]
    found = projections(places @ plane + 0.5, seed=0)
    assert sum(found.explained) == pytest.approx(1)
    assert found.explained[0] > found.explained[1]
    between = np.linalg.norm(places[:, None] - places[None], axis=-1)
    kept = np.linalg.norm(found.pca[:, None] - found.pca[None], axis=-1)
    np.testing.assert_allclose(kept, between, atol=1e-6)


def test_tsne_keeps_far_clusters_apart_and_is_the_same_each_time():
    groups = np.repeat(np.arange(3), 10)
    rows = 30 * points(3, 60, seed=5)[groups] + points(30, 60, seed=6)
    found = projections(rows, seed=2**63 - 1).tsne
    assert np.array_equal(found, projections(rows, seed=2**63 - 1).tsne)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(1)] == groups).all()
    assert projections(rows[:4], seed=0).tsne is None


def test_zeros_are_no_trouble():
    rows = np.vstack([np.zeros((2, 5)), points(3, 5)])
    found = clusters(rows, np.array([0, 0, 1, 1, 1]), ["none", "some"], 0)
    assert found.within == pytest.approx((0 + found.cosines[1, 1]) / 2)
    assert np.isfinite(found.cosines).all()


def test_what_all_edits_share_is_told_and_taken_out():
    groups = np.repeat(np.arange(3), 5)
    rows = points(15, 9, seed=7) + np.eye(9)[0] * 20
    found = clusters(rows, groups, list("abc"), 0)
    mean = [sum(column) / 15 for column in rows.T]
    squares = sum(sum(x * x for x in row) for row in rows) / 15
    assert found.common == pytest.approx(sum(x * x for x in mean) / squares)
    assert found.between > 0.9
    own = [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]
    pairs = [cosine(own[i], own[j]) for i in range(5) for j in range(5, 10)]
    assert found.centred[0, 1] == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("checkpoints", [1, 2])
@pytest.mark.parametrize("count", [2, 6, 10])
def test_values_in_cells_do_not_touch_and_titles_neither(checkpoints, count):
    """Long names leave the cells little room."""
    rows, groups = points(4 * count), np.repeat(np.arange(count), 4)
    names = [f"a steering prompt of some length, number {n}" for n in range(count)]
    shown = Shown(
        name="cross attention, 16 concepts",
        by="concept",
        groups=groups,
        projections=projections(rows, 0),
        clusters=clusters(rows, groups, names, 0),
        sites=["residual@1"],
        lengths=np.ones((len(rows), 1)),
    )
    _, _, figure = draw_cosines([shown] * checkpoints)
    figure.draw_without_rendering()
    maps = [axes for axes in figure.axes if axes.get_images()]
    for left, right in zip(maps[::2], maps[1::2], strict=True):
        titles = [axes._left_title.get_window_extent() for axes in (left, right)]
        assert titles[0].x1 < titles[1].x0
    for axes in maps:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) in (0, count * count)
        rowwise = pairwise(boxes)
        assert all(a.x1 <= b.x0 for n, (a, b) in enumerate(rowwise, start=1) if n % count)
    assert maps[0].texts or (checkpoints, count) == (2, 10)
