"""LAT: the direction in which random pairs of states differ most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import dispatch
from hypersteer.learning.concept_states import ConceptStates, moments
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.methods.pca import Sign, first_component, signed

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
        cache_bytes: most bytes of hidden states kept for the second reading.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

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
        states = ConceptStates(lm, site, concepts, self, method="LAT", negatives=False)

        def find(number: int) -> Tensor:
            hidden = torch.cat(list(states.parts(states.corpus.positives[number])))
            random = np.random.default_rng([self.seed, states.id(number)])
            scatter = moments(differences(hidden, random)).scatter
            mean = hidden.cpu().double().mean(0)  # some devices have no float64
            return signed(first_component(scatter), states, number, mean, self.sign)

        return states.learned(states.each(find, done))


def differences(
    states: Float[Tensor, "T D"], random: np.random.Generator
) -> Iterator[Float[Tensor, "_ D"]]:
    """Yield unit differences of random pairs of states, part by part, without an odd state.

    The difference of equal states is 0.
    """
    order = torch.from_numpy(random.permutation(len(states))).to(states.device)
    half = len(states) // 2
    for first in range(0, half, PART):
        places = torch.arange(first, min(first + PART, half), device=states.device)
        pairs = states[order[places]].float() - states[order[places + half]].float()
        yield F.normalize(pairs, dim=-1)
