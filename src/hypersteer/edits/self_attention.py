"""Causal self-attention among the states of a row, a part of FLAS's velocity field.

Shapes: R rows, T tokens that are new, A tokens so far, D width, H heads of W numbers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.edits.memory import Memory

LONGEST = 10_000.0
"""Longest wavelength of the rotations (RoPE, arXiv 2104.09864), in units of the shortest."""


class SelfAttention(nn.Module):
    """What each state reads of those up to it: a norm, rotary attention, a norm, a factor.

    What is last here is the second norm, so it is its weight that is zero at first, and not the
    output projection's: a norm of zeros has gradients of 1 / sqrt(eps), a thousand times those of
    all other weights.

    Args:
        width: D.
        heads: H, which divides D; W is even, since rotations turn pairs.
        factor: of what is added at first, for each channel.
    """

    def __init__(self, width: int, heads: int, factor: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        nn.init.zeros_(self.after.weight)
        self.factor = nn.Parameter(torch.full((width,), factor))

    def forward(self, x: Float[Tensor, "R T D"], memory: Memory, name: str) -> Tensor:
        """Return what is added to the states [R, T, D].

        Args:
            x: states of the tokens that are coming.
            memory: keys and values of the tokens before, which takes in those of the coming ones.
            name: by which the memory knows them.
        """
        normed, coming = self.before(x), memory.coming
        query, key, value = (
            part(normed).unflatten(-1, (self.heads, -1))
            for part in (self.query, self.key, self.value)
        )
        query, key = turned(query, coming.positions), turned(key, coming.positions)
        keys = memory.grown(f"{name} keys", key)
        values = memory.grown(f"{name} values", value)
        read = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (query, keys, values)),
            attn_mask=coming.readable[:, None],
        )
        written = self.out(read.transpose(1, 2).flatten(-2)).float()
        return self.factor * self.after(written)


def turned(x: Float[Tensor, "R T H W"], positions: Int[Tensor, "R T"]) -> Tensor:
    """Return queries or keys turned by angles in proportion to their positions (RoPE).

    Number i of the first half and of the second make a pair. Products of two that are turned
    depend on how far apart they stand, wherever the row begins.
    """
    half = x.shape[-1] // 2
    rates = LONGEST ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = (positions[..., None] * rates)[:, :, None]
    cosine, sine = angles.cos(), angles.sin()
    one, other = x.float().chunk(2, -1)
    return torch.cat([one * cosine - other * sine, other * cosine + one * sine], -1).to(x.dtype)
