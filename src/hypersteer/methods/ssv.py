"""SSV: a steering vector trained by language modelling alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.learning import dispatch, vectors
from hypersteer.learning.adapter_training import ConceptText, Responses, recipe_of, train
from hypersteer.learning.corpus import after_prefix, check_fields, make_corpus, need_rows
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.writers import add_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssv:
    """One vector per concept that makes the concept's responses likely when it is added.

    Source: Subramani et al., 2022 (arXiv 2205.05124), as AxBench (arXiv 2501.17148) has it: every
    state after the chat prefix becomes `h + w`; the loss is the cross-entropy of the positives'
    responses; AdamW with linearly decaying rate, no constraint on `w` and no clipping. All
    concepts are trained at once, on states at the site that are computed once per text.

    Deviations from AxBench: strength 1 adds the vector as it was trained. AxBench adds `w` times
    the largest product of `w` and a state, whatever size it was trained at, and its SSV steers
    worst of all methods; `scaling="activation"` gives the direction the strength that other
    vectors have (see `hypersteer.learning.vectors`). The loss is the mean over rows of each
    row's mean. AxBench trains in bfloat16; here vectors and losses are float32, the arithmetic
    is that of the base LM's dtype.

    Attributes:
        batch_size: rows of each concept in a step.
        epochs: passes over each concept's positives.
        learning_rate: at the first step; 0 after the last.
        start: every entry of the untrained vector.
        scaling: what strength 1 adds: the vector as `trained`, or its direction at its maximum
            `activation` on the training rows, negatives included.
        max_norm: gradients are clipped to this norm; 0 never clips.
        seed: of the shuffles.
        batch_tokens: most tokens run at a time, padding included.
        cache_bytes: most bytes of hidden states kept in memory.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    batch_size: int = 6
    epochs: int = 3
    learning_rate: float = 0.01
    start: float = 0.01
    scaling: Literal["trained", "activation"] = "trained"
    max_norm: float = 0.0
    seed: int = 42
    batch_tokens: int = 2048
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        recipe_of(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train all vectors at once.

        Raises:
            DataError: if a concept has no positive rows.
            TrainingError: if a vector is no longer finite.
        """
        started = time.perf_counter()
        corpus = make_corpus(lm, concepts)
        need_rows(corpus, concepts, method="SSV", negatives=False)
        responses = Responses(
            lm,
            site,
            corpus,
            epochs=self.epochs,
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )
        weights = [
            torch.full((lm.width,), self.start, device=lm.device, requires_grad=True)
            for _ in concepts
        ]

        def losses(rows: list[ConceptText]) -> Tensor:
            texts = [text for _, text in rows]
            chosen = torch.stack([weights[number] for number, _ in rows])
            marks = after_prefix(responses.states.batch(texts).spans)
            return responses.losses(texts, lambda hidden: add_vectors(hidden, chosen, marks))

        train(
            recipe_of(self),
            [entry.concept for entry in concepts],
            corpus,
            [[weight] for weight in weights],
            losses,
            done,
        )
        trained = torch.stack(weights).detach() if weights else torch.zeros(0, lm.width)
        strengths, flops = trained.norm(dim=-1), 0
        if self.scaling == "activation":
            directions = torch.nn.functional.normalize(trained, dim=-1)
            measured = vectors.measure(responses.states, corpus.rows, directions)
            strengths, flops = measured.activations, measured.flops
        return vectors.keep(
            concepts,
            trained,
            strengths,
            flops=flops + responses.flops(weights=False),
            started=started,
        )
