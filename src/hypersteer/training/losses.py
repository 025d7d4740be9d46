"""Pure losses, each with its equation. Shapes: B rows, D width."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


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
    written: Float[Tensor, "B P"], targets: Float[Tensor, "B P"]
) -> Float[Tensor, ""]:
    """`mean (1 - cos(v, t) + |v - t|^2)` (paper, section 3, no-context variant).

    Args:
        written: the P numbers of each edit.
        targets: those it should have.
    """
    distance = (written - targets).pow(2).sum(-1)
    return (1 - F.cosine_similarity(written, targets, dim=-1) + distance).mean()
