"""What a condition measures: how far states lie along a direction; and its words, checked."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.config.conditions import Scorer
from hypersteer.errors import SteeringError
from hypersteer.values import check_text

SMALLEST = 1e-8
"""A centred state shorter than this has no direction; its score is near 0."""


def check_words(text: str) -> str:
    """Return the words of a condition unchanged, or say why they tell nothing.

    Raises:
        SteeringError: if they are empty, only white space, or no valid Unicode.
    """
    if not text.strip():
        raise SteeringError(
            f"the condition {text!r} is empty; say when it holds, such as 'asks about health'"
        )
    return check_text(text, "the condition")


def score(
    states: Float[Tensor, "... D"],
    directions: Float[Tensor, "... D"],
    means: Float[Tensor, "... D"],
    scorer: Scorer,
    scales: Float[Tensor, "... D"] | None = None,
) -> Float[Tensor, "..."]:
    """Return scores of pooled states along unit directions, from -1 to 1.

    `cosine` is cos((h - mean) / scale, c). `legacy` is CAST's cos(h, tanh(c (c . h))): up to the
    tanh it is the absolute value of cos(h, c), so it cannot tell c from -c.
    """
    states = states.float()
    if scorer == "cosine":
        # Directions are of unit length, and a check of every token has no time for their norm.
        centred = states - means if scales is None else (states - means) / scales
        norms = torch.linalg.vector_norm(centred, dim=-1).clamp_min(SMALLEST)
        return (centred * directions).sum(-1) / norms
    projected = directions * (states * directions).sum(-1, keepdim=True)
    return F.cosine_similarity(states, torch.tanh(projected), dim=-1)
