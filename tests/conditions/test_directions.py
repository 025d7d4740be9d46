"""Directions against NumPy's singular vectors, and where the right answer was planted."""

import numpy as np
import pytest
import torch

from hypersteer.conditions.directions import find_directions
from hypersteer.errors import DataError

LAYERS, WIDTH = 3, 6


def drawn(count, seed, width=WIDTH):
    return torch.randn(count, LAYERS, width, generator=torch.Generator().manual_seed(seed))


def by_numpy(above, below, method):
    """First right singular vector of one layer's centred data, and its share of the variance."""
    above, below = above.double().numpy(), below.double().numpy()
    if method == "paired":
        middle = (above + below) / 2
        data = np.concatenate([above - middle, below - middle])
    elif method == "global":
        data = np.concatenate([above, below])
    else:
        data = above - below
    data = data - data.mean(0)
    _, sizes, vectors = np.linalg.svd(data, full_matrices=False)
    return vectors[0], sizes[0] ** 2 / (sizes**2).sum()


@pytest.mark.parametrize("method", ["paired", "global", "difference"])
@pytest.mark.parametrize("count", [3, 20])
def test_components_are_numpys(method, count):
    above, below = drawn(count, 0), drawn(count, 1)
    found = find_directions(above, below, method)
    for layer in range(LAYERS):
        vector, share = by_numpy(above[:, layer], below[:, layer], method)
        mine = found.vectors[layer].double().numpy()
        assert abs(mine @ vector) == pytest.approx(1, abs=1e-5)
        assert float(found.explained[layer]) == pytest.approx(share, abs=1e-5)
        higher = ((above - below)[:, layer].double().numpy() @ mine > 0).sum()
        assert higher >= count / 2


def test_the_difference_of_means_by_hand():
    above, below = drawn(7, 0), drawn(4, 1)
    found = find_directions(above, below, "mean")
    gap = above.mean(0) - below.mean(0)
    torch.testing.assert_close(found.vectors, gap / gap.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found.means, (above.mean(0) + below.mean(0)) / 2)
    torch.testing.assert_close(found.gaps, gap.norm(dim=1))


@pytest.mark.parametrize("counts", [(7, 4), (3, 2), (30, 20)])  # more dimensions, more texts
def test_whitening_by_inverting_the_covariance(counts):
    above, below = drawn(counts[0], 0), drawn(counts[1], 1)
    found = find_directions(above, below, "whitened")
    for layer in range(LAYERS):
        sides = [side[:, layer].double() for side in (above, below)]
        within = torch.cat([side - side.mean(0) for side in sides])
        covariance = within.T @ within / len(within)
        identity = torch.eye(WIDTH, dtype=torch.double) * covariance.trace() / WIDTH
        vector = torch.linalg.inv(0.5 * covariance + 0.5 * identity) @ (
            sides[0].mean(0) - sides[1].mean(0)
        )
        torch.testing.assert_close(found.vectors[layer], (vector / vector.norm()).float())


@pytest.mark.parametrize("method", ["paired", "global", "mean", "whitened"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_direction_is_found_with_its_sign(method, sign):
    """Whatever pairs share is larger than what tells them apart; `paired` does not mind."""
    planted = torch.nn.functional.normalize(drawn(1, 5, 16)[0], dim=1)
    shared = (5.0 if method in ("paired", "whitened") else 0.3) * drawn(400, 6, 16)
    noise = 0.3 * drawn(400, 7, 16)
    above, below = shared + noise + 3 * sign * planted, shared - 3 * sign * planted
    found = find_directions(above, below, method)
    cosines = (found.vectors * planted).sum(1) * sign
    assert cosines.min() > (0.98 if method != "whitened" else 0.9)
    torch.testing.assert_close(found.gaps, torch.full((LAYERS,), 6.0), rtol=0.1, atol=0)


def test_the_sign_is_that_of_the_most_pairs():
    """One pair far the other way does not outvote the others."""
    above = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-90.0, 0.0]])[:, None]
    found = find_directions(above, -above, "paired")
    assert found.vectors[0, 0] > 0.9
    assert find_directions(above[:3], -above, "global").vectors[0, 0] > 0.9


@pytest.mark.parametrize(
    ("above", "below", "method", "told"),
    [
        (drawn(1, 0), drawn(5, 1), "mean", "1 and 5 texts are too few"),
        (drawn(3, 0), drawn(5, 1), "paired", "method 'paired' needs pairs"),
        (drawn(3, 0), drawn(5, 1), "difference", "needs pairs"),
        (torch.ones(3, 1, 2), torch.ones(3, 1, 2), "global", "do not differ"),
        (torch.eye(2)[:, None], torch.eye(2)[:, None], "mean", "same mean states"),
    ],
)
def test_bad_texts(above, below, method, told):
    with pytest.raises(DataError, match=told):
        find_directions(above, below, method)
