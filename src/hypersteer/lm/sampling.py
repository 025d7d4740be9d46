"""Choosing the next token: greedy, or temperature and nucleus sampling with a seed per row."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersteer.errors import ConfigError


class Sampler:
    """Chooses one token per row; a row's draws depend on its own seed only, not on its neighbours.

    Args:
        seeds: one seed per row.
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens whose probabilities sum to this; 1 keeps all.

    Raises:
        ConfigError: for a negative temperature or a `top_p` outside (0, 1].
    """

    def __init__(self, seeds: Sequence[int], temperature: float = 0.0, top_p: float = 1.0) -> None:
        if not _is_number(temperature) or not math.isfinite(temperature) or temperature < 0:
            raise ConfigError(f"temperature {temperature!r} is not 0 or more; 0 is greedy")
        if not _is_number(top_p) or not 0 < top_p <= 1:
            raise ConfigError(f"top_p {top_p!r} is outside (0, 1]; 1 keeps every token")
        self.temperature = temperature
        self.top_p = top_p
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        """Next token id of every row."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.float() / self.temperature).softmax(-1).cpu()
        if self.top_p < 1:
            probabilities = _nucleus(probabilities, self.top_p)
        # One draw a row, looked up in the running sum: multinomial draws once per vocabulary entry.
        drawn = [torch.rand(1, generator=one, dtype=torch.float64) for one in self._generators]
        sums = probabilities.cumsum(-1, dtype=torch.float64)
        chosen = torch.searchsorted(sums, torch.stack(drawn) * sums[:, -1:], right=True)
        return chosen.squeeze(1).clamp(max=logits.shape[-1] - 1).to(logits.device)

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order."""
        self._generators = [self._generators[row] for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all tokens outside the smallest set that holds `top_p` of the mass."""
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0.0))
