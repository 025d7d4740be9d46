"""PCA: the direction in which the states of a concept's texts vary most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.examples import Example
from hypersteer.edits.sites import Site
from hypersteer.learning import vectors
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.covariance import Sign, first_component, published_sign, towards
from hypersteer.learning.values import Asked, ConceptExamples, Done, Learned, Steering
from hypersteer.lm.base import BaseLM


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
        cache_bytes: most bytes of hidden states kept for the second look.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True

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
        lesson = ConceptStates(
            lm,
            site,
            concepts,
            method="PCA",
            negatives=False,
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )

        def find(number: int) -> Tensor:
            found = lesson.moments(lesson.corpus.positives[number], shared=False)
            return signed(first_component(found.scatter), lesson, number, found.mean, self.sign)

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


def signed(
    component: Float[Tensor, " D"],
    lesson: ConceptStates,
    number: int,
    mean: Float[Tensor, " D"],
    sign: Sign,
) -> Float[Tensor, " D"]:
    """A concept's principal component, the way that `sign` wants it.

    Args:
        component: of either sign.
        lesson: with the texts of the concepts.
        number: place of the concept.
        mean: of the states of its positives.
        sign: see `Pca`.
    """
    if sign == "published":
        return published_sign(component)
    negatives = lesson.corpus.negatives[number]
    if negatives:
        mean = mean - lesson.moments(negatives, shared=True).mean
    return towards(component, mean)
