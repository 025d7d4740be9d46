"""Concept classifiers: a small head on what the base LM makes of the last token of a text."""

import time
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import vectors
from hypersteer.learning.corpus import (
    CorpusText,
    after_prefix,
    batch_of,
    make_corpus,
    need_rows,
)
from hypersteer.learning.values import ConceptExamples, Cost, Done, Learned, ids_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch, length_batches
from hypersteer.lm.flops import LMFlops
from hypersteer.lm.hooks import at_input, at_sites, head_at


class Training(NamedTuple):
    """How classifiers are trained; see `hypersteer.methods.gradients.InputXGradient`."""

    batch_size: int
    epochs: int
    learning_rate: float
    weight_decay: float
    dropout: float
    seed: int

    def check(self) -> None:
        """Refuse settings that cannot train.

        Raises:
            ConfigError: naming the setting.
        """
        for name in ("batch_size", "epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0")
        if self.weight_decay < 0 or self.seed < 0:
            raise ConfigError(
                f"weight_decay {self.weight_decay} and seed {self.seed} must not be negative"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout} is not at least 0 and below 1; try 0.3")


class Classifier(NamedTuple):
    """Two layers, float32: `outer relu(inner x + inner_bias) + outer_bias`.

    Attributes:
        inner: [D / 2, D].
        inner_bias: [D / 2].
        outer: [2, D / 2], without the concept first.
        outer_bias: [2].
    """

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor

    @classmethod
    def untrained(cls, width: int, generator: torch.Generator) -> "Classifier":
        """Draw weights as torch does: uniform, within one over the root of the inputs."""
        half = max(1, width // 2)

        def uniform(*shape: int, inputs: int) -> Tensor:
            return (2 * torch.rand(*shape, generator=generator) - 1) / inputs**0.5

        return cls(
            uniform(half, width, inputs=width),
            uniform(half, inputs=width),
            uniform(2, half, inputs=half),
            uniform(2, inputs=half),
        )

    def hidden(self, states: Float[Tensor, "B D"]) -> Float[Tensor, "B half"]:
        """Apply the inner layer."""
        return F.relu(F.linear(states.float(), self.inner, self.inner_bias))

    def log_odds(self, states: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Return the log odds that the texts show the concept."""
        answers = F.linear(self.hidden(states), self.outer, self.outer_bias)
        return answers[:, 1] - answers[:, 0]

    def to(self, device: torch.device) -> "Classifier":
        """Return the same on another device."""
        return Classifier(*(part.to(device) for part in self))


def learn(
    lm: BaseLM,
    site: Site,
    concepts: Sequence[ConceptExamples],
    training: Training,
    batch_tokens: int,
    done: Done | None,
) -> Learned:
    """Train a classifier for each concept, and measure the mean state at the site.

    `Learned.tensors` holds the classifiers' parts, stacked, under their names, the mean state of
    all texts after the chat prefix (`baseline`), and the `ids`.

    Raises:
        DataError: if a concept has no positive or no negative rows.
    """
    started = time.perf_counter()
    corpus = make_corpus(lm, concepts)
    need_rows(corpus, concepts, method="a gradient method", negatives=True)
    last, baseline = _read(lm, site, corpus.texts, batch_tokens)
    found = []
    for number, entry in enumerate(concepts):
        shows, lacks = corpus.positives[number], corpus.negatives[number]
        labels = torch.tensor([True] * len(shows) + [False] * len(lacks))
        found.append(train(last[[*shows, *lacks]], labels, training, entry.concept.id))
        if done is not None:
            done(1 / len(concepts))
    empty = Classifier.untrained(lm.width, torch.Generator())
    parts = {
        name: torch.stack([getattr(one, name) for one in found] or [getattr(empty, name)])
        for name in Classifier._fields
    }
    sizes = [text.size for text in corpus.texts]
    reading = vectors.reading_flops(lm, Site(lm.depth - 1), sizes, batch_tokens)
    return Learned(
        tensors={
            **{name: part[: len(found)].contiguous() for name, part in parts.items()},
            "baseline": baseline,
            "ids": ids_of(concepts),
        },
        cost=Cost.of_each(
            len(concepts),
            started=started,
            parameters=sum(part.numel() for part in empty),
            flops=reading + len(sizes) * LMFlops.of_lm(lm).head,
        ),
    )


def train(
    states: Float[Tensor, "R D"], labels: Bool[Tensor, " R"], training: Training, id_: int
) -> Classifier:
    """Train one classifier with cross-entropy, AdamW and a linearly decaying rate.

    Args:
        states: last states of R texts.
        labels: which of them show the concept.
        training: how.
        id_: of the concept, which start, shuffles and dropout depend on.
    """
    random = np.random.default_rng([training.seed, id_])
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    made = Classifier.untrained(states.shape[1], generator)
    for part in made:
        part.requires_grad_()
    optimizer = torch.optim.AdamW(
        made, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    steps = training.epochs * -(-len(states) // training.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(training.epochs):
        for rows in torch.from_numpy(random.permutation(len(states))).split(training.batch_size):
            hidden = made.hidden(states[rows])
            kept = torch.rand(hidden.shape, generator=generator) >= training.dropout
            answers = F.linear(hidden * kept / (1 - training.dropout), made.outer, made.outer_bias)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(answers, labels[rows].long()).backward()
            optimizer.step()
            schedule.step()
    return Classifier(*(part.detach() for part in made))


def classifier_of(learned: Learned, concept: Concept) -> Classifier:
    """Return the classifier of a concept.

    Raises:
        SteeringError: if it was not learnt.
    """
    row = vectors.row_of(learned, concept)
    return Classifier(*(learned.tensors[name][row] for name in Classifier._fields))


def last_states(lm: BaseLM, batch: TokenBatch) -> Float[Tensor, "B D"]:
    """Return what the vocabulary head reads at each row's last token, under the hooks in place."""
    real, head = batch.spans.real, cast(nn.Module, lm.model.get_output_embeddings())
    last = real & (real.flip(1).cumsum(1).flip(1) == 1)
    seen: list[Tensor] = []

    def keep(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        seen.append(args[0])
        return args, kwargs

    with head_at(head, last), at_input(head, keep):
        lm.forward(batch)
    return seen[0].squeeze(0)


@torch.no_grad()
def _read(
    lm: BaseLM, site: Site, texts: Sequence[CorpusText], batch_tokens: int
) -> tuple[Float[Tensor, "M D"], Float[Tensor, " D"]]:
    """Read the last states of all texts, float32, and the mean of their tokens' at the site."""
    last = torch.zeros(len(texts), lm.width)
    total, count = torch.zeros(lm.width, dtype=torch.float64), 0
    for part in length_batches([text.size for text in texts], tokens=batch_tokens):
        batch = batch_of(lm, [texts[number] for number in part])
        seen: list[Tensor] = []
        with at_sites(lm.blocks, [(site, seen.append)]):
            last[part] = last_states(lm, batch).float().cpu()
        rows = seen[0][after_prefix(batch.spans)]
        total += rows.float().sum(0).cpu().double()
        count += len(rows)
    return last, (total / max(1, count)).float()
