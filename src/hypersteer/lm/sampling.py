"""Choosing the next token: greedy, or sampled from the likeliest ones, with a seed per row."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Sampler:
    """Chooses one token per row; a row's draws depend on its own seed only, not on its neighbours.

    What narrows the choice is applied as transformers does: repetition penalty, temperature,
    `top_k`, `top_p`, `min_p`. Values are as `hypersteer.lm.decoding.Decoding` checks them.

    Args:
        seeds: one seed per row.
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens whose probabilities sum to this; 1 keeps all.
        top_k: keep so many of the likeliest tokens; 0 keeps all.
        min_p: keep tokens that are at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: weaken tokens that the row holds already; 1 leaves them.
        prompts: token ids of each row's prompt, for the repetition penalty.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        *,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        prompts: Sequence[Sequence[int]] = (),
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.min_p = min_p
        self.repetition_penalty = repetition_penalty
        self._prompts = prompts
        self._held: Tensor | None = None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        """Next token id of every row."""
        if self.repetition_penalty == 1:
            return self._choose(logits)
        if self._held is None:
            self._held = _tokens_in(self._prompts, logits)
        weaker = torch.where(
            logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty
        )
        chosen = self._choose(torch.where(self._held, weaker, logits))
        self._held.scatter_(1, chosen[:, None], value=True)
        return chosen

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order."""
        self._generators = [self._generators[row] for row in rows]
        if self._held is not None:
            self._held = self._held[rows]

    def _choose(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        scores = logits.float() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            weakest = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < weakest, -torch.inf)
        probabilities = scores.softmax(-1)
        if self.top_p < 1:
            probabilities = _nucleus(probabilities, self.top_p)
        if self.min_p > 0:
            least = self.min_p * probabilities.amax(-1, keepdim=True)
            probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        # One draw a row, looked up in the running sum: multinomial draws once per vocabulary entry.
        drawn = [torch.rand(1, generator=one, dtype=torch.float64) for one in self._generators]
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        sums = probabilities.cumsum(-1, dtype=exact)
        places = torch.stack(drawn).to(exact).to(logits.device) * sums[:, -1:]
        chosen = torch.searchsorted(sums, places, right=True)
        return chosen.squeeze(1).clamp(max=logits.shape[-1] - 1)


def _tokens_in(prompts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """Marks [B, V] the tokens that each row's prompt holds."""
    held = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in zip(held, prompts, strict=True):
        row[torch.tensor([i for i in ids if i < len(row)], device=held.device)] = True
    return held


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all tokens outside the smallest set that holds `top_p` of the mass."""
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0.0))
