"""Training by language modelling, as all adapters have it: concepts at once, each by itself.

A step takes rows of every concept that has any left, runs them in parts of like length, and moves
each concept's own parameters, with its own clipping and learning rate: what is learnt is what
training one concept after another would have learnt. Shapes: N concepts, B rows, M texts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, TrainingError
from hypersteer.learning.corpus import Corpus, States
from hypersteer.learning.values import ConceptExamples, Done
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch, length_batches
from hypersteer.lm.flops import LMFlops, place
from hypersteer.lm.hooks import ReadWrite, at_sites
from hypersteer.lm.likelihood import response_losses
from hypersteer.lm.upper_blocks import shared_below, upper_blocks

ConceptText = tuple[int, int]
"""Numbers of a concept and of one of its texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a concept's parameters are learnt from its rows: AdamW, linearly decaying to 0.

    Attributes:
        batch_size: rows of a concept in a step. All of them weigh the same in it, however many
            are run at a time.
        epochs: passes over the rows, reshuffled by seed and concept id each time.
        learning_rate: at the first step.
        max_norm: gradients of a concept are clipped to this norm; 0 never clips.
        seed: of the shuffles.
        batch_tokens: most tokens run at a time, padding included.
    """

    batch_size: int
    epochs: int
    learning_rate: float
    max_norm: float
    seed: int
    batch_tokens: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0")
        for name in ("max_norm", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)} is negative")

    def steps(self, rows: int) -> int:
        """Count the steps of a concept with so many rows."""
        return self.epochs * -(-rows // self.batch_size)

    def batch(self, concept_id: int, rows: Sequence[int], step: int) -> list[int]:
        """Return a concept's rows in a step; none after its last one."""
        epoch, within = divmod(step, -(-len(rows) // self.batch_size))
        if epoch >= self.epochs:
            return []
        order = np.random.default_rng([self.seed, concept_id, epoch]).permutation(len(rows))
        return [rows[i] for i in order[within * self.batch_size :][: self.batch_size]]


def recipe_of(method: object) -> Recipe:
    """Return how a method is trained, from its fields of the same names.

    Raises:
        ConfigError: if one of them is out of range.
    """
    return Recipe(**{field.name: getattr(method, field.name) for field in fields(Recipe)})


def train(
    recipe: Recipe,
    concepts: Sequence[Concept],
    corpus: Corpus,
    parameters: Sequence[Iterable[Tensor]],
    losses: Callable[[list[ConceptText]], Tensor],
    done: Done | None = None,
) -> None:
    """Learn N concepts from their positive rows; the parameters are changed in place.

    Args:
        recipe: how.
        concepts: N concepts.
        corpus: their texts.
        parameters: of each concept; no tensor is of two.
        losses: rows -> the loss [B] of each, which the parameters of its concept enter.
        done: told the share of each step.

    Raises:
        TrainingError: if a parameter is no longer finite.
    """
    groups = [list(own) for own in parameters]
    if not groups:
        return
    optimizer = torch.optim.AdamW(
        [{"params": own} for own in groups], lr=recipe.learning_rate, weight_decay=0.0
    )
    rows = corpus.positives
    steps = max((recipe.steps(len(own)) for own in rows), default=0)
    for step in range(steps):
        chosen = [
            (number, text)
            for number, concept in enumerate(concepts)
            for text in recipe.batch(concept.id, rows[number], step)
        ]
        counts = np.bincount([number for number, _ in chosen], minlength=len(concepts))
        sizes = [corpus.texts[text].size for _, text in chosen]
        for part in length_batches(sizes, tokens=recipe.batch_tokens):
            some = [chosen[position] for position in part]
            each = losses(some)
            shares = torch.tensor([1 / counts[number] for number, _ in some])
            (each * shares.to(each)).sum().backward()
        for number in np.flatnonzero(counts):
            remaining = 1 - step / recipe.steps(len(rows[number]))
            optimizer.param_groups[number]["lr"] = recipe.learning_rate * remaining
            if recipe.max_norm:
                torch.nn.utils.clip_grad_norm_(groups[number], recipe.max_norm)
        optimizer.step()  # skips the concepts that have no gradient
        optimizer.zero_grad(set_to_none=True)
        if done is not None:
            done(1 / steps)
    for concept, own in zip(concepts, groups, strict=True):
        if not all(bool(parameter.isfinite().all()) for parameter in own):
            raise TrainingError(
                f"what was learnt of concept {concept.id} ('{concept.text}') is no longer finite; "
                "lower learning_rate"
            )


def positives_only(concepts: Sequence[ConceptExamples]) -> list[ConceptExamples]:
    """Return the concepts without their negatives, which language modelling has no use for."""
    return [entry._replace(negatives=[]) for entry in concepts]


def unchanged(hidden: Tensor) -> Tensor:
    """Return the states as they are."""
    return hidden


class UpperLosses:
    """Losses of responses from the states at a site, where these are changed.

    Where the lower blocks cannot be left out, they run each time (without gradient, since nothing
    below the site needs one): where `upper_blocks` says so, and at the sub-layer sites, whose block
    adds what came from below.

    Attributes:
        skips: whether the blocks up to the site are left out.

    Args:
        lm: the base LM.
        site: where the states are.
    """

    def __init__(self, lm: BaseLM, site: Site) -> None:
        self._lm, self._site = lm, site
        residual = site.kind == "residual"
        self._upper = upper_blocks(lm, shared_below(site)) if residual else None
        self.skips = self._upper is not None

    def losses(
        self, batch: TokenBatch, states: Tensor | None, change: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, " B"]:
        """Return the mean cross-entropy of each row's response.

        Args:
            batch: B prompts with their responses, on the model's device.
            states: hidden states [B, T, D] at the site; not used unless `skips`.
            change: hidden states [B, T, D] -> what the blocks above get instead.
        """
        if self._upper is None or states is None:
            with at_sites(self._lm.blocks, [(self._site, change)]):
                return response_losses(self._lm, batch)[0]
        with self._upper.given(change(states)):
            return response_losses(self._upper.view, batch)[0]


class Responses:
    """Losses of the responses of a corpus; the blocks up to a site run once per distinct text.

    Attributes:
        states: of the texts at the site; None without one.

    Args:
        lm: the base LM, or a copy that differs from it above the site only.
        site: below which nothing changes while it is learnt; None if everything may.
        corpus: the texts.
        epochs: how often each row is going to be read, at most.
        batch_tokens: most tokens of a pass that fills the memory.
        cache_bytes: most bytes of states in memory.
    """

    def __init__(
        self,
        lm: BaseLM,
        site: Site | None,
        corpus: Corpus,
        *,
        epochs: int,
        batch_tokens: int,
        cache_bytes: int,
    ) -> None:
        self._lm, self._site, self._texts = lm, site, corpus.texts
        self._passes: Counter[tuple[int, int]] = Counter()
        self._tokens = 0
        trained = [number for rows in corpus.positives for number in rows]
        uses = epochs * np.bincount(trained, minlength=len(corpus.texts)) + 1
        self.states = States(
            lm,
            site or lm.site(0),
            corpus.texts,
            uses.tolist(),
            batch_tokens=batch_tokens,
            cache_bytes=cache_bytes if site else 0,
        )
        self._above = UpperLosses(lm, site) if site else None

    def losses(
        self,
        texts: Sequence[int],
        change: Callable[[Tensor], Tensor] = unchanged,
        others: Sequence[tuple[Site, ReadWrite]] = (),
    ) -> Float[Tensor, " B"]:
        """Return the mean cross-entropy of each text's response.

        Args:
            texts: numbers of B texts.
            change: states [B, T, D] at the site -> what the blocks above get instead.
            others: what else is done, at sites above.
        """
        self._passes[len(texts), max(self._texts[text].size for text in texts)] += 1
        self._tokens += sum(len(self._texts[text].response) for text in texts)
        batch = self.states.batch(texts)
        with at_sites(self._lm.blocks, others):
            if self._above is None:
                return response_losses(self._lm, batch)[0]
            read = self.states.read(texts) if self._above.skips else None
            return self._above.losses(batch, read, change)

    def flops(self, *, weights: bool) -> int:
        """Count the operations so far, there and back, without those of what `change` does.

        Args:
            weights: whether gradients go to all weights as well, and not to states only.
        """
        lm = LMFlops.of_lm(self._lm)
        first = 0 if self._site is None else place(self._site)
        again = self._above is not None and not self._above.skips
        found = self.states.flops + (2 + weights) * self._tokens * lm.head
        for (rows, length), times in self._passes.items():
            there = lm.forward(rows, length, lm.top, start=0 if again else first)
            back = lm.backward(rows, length, lm.top, start=first, weights=weights)
            found += times * (there + back)
        return found
