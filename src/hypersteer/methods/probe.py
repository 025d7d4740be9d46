"""Linear probe: a direction that tells the tokens of positives from those of negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import dispatch
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.methods.random import unit_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbe:
    """Logistic regression on single tokens without an intercept, its weight kept at unit length.

    Source: AxBench (arXiv 2501.17148), section 4 and its published settings for Gemma-2-2B. The
    loss is the binary cross-entropy of `sigmoid(h . w)`, the mean over all tokens of a batch; every
    token of a positive text is positive. Each step brings `w` to unit length, makes the gradient
    orthogonal to it, and is one of AdamW with linearly decaying rate.

    Deviations from AxBench: the chat prefix is never trained on (a slip of its data module has it
    in); the start is a random direction of the seed and the concept's id, since a unit vector is
    what every step begins with; what is kept has exactly unit length. All states of one concept's
    texts are held at a time.

    Attributes:
        batch_size: texts of a step.
        epochs: passes over a concept's texts, reshuffled each time.
        learning_rate: at the first step; 0 after the last.
        weight_decay: of AdamW.
        seed: of start and shuffles.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept between concepts.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    batch_size: int = 12
    epochs: int = 24
    learning_rate: float = 0.005
    weight_decay: float = 0.001
    seed: int = 42
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("batch_size", "epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0")
        if self.weight_decay < 0 or self.seed < 0:
            raise ConfigError(
                f"weight_decay {self.weight_decay} and seed {self.seed} must not be negative"
            )

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train a probe for each concept.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        states = ConceptStates(lm, site, concepts, self, method="the linear probe", negatives=True)

        def find(number: int) -> Tensor:
            rows = states.corpus.rows[number]
            positives = len(states.corpus.positives[number])
            labels = [row < positives for row in range(len(rows))]
            return self.train(states.tokens(rows), labels, states.id(number))

        return states.learned(states.each(find, done))

    def train(
        self, texts: Sequence[Float[Tensor, "_ D"]], labels: Sequence[bool], id_: int
    ) -> Float[Tensor, " D"]:
        """Train one probe.

        Args:
            texts: states of each text's tokens.
            labels: which texts show the concept.
            id_: id of the concept, which start and shuffles depend on.
        """
        width = texts[0].shape[1]
        weight = unit_vectors([id_], width, self.seed)[0].to(texts[0].device)
        optimizer = torch.optim.AdamW(
            [weight], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        steps = self.epochs * -(-len(texts) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for epoch in range(self.epochs):
            random = np.random.default_rng([self.seed, id_, epoch])
            order = random.permutation(len(texts))
            for first in range(0, len(order), self.batch_size):
                chosen = order[first : first + self.batch_size].tolist()
                batch = torch.cat([texts[row] for row in chosen]).float()
                targets = torch.cat(
                    [torch.full((len(texts[row]),), float(labels[row])) for row in chosen]
                ).to(batch.device)
                errors = torch.sigmoid(batch @ weight) - targets
                weight.grad = batch.T @ errors / len(errors)
                weight.div_(weight.norm())
                weight.grad.sub_((weight.grad @ weight) * weight)
                optimizer.step()
                schedule.step()
        return weight / weight.norm()
