"""How large hidden states are, by measures that a few massive dimensions do not decide.

In many models one or two dimensions are hundreds of times as large as the others (Sun et al., 2024,
"Massive Activations", arXiv 2402.17762). Norms, variances and cosines are then theirs alone.
Medians are not. Shapes: N tokens, D width.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

NORMAL = 0.6745
"""Median of the absolute values of standard normal numbers: medians over it are their deviation."""


def token_scales(hidden: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
    """Typical size of the entries of each state, float32: their root mean square if normal."""
    return hidden.float().abs().median(-1).values / NORMAL


def token_norms(hidden: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
    """Length that each state would have if all of its entries were of its typical size, float32."""
    return token_scales(hidden) * math.sqrt(hidden.shape[-1])


def robust_scale(hidden: Float[Tensor, "... D"]) -> float:
    """Typical size of the entries of the states: the median over tokens of `token_scales`."""
    return float(token_scales(hidden).median())


def dimension_scales(hidden: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """Typical size of each dimension over tokens, float32."""
    return hidden.float().abs().median(0).values / NORMAL


def excess(scales: Float[Tensor, " D"], limit: float = 1.0) -> Float[Tensor, " D"]:
    """Return how many times `limit` times the typical dimension each one is; at least 1.

    States divided by it have no dimension that outweighs the others, and none that was raised.
    """
    typical = scales.median()
    if not float(typical) > 0:
        return torch.ones_like(scales)
    return (scales / (limit * typical)).clamp(min=1.0)
