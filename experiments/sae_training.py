"""The training of a small sparse autoencoder on hidden states that are in memory.

BatchTopK (Bussmann et al., 2024, arXiv 2412.06410): in a batch of B tokens the B * k largest
activations are kept, so a token may use more or fewer than k features. Features that have not
been used for a while learn to rebuild what the others leave (the auxiliary loss of Gao et al.,
2024, arXiv 2406.04093). Decoder rows have unit length. What comes out is a JumpReLU dictionary
whose threshold is the mean of the batches' smallest kept activations.

A massive dimension (`hypersteer.lm.units`) would be nearly all of the squared error, so that all
features were spent on it. It is brought to `MASSIVE` times the typical spread in training, and back
to its own size in what comes out; states without one are only centred and scaled.
Shapes: N tokens, B tokens of a batch, D width, F features.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.learning.dictionaries import Dictionary
from hypersteer.lm.units import dimension_scales, excess

MASSIVE = 4.0
"""A dimension that spreads so many times as far as is typical is massive."""
SAMPLED = 16_384
"""Tokens, evenly spaced, that tell how far dimensions spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        features: F.
        active: k, features that a token uses on average.
        epochs: passes over all tokens.
        batch: B.
        rate: of Adam, after a warm-up over the first twentieth; it falls to 0 over the last third.
        unused: a feature counts as unused after so many tokens without it.
        auxiliary: weight of the unused features' loss.
        seed: of the start and the shuffles.
    """

    features: int = 4096
    active: int = 32
    epochs: int = 3
    batch: int = 1024
    rate: float = 2e-3
    unused: int = 50_000
    auxiliary: float = 1 / 32
    seed: int = 0


class Figures(NamedTuple):
    """How well a dictionary describes states.

    Attributes:
        explained_variance: 1 minus the squared error over the squared distance from the mean, of
            states whose massive dimensions are brought to the size that they are trained at.
        l0: mean number of active features of a token.
        silent: share of features that are active nowhere.
    """

    explained_variance: float
    l0: float
    silent: float


class Picked(NamedTuple):
    """Kept activations of a batch, row after row.

    Attributes:
        features: their features.
        values: the activations.
        starts: where each token's begin.
    """

    features: Tensor
    values: Tensor
    starts: Tensor


def train(
    states: Float[Tensor, "N D"], recipe: Recipe, done: Callable[[float], object]
) -> Dictionary:
    """Train a dictionary; the same seed and threads give the same one.

    Args:
        states: of any float type; taken in float32, a batch at a time.
        recipe: how.
        done: told how much more is finished, as a share of 1.
    """
    mean, units = _moments(states)
    run = _Run(recipe, states.shape[1], max(1, len(states) // recipe.batch) * recipe.epochs)
    for rows in _batches(len(states), recipe):
        run.step((states[rows].float() - mean) / units)
        done(1 / run.steps)
    cuts = [
        run.cut((states[rows].float() - mean) / units)
        for _, rows in zip(range(20), _batches(len(states), recipe), strict=False)
    ]
    return _in_units(run, sum(cuts) / len(cuts), mean, units)


@torch.no_grad()
def figures(dictionary: Dictionary, states: Float[Tensor, "N D"], chunk: int = 2048) -> Figures:
    """Measure a dictionary on states that it was not trained on."""
    mean, units = _moments(states)
    error, spread, used = 0.0, 0.0, torch.zeros(dictionary.size)
    for part in states.split(chunk):
        part = part.float()
        latents = dictionary.latents(part)
        error += float(((part - dictionary.decode(latents)) / units).square().sum())
        spread += float(((part - mean) / units).square().sum())
        used += (latents > 0).sum(0)
    silent = float((used == 0).float().mean())
    return Figures(1 - error / spread, float(used.sum()) / len(states), silent)


class _Run:
    """The weights in training, for centred states whose mean squared length is 1."""

    def __init__(self, recipe: Recipe, width: int, steps: int) -> None:
        self.recipe, self.steps, self._step = recipe, steps, 0
        generator = torch.Generator().manual_seed(recipe.seed)
        start = F.normalize(torch.randn(recipe.features, width, generator=generator), dim=-1)
        self.decoder = start.clone().requires_grad_()
        self.encoder = start.clone().requires_grad_()
        self.bias = torch.zeros(recipe.features, requires_grad=True)
        self.offset = torch.zeros(width, requires_grad=True)
        self._weights = [self.decoder, self.encoder, self.bias, self.offset]
        self._optimizer = torch.optim.Adam(self._weights, lr=recipe.rate)
        self._since = torch.zeros(recipe.features, dtype=torch.long)

    def step(self, states: Tensor) -> None:
        """Learn from a batch."""
        raw = self._raw(states)
        picked, _ = _pick(raw, self.recipe.active)
        error = states - self._rebuilt(picked) - self.offset
        loss = error.square().sum(1).mean()
        self._since += len(states)
        self._since[picked.features] = 0
        unused = self._since > self.recipe.unused
        if bool(unused.any()):
            others, _ = _pick(raw.masked_fill(~unused, -torch.inf), 2 * self.recipe.active)
            left = error.detach() - self._rebuilt(others)
            loss = loss + self.recipe.auxiliary * left.square().sum(1).mean()
        loss.backward()
        self._update()

    @torch.no_grad()
    def cut(self, states: Tensor) -> float:
        """The smallest activation that a batch keeps."""
        return _pick(self._raw(states), self.recipe.active)[1]

    def _raw(self, states: Tensor) -> Tensor:
        return (states - self.offset) @ self.encoder.T + self.bias

    def _rebuilt(self, picked: Picked) -> Tensor:
        """Sums [B, D] of the kept features; only those have a gradient, which makes it quick."""
        return F.embedding_bag(
            picked.features,
            self.decoder,
            picked.starts,
            per_sample_weights=picked.values,
            mode="sum",
        )

    def _update(self) -> None:
        """A step of Adam that leaves decoder rows at unit length."""
        grad = self.decoder.grad
        assert grad is not None
        with torch.no_grad():
            grad -= (grad * self.decoder).sum(-1, keepdim=True) * self.decoder
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        share = self._step / self.steps
        self._optimizer.param_groups[0]["lr"] = self.recipe.rate * min(
            1.0, (share + 1 / self.steps) * 20, 3 * (1 - share)
        )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.decoder.copy_(F.normalize(self.decoder, dim=-1))
        self._step += 1


def _pick(raw: Tensor, active: int) -> tuple[Picked, float]:
    """The largest positive activations of a batch, `active` per token on average, and the least.

    A token keeps at most four times as many, since only so many of each are looked at.
    """
    top = raw.topk(min(4 * active, raw.shape[1]), dim=1)
    values = top.values.relu()
    count = min(active * len(raw), values.numel())
    cut = float(values.detach().flatten().topk(count).values[-1])
    keep = (values >= cut) & (values > 0)
    counts = keep.sum(1)
    return Picked(top.indices[keep], values[keep], counts.cumsum(0) - counts), cut


def _batches(count: int, recipe: Recipe) -> Iterator[Tensor]:
    """Shuffled tokens of all epochs; those that fill no batch wait for another epoch."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch, count)
    for _ in range(recipe.epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def _moments(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D], and the units [D] in which centred states have a mean squared length of 1."""
    mean = torch.stack([part.double().sum(0) for part in states.split(8192)]).sum(0) / len(states)
    some = states[:: max(1, len(states) // SAMPLED)].float() - mean.float()
    tamed = excess(dimension_scales(some), MASSIVE)
    squares = sum(float(((p.double() - mean) / tamed).square().sum()) for p in states.split(8192))
    return mean.float(), tamed * math.sqrt(squares / len(states))


@torch.no_grad()
def _in_units(run: _Run, cut: float, mean: Tensor, units: Tensor) -> Dictionary:
    """The weights for states as they are: `h = mean + units * x`, decoder rows of unit length."""
    offset, decoder = mean + units * run.offset, run.decoder * units
    sizes = decoder.norm(dim=-1)
    encoder = sizes[:, None] * run.encoder / units
    return Dictionary(
        encoder=encoder,
        bias=sizes * run.bias - encoder @ offset,
        threshold=sizes * cut,
        decoder=decoder / sizes[:, None],
        offset=offset,
    )
