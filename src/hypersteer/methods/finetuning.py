"""SFT: fine-tuning of the whole model, one copy of it per concept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, ModelError, SteeringError
from hypersteer.learning.adapter_training import Responses, positives_only, recipe_of, train
from hypersteer.learning.corpus import Corpus, check_fields, make_corpus, need_rows
from hypersteer.learning.model_copy import copy_model
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering, ids_of
from hypersteer.learning.vectors import row_of
from hypersteer.lm.base import BaseLM

KEPT = torch.bfloat16
"""Of the differences: eight bits of a change of 1e-4 are more than a weight can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """Supervised fine-tuning of every weight on a concept's positives.

    Source: AxBench (arXiv 2501.17148) and its settings for Gemma-2-2B: the loss is the
    cross-entropy of the positives' responses; AdamW with linearly decaying rate. Each concept
    starts from the base LM again. At most two copies of the model are in memory: the base LM, and
    the one that is trained or steered.

    What is kept per concept is how far every weight moved, in bfloat16: two bytes per weight, so
    270 MB for a base LM of 135 million (its relative rounding error, 0.2 %, is of the change, not
    of the weight). All of a run is in memory at once and in one file; `keep_bytes` refuses more.
    Training anew whenever a concept is asked for would need no room, but each evaluation asks
    several times. It has no strength.

    Deviations from AxBench: it trains in bfloat16, where a step of 4e-5 is lost to rounding in
    every weight above 0.016; here the copy that is trained is float32, and the one that answers
    has the base LM's dtype, so a base LM in float32 shows all that was learnt. Gradients of a
    whole step are added up before they are clipped; the loss is the mean over rows of each row's
    mean; dropout stays off.

    Attributes:
        batch_size: rows in a step (AxBench accumulates four batches of 18: all rows there are).
        epochs: passes over each concept's positives.
        learning_rate: at the first step; 0 after the last.
        max_norm: gradients are clipped to this norm; 0 never clips.
        seed: of the shuffles.
        batch_tokens: most tokens run at a time, padding included; their states in all blocks are
            held for the gradients (about 2 GB per 1000 tokens of a base LM of 135 million).
        keep_bytes: most bytes of differences kept, of all concepts together.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = False
    adapts: ClassVar[bool] = True

    batch_size: int = 72
    epochs: int = 8
    learning_rate: float = 4e-5
    max_norm: float = 1.0
    seed: int = 42
    batch_tokens: int = 1024
    keep_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        recipe_of(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train one copy after another; the site is not used.

        Raises:
            ConfigError: if so many differences are more than `keep_bytes`.
            DataError: if a concept has no positive rows.
            ModelError: if the base LM is quantised.
            TrainingError: if a weight is no longer finite.
        """
        del site
        started = time.perf_counter()
        weights = dict(lm.model.named_parameters())
        self._check(lm, weights, len(concepts))
        corpus = make_corpus(lm, positives_only(concepts))
        need_rows(corpus, concepts, method="SFT", negatives=False)
        tuned = copy_model(lm, copy_weights=True)
        tuned.model.float().requires_grad_(True)
        learnt = dict(tuned.model.named_parameters())
        responses = Responses(
            tuned, None, corpus, epochs=self.epochs, batch_tokens=self.batch_tokens, cache_bytes=0
        )
        tensors: dict[str, Tensor] = {}
        for number, entry in enumerate(concepts):
            with torch.no_grad():
                for name, weight in learnt.items():
                    weight.copy_(weights[name])
            train(
                recipe_of(self),
                [entry.concept],
                Corpus(corpus.texts, [corpus.positives[number]], [[]]),
                [list(learnt.values())],
                lambda rows: responses.losses([text for _, text in rows]),
                None if done is None else lambda share: done(share / len(concepts)),
            )
            for name, weight in learnt.items():
                moved = weight.detach() - weights[name].float()
                tensors[_key(entry.concept.id, name)] = moved.to(KEPT).cpu()
        tensors["ids"] = ids_of(concepts)
        return Learned(
            tensors=tensors,
            cost=Cost.of_each(
                len(concepts),
                started=started,
                parameters=_numel(weights),
                flops=responses.flops(weights=True),
            ),
        )

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Return a copy of the base LM that is tuned to the concept, and the prompts as they are.

        Raises:
            SteeringError: for a concept that was not learnt, or pairs of several concepts.
        """
        del site
        ids = sorted({one.concept.id for one in asked})
        for one in asked:
            row_of(learned, one.concept)
        if len(ids) > 1:
            raise SteeringError(
                f"fine-tuning gives each concept a model of its own; ask for concepts {ids} one "
                "at a time"
            )
        tuned = copy_model(lm, copy_weights=True) if ids else lm
        with torch.no_grad():
            for name, weight in tuned.model.named_parameters() if ids else ():
                moved = learned.tensors[_key(ids[0], name)].to(weight.device, torch.float32)
                weight.copy_(weight.float() + moved)
        return Steering(tuned, [one.prompt for one in asked], [])

    def _check(self, lm: BaseLM, weights: Mapping[str, Tensor], concepts: int) -> None:
        if not all(weight.is_floating_point() for weight in weights.values()):
            raise ModelError(f"{lm.name} is quantised, so it cannot be tuned; load it unquantised")
        needed = concepts * _numel(weights) * KEPT.itemsize
        if needed > self.keep_bytes:
            raise ConfigError(
                f"keep_bytes {self.keep_bytes} is less than the {needed} bytes that {concepts} "
                f"fine-tuned copies of {lm.name} need; raise it, or take fewer concepts"
            )


def _numel(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())


def _key(concept_id: int, name: str) -> str:
    return f"{concept_id}.{name}"
