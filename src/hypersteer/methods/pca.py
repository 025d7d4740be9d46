"""PCA: the direction in which the states of a concept's texts vary most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.learning import dispatch
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM

Sign = Literal["resolved", "published"]
"""Which way a principal component points: towards the positives, or as chance has it."""

BLOCK, ROUNDS, TOLERANCE = 8, 300, 1e-9
"""Vectors of the subspace iteration, its most rounds, and the relative residual that ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pca:
    """First principal component of all token states of the positives, at unit length.

    Source: the PCA of AxBench (arXiv 2501.17148), section 4, after Marks and Tegmark, 2023. States
    are centred; tokens are those of prompt and response, after the chat prefix.

    Deviations from AxBench: a principal component has no sign, and AxBench keeps the one that its
    library happens to give; here it points from the negatives to the positives (their mean states),
    or where a concept has no negatives, to the positives from 0. It is computed from the scatter
    matrix, so that no more than a part of the states is held. What holds for all vector methods is
    in `hypersteer.learning.vectors`.

    Attributes:
        sign: `resolved`, or `published` for the sign that scikit-learn gives.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for the second reading.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    sign: Sign = "resolved"
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts, each from its own rows.

        Raises:
            DataError: if a concept has no positive rows.
        """
        states = ConceptStates(lm, site, concepts, self, method="PCA", negatives=False)

        def find(number: int) -> Tensor:
            found = states.moments(states.corpus.positives[number], shared=False)
            return signed(first_component(found.scatter), states, number, found.mean, self.sign)

        return states.learned(states.each(find, done))


def signed(
    component: Float[Tensor, " D"],
    states: ConceptStates,
    number: int,
    mean: Float[Tensor, " D"],
    sign: Sign,
) -> Float[Tensor, " D"]:
    """Return a concept's principal component with the sign that is wanted.

    Args:
        component: of either sign.
        states: of the concepts' texts.
        number: place of the concept.
        mean: of the states of its positives.
        sign: see `Pca`.
    """
    if sign == "published":
        return published_sign(component)
    negatives = states.corpus.negatives[number]
    if negatives:
        mean = mean - states.moments(negatives, shared=True).mean
    return towards(component, mean)


def first_component(scatter: Float[Tensor, "D D"]) -> Float[Tensor, " D"]:
    """Return the unit eigenvector of the largest eigenvalue, of either sign, float64.

    Subspace iteration with Rayleigh-Ritz steps from a fixed start (Golub and Van Loan, Matrix
    Computations, section 8.2.4): for wide models far cheaper than all eigenvectors, which are
    computed only where it does not converge.
    """
    scatter = scatter.double()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(
        len(scatter), min(BLOCK, len(scatter)), generator=generator, dtype=torch.float64
    )
    basis = torch.linalg.qr(start).Q
    for _ in range(ROUNDS):
        image = scatter @ basis
        values, turn = torch.linalg.eigh(basis.T @ image)
        first = basis @ turn[:, -1]
        residual = image @ turn[:, -1] - values[-1] * first
        if residual.norm() <= TOLERANCE * values[-1]:
            return first
        basis = torch.linalg.qr(image).Q
    return torch.linalg.eigh(scatter).eigenvectors[:, -1]


def towards(direction: Float[Tensor, " D"], goal: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the direction or its opposite, whichever has no negative product with the goal."""
    return -direction if float(direction.double() @ goal.double()) < 0 else direction


def published_sign(direction: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the direction with its largest entry positive, as scikit-learn leaves components."""
    return -direction if direction[direction.abs().argmax()] < 0 else direction
