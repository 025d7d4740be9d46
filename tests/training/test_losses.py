"""The losses against their formulas by hand."""

import math

import pytest
import torch

from hypersteer.training.losses import contrastive, matching, preference, reconstruction, similarity


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_contrastive_by_hand(beta):
    right, wrong = [2.0, 3.0, 1.5], [2.5, 1.0, 1.5]
    by_hand = [
        math.log(1 + math.exp(-beta * (w - r))) / beta for r, w in zip(right, wrong, strict=True)
    ]
    weights = [0.5, 0.2, 1.0]
    value = contrastive(*map(torch.tensor, (right, wrong, weights)), beta)
    expected = sum(weight * one for weight, one in zip(weights, by_hand, strict=True))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_pushes_the_losses_apart():
    right = torch.tensor([2.0, 3.0], requires_grad=True)
    wrong = torch.tensor([2.5, 1.0], requires_grad=True)
    contrastive(right, wrong, torch.full((2,), 0.5), 5.0).backward()
    # d/d right = sigmoid(beta (right - wrong)) / B: down with the right loss, up with the wrong.
    by_hand = [1 / (1 + math.exp(5.0 * 0.5)) / 2, 1 / (1 + math.exp(-5.0 * 2.0)) / 2]
    assert right.grad.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert wrong.grad.tolist() == pytest.approx([-g for g in by_hand], rel=1e-5)
    assert right.grad[1] > right.grad[0]  # the row that prefers the wrong prompt pulls harder


def test_contrastive_of_far_apart_losses_is_finite():
    far, near, once = (torch.tensor([value]) for value in (500.0, 0.0, 1.0))
    assert contrastive(far, near, once, 5.0).item() == pytest.approx(500)
    assert contrastive(near, far, once, 5.0).item() == 0.0


def test_reconstruction_by_hand():
    written = torch.tensor([[3.0, 4.0], [1.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[4.0, 3.0], [-1.0, 0.0]])
    # cosines 24/25 and -1; squared distances 2 and 4
    by_hand = ((1 - 24 / 25 + 2) + (1 + 1 + 4)) / 2
    value = reconstruction(written, targets)
    assert value.item() == pytest.approx(by_hand, abs=1e-6)
    (gradient,) = torch.autograd.grad(value, written)
    assert ((targets - written) * -gradient).sum() > 0  # downhill is towards the targets


def test_reconstruction_of_the_target_is_zero():
    targets = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    assert reconstruction(targets.clone(), targets).item() == pytest.approx(0.0, abs=1e-6)


def test_preference_by_hand():
    """RePS, equation 5: the winner's mean log-likelihood counts beta times, the loser's once."""
    win, lose = [0.02, 0.5], [2.0, 0.1]
    reference = [[-60.0, -20.0], [-5.0, -9.0]]  # so beta is 40, and 1, not -4
    by_hand = [
        -math.log(1 / (1 + math.exp(-(beta * -w - -x))))
        for beta, w, x in zip([40.0, 1.0], win, lose, strict=True)
    ]
    found = preference(torch.tensor(win), torch.tensor(lose), torch.tensor(reference))
    assert found.item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_preference_pulls_the_winner_up_and_the_loser_down():
    win, lose = (torch.tensor([0.1], requires_grad=True) for _ in range(2))
    preference(win, lose, torch.tensor([[-4.0, -1.0]])).backward()
    assert win.grad.item() == pytest.approx(-3 * lose.grad.item(), rel=1e-5)
    assert win.grad.item() > 0


def test_matching_by_hand():
    """Row by row, with the first dimension tamed: it is a hundred times as large."""
    plain = torch.zeros(3, 2)
    wanted = torch.tensor([[100.0, 1.0], [-100.0, 3.0], [0.0, 2.0]])
    states = torch.tensor([[50.0, 1.0], [-100.0, 1.0], [0.0, 1.0]])
    rows = {"lengths": [2, 1], "excess": torch.tensor([100.0, 1.0])}
    first = (0.5**2 + 2.0**2) / (1 + 1 + 1 + 9)
    by_hand = (first + 1 / 4) / 2
    assert matching(states, wanted, plain, **rows).item() == pytest.approx(by_hand, rel=1e-5)
    assert matching(plain, wanted, plain, **rows).item() == pytest.approx(1.0)
    assert matching(wanted, wanted, plain, **rows).item() == 0.0


def test_matching_where_prompting_changes_nothing_is_finite():
    same = torch.ones(2, 3)
    assert matching(same, same, same, [1, 1], torch.ones(3)).item() == 0.0


def test_similarity_by_hand():
    changes = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [5.0, 0.0]])
    concepts = torch.tensor([0, 1, 2, 0])  # the first and the last are one concept
    half = math.sqrt(0.5)
    pairs = [0.0, half, half, 0.0, half]  # 0-1, 0-2, 1-2, 1-3, 2-3
    assert similarity(changes, concepts).item() == pytest.approx(sum(pairs) / 5)
    assert similarity(changes, torch.zeros(4, dtype=torch.long)).item() == 0.0
