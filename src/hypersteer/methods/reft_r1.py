"""ReFT-r1: one direction per concept that both detects it and steers towards it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, TrainingError
from hypersteer.learning import dispatch, vectors
from hypersteer.learning.adapter_training import Responses, recipe_of
from hypersteer.learning.corpus import (
    Corpus,
    after_prefix,
    check_fields,
    make_corpus,
    need_rows,
)
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import length_batches
from hypersteer.lm.flops import MULTIPLY_ADD
from hypersteer.lm.writers import add_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class ReftR1:
    """Rank-1 representation finetuning, all concepts trained at once.

    Source: AxBench (arXiv 2501.17148), section 4 and its published settings for Gemma-2-2B. With
    `w` the concept's direction, every state after the chat prefix becomes
    `h + mean(TopK(ReLU(h . w))) w`; the loss is the cross-entropy of the responses of positives
    and negatives, plus a ramped L1 penalty on the latents that are not among the top k.
    After each backward pass, and for each concept by itself: clip the gradient, bring `w` to unit
    length, make the gradient orthogonal to it, take a step of AdamW with linearly decaying rate.

    A step takes `batch_size` rows of every concept, so the vectors are those of training one
    concept after another. The states at the site do not depend on `w`: they are computed once per
    distinct text, and every step runs the blocks above the site only.

    Deviations from AxBench: top-k never pools over padding or the chat prefix, and takes all
    tokens where there are fewer than k; the loss is the mean over rows of each row's mean, so that
    a long response does not outweigh a short one; a start at which no latent is positive, from
    which nothing would ever be learnt, is turned around; the directions kept have exactly unit
    length (AxBench's are off by the last step); the maximum activation comes from the training
    rows (see `hypersteer.learning.vectors`). The arithmetic is that of the base LM's dtype, with
    directions, latents and losses in float32.

    Attributes:
        batch_size: rows of each concept in a step.
        epochs: passes over each concept's rows, reshuffled by seed and concept id each time.
        learning_rate: at the first step; 0 after the last.
        top_k: latents of a row that set its strength.
        sparsity: weight of the L1 penalty at the end of its linear ramp from 0.
        max_norm: gradients are clipped to this norm.
        start: every entry of the untrained direction.
        seed: of the shuffles.
        batch_tokens: most tokens run at a time, padding included; gradients add up over a step.
        cache_bytes: most bytes of hidden states kept in memory; texts beyond it run through the
            lower blocks anew in every epoch. 0 keeps none.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)

    batch_size: int = 6
    epochs: int = 3
    learning_rate: float = 0.01
    top_k: int = 8
    sparsity: float = 0.005
    max_norm: float = 1.0
    start: float = 0.01
    seed: int = 42
    batch_tokens: int = 2048
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "epochs", "learning_rate", "top_k", "max_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0")
        if self.sparsity < 0 or self.seed < 0:
            raise ConfigError(f"sparsity {self.sparsity} and seed {self.seed} must not be negative")
        if self.start == 0:
            raise ConfigError("start 0 has no direction; give a number such as 0.01")

    def steps(self, rows: int) -> int:
        """Count the steps of a concept with so many rows."""
        return recipe_of(self).steps(rows)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train all concepts at once.

        Raises:
            DataError: if a concept has no positive rows.
            TrainingError: if a direction is no longer finite.
        """
        started = time.perf_counter()
        if not concepts:
            none = torch.zeros(0, lm.width)
            return vectors.keep([], none, none.sum(1), flops=0.0, started=started)
        corpus = make_corpus(lm, concepts)
        need_rows(corpus, concepts, method="ReFT-r1", negatives=False)
        training = Training(self, lm, site, corpus, [entry.concept.id for entry in concepts])
        steps = max(map(self.steps, map(len, corpus.rows)), default=0)
        for step in range(steps):
            training.step(step)
            if done is not None:
                done(1 / steps)
        directions = training.directions()
        for entry, direction in zip(concepts, directions, strict=True):
            if not bool(direction.isfinite().all()):
                raise TrainingError(
                    f"the direction of concept {entry.concept.id} ('{entry.concept.text}') is no "
                    "longer finite; lower learning_rate"
                )
        measured = vectors.measure(training.states, corpus.rows, directions)
        return vectors.keep(
            concepts,
            directions,
            measured.activations,
            flops=training.flops() + measured.flops,
            started=started,
        )

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """Return the largest latent, `ReLU(h . w)`."""
        return dispatch.detect(lm, site, learned, concepts, texts).relu()


class Training:
    """The running training of N concepts.

    Attributes:
        states: hidden states of the texts at the site.

    Args:
        recipe: the hyperparameters.
        lm: the base LM.
        site: where to read and write.
        corpus: texts of the N concepts.
        ids: their ids, which the shuffles depend on.
    """

    def __init__(
        self, recipe: ReftR1, lm: BaseLM, site: Site, corpus: Corpus, ids: Sequence[int]
    ) -> None:
        self._recipe, self._lm = recipe, lm
        self._texts, self._rows, self._ids = corpus.texts, corpus.rows, ids
        self._responses = Responses(
            lm,
            site,
            Corpus(corpus.texts, corpus.rows, [[] for _ in corpus.rows]),
            epochs=recipe.epochs,
            batch_tokens=recipe.batch_tokens,
            cache_bytes=recipe.cache_bytes,
        )
        self.states = self._responses.states
        self._products = 0
        self._weights = self._started()
        self._optimizer = torch.optim.AdamW(
            [{"params": [w]} for w in self._weights], lr=recipe.learning_rate, weight_decay=0.0
        )

    def step(self, step: int) -> None:
        """Take a step, counted from 0, with every concept that has rows left."""
        recipe = self._recipe
        rows = [
            (number, text)
            for number in range(len(self._rows))
            for text in self._batch(number, step)
        ]
        counts = np.bincount([number for number, _ in rows], minlength=len(self._rows))
        sizes = [self._texts[text].size for _, text in rows]
        for part in length_batches(sizes, tokens=recipe.batch_tokens):
            chosen = [rows[position] for position in part]
            progress = torch.tensor(
                [step / recipe.steps(len(self._rows[number])) for number, _ in chosen]
            )
            shares = torch.tensor([1 / counts[number] for number, _ in chosen])
            losses, penalties = self._losses(chosen)
            penalties = recipe.sparsity * progress.to(penalties) * penalties
            ((losses + penalties) * shares.to(losses)).sum().backward()
        for number in np.flatnonzero(counts):
            self._prepare(int(number), step)
        self._optimizer.step()  # skips the concepts that have no gradient
        self._optimizer.zero_grad(set_to_none=True)

    def directions(self) -> Float[Tensor, "N D"]:
        """Return the directions so far, at unit length, on the CPU."""
        return F.normalize(torch.stack(self._weights).detach(), dim=-1).cpu()

    def flops(self) -> int:
        """Count the operations so far, see `hypersteer.lm.flops`; back to states and directions."""
        return self._responses.flops(weights=False) + self._products

    def _started(self) -> list[Tensor]:
        """Return untrained directions; reading all texts here fills the cache in full batches."""
        start = torch.full((len(self._rows), self._lm.width), self._recipe.start)
        measured = vectors.measure(self.states, self._rows, start)
        self._products += measured.flops
        alive = measured.highest > 0
        turned = torch.where(alive[:, None], start, -start).to(self._lm.device)
        return [row.clone().requires_grad_() for row in turned]

    def _batch(self, number: int, step: int) -> list[int]:
        """Return the texts of a concept in a step; none after its last one."""
        return recipe_of(self._recipe).batch(self._ids[number], self._rows[number], step)

    def _losses(self, rows: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return mean cross-entropy and penalty [B] of rows of (concept, text)."""
        texts = [text for _, text in rows]
        directions = torch.stack([self._weights[number] for number, _ in rows])
        marks = after_prefix(self.states.batch(texts).spans)
        penalties: list[Tensor] = []

        def act(hidden: Tensor) -> Tensor:
            self._products += 2 * MULTIPLY_ADD * hidden.numel()  # latents, and back to directions
            changed = change(hidden, directions, marks, self._recipe.top_k)
            penalties.append(changed.penalty)
            return changed.hidden

        losses = self._responses.losses(texts, act)
        return losses, penalties[0]

    def _prepare(self, number: int, step: int) -> None:
        """Clip, bring to unit length, project, and set the rate: one concept by itself."""
        recipe, weight = self._recipe, self._weights[number]
        assert weight.grad is not None
        torch.nn.utils.clip_grad_norm_([weight], recipe.max_norm)
        with torch.no_grad():
            weight.div_(weight.norm())
            weight.grad.sub_((weight.grad @ weight) * weight)
        remaining = 1 - step / recipe.steps(len(self._rows[number]))
        self._optimizer.param_groups[number]["lr"] = recipe.learning_rate * remaining


class Changed(NamedTuple):
    """Hidden states after the edit, and the penalty on latents outside the top k."""

    hidden: Float[Tensor, "B T D"]
    penalty: Float[Tensor, " B"]


def change(
    hidden: Float[Tensor, "B T D"],
    directions: Float[Tensor, "B D"],
    marks: Bool[Tensor, "B T"],
    top_k: int,
) -> Changed:
    """Add `mean(TopK(ReLU(h . w))) w` to the marked tokens, each row with its own `w`.

    Args:
        hidden: states at the site.
        directions: of the rows, float32.
        marks: the tokens after the chat prefix; no other is pooled or changed.
        top_k: latents in the mean; all of them in a row that has fewer.

    Returns:
        The changed states, and per row the mean over marked tokens of the latents outside the
        top k, counted as 0 inside.
    """
    latents = torch.einsum("btd,bd->bt", hidden.float(), directions).relu() * marks
    top = latents.topk(min(top_k, latents.shape[1]), dim=1).values.sum(1)
    counts = marks.sum(1)
    strengths = top / counts.clamp(max=top_k)
    changed = add_vectors(hidden, strengths[:, None] * directions, marks)
    return Changed(changed, (latents.sum(1) - top) / counts)
