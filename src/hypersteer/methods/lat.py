"""LAT: the direction in which random pairs of states differ most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.concepts import Concept
from hypersteer.data.examples import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import vectors
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.covariance import Sign, first_component, moments
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.methods.pca import signed

PART = 4096
"""Pairs whose float32 difference is held at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lat:
    """Linear artificial tomography: PCA on normalised differences of randomly paired tokens.

    Source: Zou et al., 2023 (arXiv 2310.01405), as AxBench (arXiv 2501.17148) has it: the tokens of
    a concept's positives are shuffled, one half is subtracted from the other, each difference is
    brought to unit length, and the first principal component of the differences is the direction.

    Deviations from AxBench: the sign is resolved as in `hypersteer.methods.pca.Pca`; the shuffle
    depends on the seed and the concept's id, so that a concept's direction does not depend on the
    others. Pairs reach across texts, so all states of one concept's positives are held at a time.

    Attributes:
        sign: `resolved`, or `published` for the sign that scikit-learn gives.
        seed: of the shuffle.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for the second look.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True

    sign: Sign = "resolved"
    seed: int = 42
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative; give 0 or more")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts, each from its own rows.

        Raises:
            DataError: if a concept has no positive rows.
        """
        lesson = ConceptStates(
            lm,
            site,
            concepts,
            method="LAT",
            negatives=False,
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )

        def find(number: int) -> Tensor:
            states = torch.cat(list(lesson.parts(lesson.corpus.positives[number])))
            random = np.random.default_rng([self.seed, lesson.id(number)])
            scatter = moments(differences(states, random)).scatter
            mean = states.cpu().double().mean(0)  # some devices have no float64
            return signed(first_component(scatter), lesson, number, mean, self.sign)

        return lesson.learned(lesson.each(find, done))

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """See `hypersteer.learning.vectors.steer`."""
        return vectors.steer(lm, site, learned, asked)

    def detect(
        self,
        lm: BaseLM,
        site: Site,
        learned: Learned,
        concepts: Sequence[Concept],
        texts: Sequence[Example],
    ) -> Float[Tensor, "K N"]:
        """See `hypersteer.learning.vectors.detect`."""
        return vectors.detect(lm, site, learned, concepts, texts)


def differences(
    states: Float[Tensor, "T D"], random: np.random.Generator
) -> Iterator[Float[Tensor, "_ D"]]:
    """Unit differences of random pairs of states, part by part; an odd state is left out.

    The difference of equal states is 0.
    """
    order = torch.from_numpy(random.permutation(len(states))).to(states.device)
    half = len(states) // 2
    for first in range(0, half, PART):
        places = torch.arange(first, min(first + PART, half), device=states.device)
        pairs = states[order[places]].float() - states[order[places + half]].float()
        yield F.normalize(pairs, dim=-1)
