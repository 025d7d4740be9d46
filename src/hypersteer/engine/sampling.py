"""Choosing the next token: greedy, or sampled from the likeliest ones; settings belong to a row."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Setting = float | Sequence[float]
"""One value for all rows, or one per row."""


class Sampler:
    """Chooses one token per row; a row's draws depend on its own seed only, not on its neighbours.

    What narrows the choice is applied as transformers does: repetition penalty, temperature,
    `top_k`, `top_p`, `min_p`. Values are as `hypersteer.engine.decoding.Decoding` checks them.

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
        temperature: Setting = 0.0,
        top_p: Setting = 1.0,
        *,
        top_k: Setting = 0,
        min_p: Setting = 0.0,
        repetition_penalty: Setting = 1.0,
        prompts: Sequence[Sequence[int]] = (),
    ) -> None:
        given = (temperature, top_p, top_k, min_p, repetition_penalty)
        self._settings = torch.stack([_each(one, len(seeds)) for one in given])
        self._prompts = list(prompts)
        self._held: Tensor | None = None
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
        """Next token id of every row."""
        penalty = self._settings[4, :, None]
        if bool((penalty == 1).all()):
            return self._choose(logits)
        penalty = penalty.to(logits)
        if self._held is None:
            self._held = _tokens_in(self._prompts, logits)
        weaker = torch.where(logits < 0, logits * penalty, logits / penalty)
        chosen = self._choose(torch.where(self._held, weaker, logits))
        self._held.scatter_(1, chosen[:, None], value=True)
        return chosen

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order."""
        self._settings = self._settings[:, rows]
        self._generators = [self._generators[row] for row in rows]
        self._prompts = [self._prompts[row] for row in rows] if self._prompts else []
        if self._held is not None:
            self._held = self._held[rows]

    def extend(self, other: "Sampler") -> None:
        """Take in the rows of another sampler behind its own; both have chosen before."""
        held = next((one._held for one in (self, other) if one._held is not None), None)
        if held is not None:  # rows without a penalty do not look at what they hold
            self._held = torch.cat(
                [
                    held.new_zeros(len(one._generators), held.shape[1])
                    if one._held is None
                    else one._held
                    for one in (self, other)
                ]
            )
        self._settings = torch.cat([self._settings, other._settings], 1)
        self._generators += other._generators
        self._prompts += other._prompts

    def _choose(self, logits: Tensor) -> Tensor:
        warm = self._settings[0] > 0
        if not bool(warm.any()):
            return logits.argmax(-1)
        if bool(warm.all()):
            return _drawn(logits, self._settings, self._generators)
        rows = warm.nonzero().squeeze(1)
        generators = [self._generators[row] for row in rows.tolist()]
        index = rows.to(logits.device)
        drawn = _drawn(logits[index], self._settings[:, rows], generators)
        return logits.argmax(-1).index_copy(0, index, drawn)


def _drawn(logits: Tensor, settings: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return a token of each row, all of which are sampled."""
    temperature, top_p, top_k, min_p, _ = settings[..., None]
    scores = logits.float() / temperature.to(logits.device)
    narrow = (top_k > 0) & (top_k < scores.shape[-1])
    if bool(narrow.any()):
        scores = _likeliest(scores, top_k.long(), narrow)
    probabilities = scores.softmax(-1)
    if bool((top_p < 1).any()):
        whole = top_p.where(top_p < 1, torch.inf)
        probabilities = _nucleus(probabilities, whole.to(logits.device))
    if bool((min_p > 0).any()):
        least = min_p.to(logits.device) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    # One draw a row, looked up in the running sum: multinomial draws once per vocabulary entry.
    drawn = [torch.rand(1, generator=one, dtype=torch.float64) for one in generators]
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    sums = probabilities.cumsum(-1, dtype=exact)
    places = torch.stack(drawn).to(exact).to(logits.device) * sums[:, -1:]
    chosen = torch.searchsorted(sums, places, right=True)
    return chosen.squeeze(1).clamp(max=logits.shape[-1] - 1)


def _each(value: Setting, rows: int) -> Tensor:
    """Return a setting of every row."""
    values = [value] * rows if isinstance(value, (int, float)) else list(value)
    return torch.tensor(values, dtype=torch.float32)


def _tokens_in(prompts: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """Mark [B, V] the tokens that each row's prompt holds."""
    held = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in zip(held, prompts, strict=True):
        row[torch.tensor([i for i in ids if i < len(row)], device=held.device)] = True
    return held


def _likeliest(scores: Tensor, top_k: Tensor, narrow: Tensor) -> Tensor:
    """Rule out all but each row's `top_k` likeliest tokens, in the rows that are to be narrowed."""
    most = int(top_k[narrow].max())
    best = scores.topk(most).values
    weakest = best.gather(1, (top_k.where(narrow, 1) - 1).to(scores.device))
    weakest = weakest.where(narrow.to(scores.device), -torch.inf)
    return scores.masked_fill(scores < weakest, -torch.inf)


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero all tokens outside the smallest set that holds `top_p` of the mass."""
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0.0))
