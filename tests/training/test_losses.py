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
    value = contrastive(torch.tensor(right), torch.tensor(wrong), beta)
    assert value.item() == pytest.approx(sum(by_hand) / 3, abs=1e-6)


def test_contrastive_pushes_the_losses_apart():
    right = torch.tensor([2.0, 3.0], requires_grad=True)
    wrong = torch.tensor([2.5, 1.0], requires_grad=True)
    contrastive(right, wrong, 5.0).backward()
    # d/d right = sigmoid(beta (right - wrong)) / B: down with the right loss, up with the wrong.
    by_hand = [1 / (1 + math.exp(5.0 * 0.5)) / 2, 1 / (1 + math.exp(-5.0 * 2.0)) / 2]
    assert right.grad.tolist() == pytest.approx(by_hand, rel=1e-5)
    assert wrong.grad.tolist() == pytest.approx([-g for g in by_hand], rel=1e-5)
    assert right.grad[1] > right.grad[0]  # the row that prefers the wrong prompt pulls harder


def test_contrastive_of_far_apart_losses_is_finite():
    assert contrastive(torch.tensor([500.0]), torch.tensor([0.0]), 5.0).item() == pytest.approx(500)
    assert contrastive(torch.tensor([0.0]), torch.tensor([500.0]), 5.0).item() == 0.0


def test_contrastive_of_no_rows_is_nothing():
    """All rows that it would be measured on may be negated ones, which have no wrong prompt."""
    assert contrastive(torch.zeros(0), torch.zeros(0), 5.0).item() == 0.0


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
    """Each dimension in its own unit: the change that prompting makes there."""
    plain = torch.zeros(2, 2)
    wanted = torch.tensor([[100.0, 0.1], [-100.0, 0.3]])
    states = torch.tensor([[50.0, 0.1], [-100.0, 0.1]])
    units = [100.0, math.sqrt((0.01 + 0.09) / 2)]
    by_hand = ((50 / units[0]) ** 2 + (0.2 / units[1]) ** 2) / 4
    assert matching(states, wanted, plain).item() == pytest.approx(by_hand, rel=1e-5)
    assert matching(plain, wanted, plain).item() == pytest.approx(1.0)
    assert matching(wanted, wanted, plain).item() == 0.0


def test_matching_where_prompting_changes_nothing_is_finite():
    same = torch.ones(2, 3)
    assert matching(same, same, same).item() == 0.0


def test_similarity_by_hand():
    changes = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [5.0, 0.0]])
    concepts = torch.tensor([0, 1, 2, 0])  # the first and the last are one concept
    half = math.sqrt(0.5)
    pairs = [0.0, half, half, 0.0, half]  # 0-1, 0-2, 1-2, 1-3, 2-3
    assert similarity(changes, concepts).item() == pytest.approx(sum(pairs) / 5)
    assert similarity(changes, torch.zeros(4, dtype=torch.long)).item() == 0.0
