"""Mass-mean probe: the difference of the class means, tilted by the spread around them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import dispatch
from hypersteer.learning.concept_states import ConceptStates, Moments
from hypersteer.learning.corpus import check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.units import excess

Length = Literal["activation", "difference"]
"""How long a vector strength 1 adds: the maximum activation, or the difference of the means."""

MASSIVE = 4.0
"""A dimension that spreads so many times as far as is typical is massive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MassMean:
    """Steers along `m = mean+ - mean-`, detects with `inverse(S) m`.

    Source: Marks and Tegmark, 2023 (arXiv 2310.06824), sections 4 and 5: `S` is the covariance of
    the states around the mean of their own class. It turns the direction away from where states
    spread anyway, as Fisher's discriminant does.

    Choices where the paper's data (one state per short statement) say nothing: states are those of
    all tokens of prompt and response after the chat prefix, and a text's score is the maximum over
    its tokens. `S` is shrunk towards a multiple of the identity, since it has no inverse where
    there are fewer tokens than dimensions; how far is estimated (Chen, Wiesel, Eldar and Hero,
    2010, equation 23), with the number of texts for that of samples, since the tokens of a text
    are alike. Identity and estimate are those of states whose massive dimensions are brought to
    `MASSIVE` times the typical spread: else a few of them would set the multiple, and so how much
    of the other dimensions' spread is turned away from.

    The steering direction is DiffMean's; what differs is its length: strength 1 adds the difference
    itself, which carries one mean to the other.

    Attributes:
        shrinkage: share of the identity, from 0 to 1; by default the estimate.
        length: `difference`, or `activation` for AxBench's maximum activation.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for the second reading.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    shrinkage: float | None = None
    length: Length = "difference"
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ConfigError(f"shrinkage {self.shrinkage} is not between 0 and 1; leave it out")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts, each from its own rows.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        states = ConceptStates(
            lm, site, concepts, self, method="the mass-mean probe", negatives=True
        )
        probes: list[Tensor] = []

        def find(number: int) -> Tensor:
            shows, lacks = states.corpus.positives[number], states.corpus.negatives[number]
            positive = states.moments(shows, shared=False)
            negative = states.moments(lacks, shared=True)
            difference = positive.mean - negative.mean
            spread = self._spread(positive, negative, texts=len({*shows, *lacks}))
            probes.append(torch.linalg.solve(spread, difference).float())
            return difference

        differences = states.each(find, done)
        norms = differences.norm(dim=-1)
        learned = states.learned(differences, norms if self.length == "difference" else None)
        tilted = torch.stack(probes) if probes else differences
        return dataclasses.replace(
            learned,
            tensors={**learned.tensors, "probes": F.normalize(tilted, dim=-1)},
            cost=dataclasses.replace(learned.cost, parameters=2 * lm.width + 1),
        )

    def _spread(self, positive: Moments, negative: Moments, texts: int) -> Float[Tensor, "D D"]:
        """Return the covariance around the class means, shrunk."""
        tokens = positive.count + negative.count
        spread = (positive.scatter + negative.scatter) / tokens
        units = excess(spread.diagonal().clamp(min=0).sqrt(), MASSIVE)
        spread = spread / torch.outer(units, units)
        share = estimated_shrinkage(spread, texts) if self.shrinkage is None else self.shrinkage
        level = spread.trace() / len(spread)
        shrunk = (1 - share) * spread + share * level * torch.eye(len(spread), dtype=spread.dtype)
        return shrunk * torch.outer(units, units)


def estimated_shrinkage(covariance: Float[Tensor, "D D"], samples: int) -> float:
    """Return the share of the identity that brings a sample covariance nearest to the true one.

    Oracle-approximating shrinkage: best in mean square for normal samples.

    Args:
        covariance: of the sample.
        samples: how many.
    """
    width = len(covariance)
    square, trace = float((covariance**2).sum()), float(covariance.trace())
    above = (1 - 2 / width) * square + trace**2
    below = (samples + 1 - 2 / width) * (square - trace**2 / width)
    return 1.0 if below <= 0 else min(1.0, above / below)
