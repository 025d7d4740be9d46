"""Pure losses, each with its equation. Shapes: N tokens, B rows, K edits per row, D width."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""Tokens whose float32 softmax is held at a time; small, so that it stays in cache."""


class _TokenCrossEntropy(torch.autograd.Function):
    """Cross-entropy per token that keeps only the logits and one number per token.

    torch's own keeps a float32 log-softmax and a float32 gradient of all logits, which is most of
    a training step's memory when the vocabulary is large.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: ANN001
        normalisers = torch.cat([part.float().logsumexp(-1) for part in logits.split(CHUNK)])
        ctx.save_for_backward(logits, targets, normalisers)
        return normalisers - logits.gather(-1, targets[:, None]).squeeze(-1).float()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        logits, targets, normalisers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            share = (logits[part].float() - normalisers[part, None]).exp_()
            share.scatter_add_(-1, targets[part, None], -torch.ones_like(share[:, :1]))
            gradient[part] = share.mul_(grads[0][part, None])
        return gradient, None


def token_cross_entropy(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """`logsumexp(logits) - logits[target]` for every token, float32."""
    return _TokenCrossEntropy.apply(logits, targets)  # type: ignore[return-value]


def row_means(
    values: Float[Tensor, " N"], rows: Int[Tensor, " N"], count: int
) -> Float[Tensor, " B"]:
    """Mean of the values of each row; `rows` tells which row a value belongs to."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)


def contrastive(
    right: Float[Tensor, " B"], wrong: Float[Tensor, " B"], beta: float
) -> Float[Tensor, ""]:
    """`mean softplus(-beta (CE_wrong - CE_right)) / beta`: the right steering prompt must win.

    Args:
        right: each row's mean cross-entropy under its own steering prompt, in nats.
        wrong: the same row's under another row's steering prompt.
        beta: sharpness, per nat.
    """
    return F.softplus(-beta * (wrong - right)).mean() / beta


def reconstruction(
    written: Float[Tensor, "B D"], targets: Float[Tensor, "B D"]
) -> Float[Tensor, ""]:
    """`mean (1 - cos(v, t) + |v - t|^2)` (paper, section 3, no-context variant)."""
    distance = (written - targets).pow(2).sum(-1)
    return (1 - F.cosine_similarity(written, targets, dim=-1) + distance).mean()
