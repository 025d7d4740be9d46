"""A velocity field over hidden states that attends to a steering prompt (FLAS, arXiv 2605.05892).

A block of our own: cross-attention from a state to the encoded steering prompt, then a gated MLP,
each with a norm before and a factor per channel after it; both know how far the flow is. What the
block adds to a state is the velocity there. States come in units in which their entries are near 1.

FLAS has causal self-attention between the two. Here it is an option, since the base LM's own
blocks below and above have it, and a field that looks at one state alone needs no cache.

Shapes: B rows, T tokens, C tokens of a steering prompt, D width, H heads.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.edits.memory import Memory
from hypersteer.edits.self_attention import SelfAttention

FIRST_FACTOR = 0.1
"""Of what each sub-layer adds at first (FLAS)."""
TIME_FEATURES = 128
LONGEST = 10_000.0
"""Longest wavelength of the sine features of time, in units of the shortest."""


class Velocity(nn.Module):
    """The field's network.

    Args:
        width: D.
        heads: H, which divides D.
        hidden: width of the MLP.
        self_attention: whether a state also reads those before it.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, self_attention: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        for parameter in self.time[-1].parameters():
            nn.init.zeros_(parameter)
        self.query_norm, self.mlp_norm = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.opening, self.rising = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.falling = nn.Linear(hidden, width, bias=False)
        for last in (self.out, self.falling):  # at first nothing moves
            nn.init.zeros_(last.weight)
        self.attended_factor = nn.Parameter(torch.full((width,), FIRST_FACTOR))
        self.mlp_factor = nn.Parameter(torch.full((width,), FIRST_FACTOR))
        self.own = SelfAttention(width, heads, FIRST_FACTOR) if self_attention else None

    def read(
        self, encoded: Float[Tensor, "B C D"]
    ) -> tuple[Float[Tensor, "B C D"], Float[Tensor, "B C D"]]:
        """Return keys and values of an encoded steering prompt, which no state changes."""
        return self.key(encoded), self.value(encoded)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        time: Float[Tensor, " B"],
        keys: Float[Tensor, "B C D"],
        values: Float[Tensor, "B C D"],
        present: Bool[Tensor, "B C"],
        memory: Memory | None = None,
        name: str = "",
    ) -> Float[Tensor, "B T D"]:
        """Return the velocity at each state.

        Args:
            states: where.
            time: how far the flow is, of each row.
            keys: of the steering prompt; see `read`.
            values: likewise.
            present: which of them are there; a row without any reads zeros.
            memory: of the tokens before, for self-attention.
            name: by which it knows this time.
        """
        x = states + self.time(sines(time))[:, None]
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(self.query_norm(x)), keys, values)
        )
        readable = present | ~present.any(1, keepdim=True)
        read = F.scaled_dot_product_attention(
            q, k.to(q), v.to(q), attn_mask=readable[:, None, None, :]
        )
        x = x + self.attended_factor * self.out(read.transpose(1, 2).flatten(-2))
        if self.own is not None:
            assert memory is not None
            x = x + self.own(x, memory, name)
        normed = self.mlp_norm(x)
        risen = F.silu(self.opening(normed)) * self.rising(normed)
        return x + self.mlp_factor * self.falling(risen) - states


def sines(time: Float[Tensor, " B"]) -> Float[Tensor, "B F"]:
    """Return sines and cosines of a time at wavelengths in a geometric row."""
    half = TIME_FEATURES // 2
    places = torch.arange(half, device=time.device, dtype=torch.float32) / half
    angles = time.float()[:, None] * torch.exp(-math.log(LONGEST) * places) * LONGEST**0.5
    return torch.cat([angles.sin(), angles.cos()], -1)
