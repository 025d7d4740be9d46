"""Cross-attention from the trunk's tokens to the base LM's hidden states (paper, appendix A.3).

Shapes: R rows, C steering-prompt tokens, T base tokens, D width, H heads.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.config import HypernetConfig
from hypersteer.errors import ConfigError
from hypersteer.lm.blocks import sublayer
from hypersteer.lm.hooks import at_input, at_output

WIDTH_PER_HEAD = 64
"""For base LMs without attention heads of their own."""


class CrossAttention(nn.Module):
    """Multi-head attention with queries from the trunk, keys and values from the base LM.

    Both sides are RMS-normalised. Neither side has rotary embeddings, so the result does not
    depend on where padding puts a token. The output projection starts at zero: at first the trunk
    computes what the base LM's blocks compute.

    Args:
        width: D.
        heads: H.
        key_heads: heads of keys and values, each read by as many of H; by default H.
        head_width: W of each head; by default D / H.
    """

    def __init__(
        self, width: int, heads: int, key_heads: int | None = None, head_width: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads or heads
        each = head_width or width // heads
        self.query_norm = nn.RMSNorm(width, eps=1e-6)
        self.state_norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, heads * each, bias=False)
        self.key = nn.Linear(width, self.key_heads * each, bias=False)
        self.value = nn.Linear(width, self.key_heads * each, bias=False)
        self.out = nn.Linear(heads * each, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        x: Float[Tensor, "R C D"],
        states: Float[Tensor, "R T D"],
        readable: Bool[Tensor, "R T"],
    ) -> Float[Tensor, "R C D"]:
        """Return what each of the trunk's tokens reads from the base LM's readable states."""
        q, k, v = self._projected(x, states)
        mask = readable[:, None, None, :]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(read.transpose(1, 2).flatten(-2))

    def weights(
        self,
        x: Float[Tensor, "R C D"],
        states: Float[Tensor, "R T D"],
        readable: Bool[Tensor, "R T"],
    ) -> Float[Tensor, "R H C T"]:
        """Return the shares in which `forward` reads the states; those of a token sum to 1."""
        q, k, _ = self._projected(x, states)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.masked_fill(~readable[:, None, None, :], -torch.inf).softmax(-1)

    def _projected(self, x: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [R, H, C, W], keys and values [R, H, T, W]."""
        states = self.state_norm(states)
        q = self.query(self.query_norm(x)).unflatten(-1, (self.heads, -1))
        k, v = (part(states).unflatten(-1, (self.key_heads, -1)) for part in (self.key, self.value))
        if self.key_heads < self.heads:
            k, v = (part.repeat_interleave(self.heads // self.key_heads, dim=2) for part in (k, v))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


@contextmanager
def attending(
    block: nn.Module, cross: CrossAttention, states: Tensor, readable: Tensor
) -> Generator[None]:
    """Add cross-attention at the block's attention site while the context lasts.

    Queries come from the residual stream after self-attention: block input plus what
    self-attention is about to add.
    """
    entering: list[Tensor] = []

    def remember(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        entering[:] = [args[0] if args else kwargs["hidden_states"]]
        return args, kwargs

    def add(attended: Tensor) -> Tensor:
        return attended + cross(entering[0] + attended, states, readable)

    with at_input(block, remember), at_output(sublayer(block, "attention"), add):
        yield


class HeadShape(NamedTuple):
    """Numbers of heads H and of their keys' heads, and the width W of each."""

    heads: int
    key_heads: int
    width: int


def head_shape(config: HypernetConfig, width: int, known: int | None) -> HeadShape:
    """Return the heads of attention modules of our own.

    Args:
        config: of the hypernetwork.
        width: D, of the base LM.
        known: the base LM's own number of heads; None for one without.

    Raises:
        ConfigError: if numbers do not divide each other as they have to.
    """
    wanted = known or max(1, width // WIDTH_PER_HEAD)
    heads = config.cross_heads or default_heads(width, wanted)
    if width % heads and config.cross_head_width is None:
        raise ConfigError(
            f"hypernet.cross_heads {heads} does not divide width {width}; give another number, or "
            "hypernet.cross_head_width"
        )
    key_heads = config.cross_key_heads or heads
    if heads % key_heads:
        raise ConfigError(
            f"hypernet.cross_key_heads {key_heads} does not divide the {heads} heads that read them"
        )
    return HeadShape(heads, key_heads, config.cross_head_width or width // heads)


def default_heads(width: int, wanted: int) -> int:
    """Return the wanted number of heads, or the largest below it that divides the width."""
    return next(heads for heads in range(wanted, 0, -1) if width % heads == 0)
