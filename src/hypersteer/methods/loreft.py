"""LoReFT: at several layers, replace what few directions read at the ends of the prompt."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.edits.low_rank import LOW_RANK, loreft
from hypersteer.edits.sites import Scope, Site
from hypersteer.errors import ConfigError
from hypersteer.learning.adapter_training import (
    ConceptText,
    Responses,
    positives_only,
    recipe_of,
    train,
)
from hypersteer.learning.corpus import check_fields, make_corpus, need_rows
from hypersteer.learning.model_copy import adapted_layers
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering, ids_of
from hypersteer.learning.vectors import row_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.scopes import scope_mask
from hypersteer.lm.writers import Writer

Change = Callable[[Tensor], Tensor]
"""Hidden states [B, T, D] -> what replaces them."""


class Subspaces(NamedTuple):
    """The matrices of rows or concepts (X) at one site, float32.

    Attributes:
        rotations: R, whose rows are orthonormal.
        sources: W.
        biases: b.
    """

    rotations: Float[Tensor, "X R D"]
    sources: Float[Tensor, "X R D"]
    biases: Float[Tensor, "X R"]

    def of(self, rows: Tensor) -> "Subspaces":
        """Return those of some rows."""
        return Subspaces(*(tensor[rows] for tensor in self))


def shift(hidden: Float[Tensor, "X T D"], own: Subspaces) -> Float[Tensor, "X T D"]:
    """Return `R^T (W h + b - R h)` of every state, in float32."""
    latents = hidden.float() @ (own.sources - own.rotations).transpose(1, 2)
    return (latents + own.biases[:, None]) @ own.rotations


def ends(prompt: PromptIds, first: int, last: int) -> tuple[bool, ...]:
    """Mark the first and last tokens of a prompt, as a scope over chat prefix and prompt."""
    size = len(prompt.ids) - prompt.prefix
    marked = [place < first or place >= size - last for place in range(size)]
    return (*[False] * prompt.prefix, *marked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loreft:
    """Low-rank linear subspace representation finetuning, all concepts trained at once.

    Source: Wu et al., 2024 (arXiv 2404.03592), equation 2, with AxBench's settings for Gemma-2-2B:
    at four blocks' outputs, on the first and last five prompt tokens after the chat prefix, every
    state becomes `h + R^T (W h + b - R h)` with orthonormal rows of `R`; the loss is the
    cross-entropy of the positives' responses; AdamW with linearly decaying rate. A strength
    multiplies what is added, at all sites. States at the lowest site are computed once per text;
    only the blocks above run in training.

    The site that a run names is not used: AxBench has its adapters at the same blocks whatever
    block the vectors are at.

    Deviations from AxBench: gradients of a whole step are added up before they are clipped
    (AxBench divides the loss by the number of accumulated batches after it was differentiated);
    the loss is the mean over rows of each row's mean; a prompt shorter than ten tokens is changed
    once per token; matrices are float32 (AxBench's are bfloat16); `R` is kept orthonormal by a QR
    factorisation, which draws no random numbers, in place of torch's parametrization; it has a
    strength.

    Attributes:
        rank: rows of `R`.
        layers: blocks whose outputs are changed; by default as high up as AxBench's in Gemma-2-2B.
        first: how many tokens at the start of the prompt.
        last: how many at its end, the start of the response's turn among them.
        batch_size: rows of each concept in a step (AxBench accumulates two batches of 18).
        epochs: passes over each concept's positives.
        learning_rate: at the first step; 0 after the last.
        max_norm: gradients of a concept are clipped to this norm; 0 never clips.
        seed: of the shuffles and of what is trained.
        batch_tokens: most tokens run at a time, padding included.
        cache_bytes: most bytes of hidden states kept in memory.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True

    rank: int = 4
    layers: tuple[int, ...] = ()
    first: int = 5
    last: int = 5
    batch_size: int = 36
    epochs: int = 24
    learning_rate: float = 9e-4
    max_norm: float = 1.0
    seed: int = 42
    batch_tokens: int = 2048
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        recipe_of(self)
        if self.rank < 1:
            raise ConfigError(f"rank {self.rank} is not above 0")
        if min(self.first, self.last) < 0 or self.first + self.last == 0:
            raise ConfigError(f"first {self.first} and last {self.last} leave no tokens to change")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train all concepts at once; the site is not used.

        Raises:
            ConfigError: if the rank is more than the base LM's width, or a layer is named twice.
            DataError: if a concept has no positive rows.
            ModelError: if a layer is out of range.
            TrainingError: if a matrix is no longer finite.
        """
        del site
        started = time.perf_counter()
        if self.rank > lm.width:
            raise ConfigError(f"rank {self.rank} is more than the width {lm.width} of {lm.name}")
        layers = adapted_layers(lm, self.layers)
        corpus = make_corpus(lm, positives_only(concepts))
        need_rows(corpus, concepts, method="LoReFT", negatives=False)
        responses = Responses(
            lm,
            Site(layers[0]),
            corpus,
            epochs=self.epochs,
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )
        learners = [self._learner(lm, entry.concept.id, len(layers)) for entry in concepts]

        def losses(rows: list[ConceptText]) -> Tensor:
            texts = [text for _, text in rows]
            scopes = [ends(corpus.texts[text].prompt, self.first, self.last) for text in texts]
            marks = scope_mask(scopes, responses.states.batch(texts).spans)
            lowest, *others = _changes(learners, [number for number, _ in rows], marks)
            upper = [(Site(layer), one) for layer, one in zip(layers[1:], others, strict=True)]
            return responses.losses(texts, lowest, upper)

        train(
            recipe_of(self),
            [entry.concept for entry in concepts],
            corpus,
            learners,
            losses,
            done,
        )
        return self._kept(concepts, layers, learners, responses.flops(weights=False), started)

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Add each row's change at every layer, at the ends of its prompt.

        Raises:
            SteeringError: for a concept that was not learnt.
        """
        del site
        rows = torch.tensor([row_of(learned, one.concept) for one in asked], dtype=torch.long)
        prompts = [one.prompt for one in asked]
        scopes: list[Scope] = [ends(lm.chat.prompt(p), self.first, self.last) for p in prompts]
        writers = []
        for index, layer in enumerate(learned.tensors["layers"].tolist()):
            own = [learned.tensors[name][rows, index] for name in Subspaces._fields]
            params = loreft(*(value.to(lm.device) for value in own))
            writers.append(Writer(Site(layer), LOW_RANK, params, scopes))
        return Steering(lm, prompts, writers)

    def _learner(self, lm: BaseLM, concept_id: int, sites: int) -> Subspaces:
        generator = torch.Generator().manual_seed(self.seed + concept_id)
        made = untrained(lm.width, self.rank, sites, generator)
        return Subspaces(*(tensor.to(lm.device).requires_grad_() for tensor in made))

    def _kept(
        self,
        concepts: Sequence[ConceptExamples],
        layers: list[int],
        learners: Sequence[Subspaces],
        flops: float,
        started: float,
    ) -> Learned:
        with torch.no_grad():
            found = [torch.stack(parts) for parts in zip(*map(finished, learners), strict=True)]
        return Learned(
            tensors={
                **{n: t.cpu() for n, t in zip(Subspaces._fields, found, strict=bool(learners))},
                "ids": ids_of(concepts),
                "layers": torch.tensor(layers),
            },
            cost=Cost.of_each(
                len(concepts),
                started=started,
                parameters=sum(tensor.numel() for tensor in learners[0]) if learners else 0,
                flops=flops,
            ),
        )


def untrained(width: int, rank: int, sites: int, generator: torch.Generator) -> Subspaces:
    """Draw what a concept starts from, sites in place of rows: orthonormal R, W and b as usual.

    Its first entry is free to leave the orthonormal matrices: see `orthonormal`.
    """
    rotations = torch.empty(sites, rank, width)
    for rotation in rotations:
        nn.init.orthogonal_(rotation, generator=generator)
    bound = width**-0.5
    sources, biases = (
        torch.empty(shape).uniform_(-bound, bound, generator=generator)
        for shape in ((sites, rank, width), (sites, rank))
    )
    return Subspaces(rotations, sources, biases)


def orthonormal(free: Float[Tensor, "S R D"]) -> Float[Tensor, "S R D"]:
    """Return the orthonormal rows that Gram and Schmidt make of the given ones."""
    rows, triangle = torch.linalg.qr(free.transpose(1, 2))
    signs = triangle.diagonal(dim1=1, dim2=2).sign()
    return rows.transpose(1, 2) * signs[..., None]


def finished(learner: Subspaces) -> Subspaces:
    """Return a concept's matrices from what is trained."""
    return learner._replace(rotations=orthonormal(learner.rotations))


def _changes(learners: Sequence[Subspaces], numbers: list[int], marks: Tensor) -> list[Change]:
    """Return the change at each site to B rows of these concepts, on the marked tokens [B, T]."""
    present = sorted(set(numbers))
    concepts = torch.tensor([present.index(number) for number in numbers], device=marks.device)
    tokens = concepts[marks.nonzero()[:, 0]]

    def at(own: Subspaces) -> Change:
        def change(hidden: Tensor) -> Tensor:
            picked = hidden[marks]
            moved = picked + shift(picked[:, None], own.of(tokens))[:, 0].to(hidden.dtype)
            return hidden.index_put((marks,), moved)

        return change

    found = [finished(learners[number]) for number in present]
    sites = range(len(found[0].biases))
    return [
        at(Subspaces(*(torch.stack(t)[:, site] for t in zip(*found, strict=True))))
        for site in sites
    ]
