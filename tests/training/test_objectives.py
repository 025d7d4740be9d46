"""The losses against their formulas by hand."""

import math

import pytest
import torch

from hypersteer.training.objectives import contrastive, reconstruction


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
