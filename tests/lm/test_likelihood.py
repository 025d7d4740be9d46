"""Cross-entropy of responses against torch's own, against finite differences and by hand."""

import pytest
import torch
from torch.nn import functional as F

from hypersteer.errors import SteeringError
from hypersteer.lm import likelihood
from hypersteer.lm.likelihood import (
    CHUNK,
    response_token_losses,
    row_means,
    token_cross_entropy,
    token_divergence,
)

LENGTHS = [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
VOCAB = 97


def random_logits(count, dtype=torch.float32, scale=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, VOCAB, generator=generator) * scale).to(dtype)
    targets = torch.randint(0, VOCAB, (count,), generator=generator)
    weights = torch.randn(count, generator=generator)
    return logits.requires_grad_(), targets, weights


@pytest.mark.parametrize("count", LENGTHS)
def test_token_cross_entropy_equals_torch(count):
    logits, targets, weights = random_logits(count)
    ours = token_cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    theirs = F.cross_entropy(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad((theirs * weights).sum(), logits)

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)


def test_token_cross_entropy_of_no_tokens():
    logits = torch.zeros(0, VOCAB, requires_grad=True)
    ours = token_cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    assert ours.shape == (0,)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("count", [5, CHUNK + 7])
def test_token_cross_entropy_of_bfloat16_logits(count):
    """Sums run in float32, so the value is that of the rounded logits, not a rounded value."""
    logits, targets, weights = random_logits(count, torch.bfloat16)
    ours = token_cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    theirs = F.cross_entropy(exact, targets, reduction="none")
    (expected,) = torch.autograd.grad((theirs * weights.double()).sum(), exact)

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    assert gradient.dtype == torch.bfloat16
    # One rounding to bfloat16 (8 bits) and no more.
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=2**-8)


def test_token_cross_entropy_of_huge_logits_stays_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 1e4]], requires_grad=True)
    values = token_cross_entropy(logits, torch.tensor([1, 2]))
    values.sum().backward()
    assert values.tolist() == [2e4, 0.0]
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_token_cross_entropy_against_finite_differences():
    """gradcheck; the arithmetic is float32 whatever the input, so steps and tolerance are wide."""
    logits, targets, _ = random_logits(CHUNK + 3, torch.float64, scale=1.0)
    small = logits.detach()[:, :7].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: token_cross_entropy(x, targets % 7).double(), small, eps=1e-2, atol=1e-3
    )


def test_token_cross_entropy_does_not_depend_on_the_chunk(monkeypatch):
    logits, targets, weights = random_logits(70)
    found = []
    for size in (1, 32, 1000):
        monkeypatch.setattr(likelihood, "CHUNK", size)
        values = token_cross_entropy(logits, targets)
        found.append((values, torch.autograd.grad((values * weights).sum(), logits)[0]))
    for values, gradient in found[1:]:
        assert torch.equal(values, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_row_means_by_hand():
    values = torch.tensor([1.0, 2.0, 6.0, 10.0, 20.0], requires_grad=True)
    means = row_means(values, torch.tensor([0, 0, 0, 2, 2]), 4)
    assert means.tolist() == [3.0, 0.0, 15.0, 0.0]  # a row without values has mean 0
    (means * torch.tensor([1.0, 5.0, 4.0, 7.0])).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([1 / 3, 1 / 3, 1 / 3, 2.0, 2.0]))


def test_row_means_of_unsorted_rows():
    values = torch.tensor([1.0, 10.0, 3.0, 30.0])
    assert row_means(values, torch.tensor([1, 0, 1, 0]), 2).tolist() == [20.0, 2.0]


@pytest.mark.parametrize("count", LENGTHS)
def test_token_divergence_equals_torch(count):
    logits, _, weights = random_logits(count)
    teacher = random_logits(count, seed=1)[0].detach()
    teacher[:, 5:9] = -torch.inf  # impossible tokens
    ours = token_divergence(logits, teacher)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)

    exact = logits.detach().double().requires_grad_()
    wanted = teacher.double().softmax(-1)
    theirs = F.kl_div(exact.log_softmax(-1), wanted, reduction="none").sum(-1)
    (expected,) = torch.autograd.grad((theirs * weights.double()).sum(), exact)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-5)


def test_token_divergence_from_itself_is_zero():
    logits = random_logits(7)[0].detach()
    torch.testing.assert_close(token_divergence(logits, logits), torch.zeros(7), atol=1e-6, rtol=0)


def test_what_outgrows_the_window_is_told_before_the_model_runs(tiny_llama, monkeypatch):
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_a, **_k: pytest.fail("ran"))
    prompts = [tiny_llama.chat.prompt(text) for text in ("Hi", "Why?")]
    with pytest.raises(SteeringError, match="context window of llama has 256"):
        response_token_losses(tiny_llama, prompts, [[5], [5] * 250])
