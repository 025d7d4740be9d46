"""DiffMean: the difference between the mean states with and without the concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.learning import dispatch, vectors
from hypersteer.learning.concept_states import ConceptStates
from hypersteer.learning.corpus import Corpus, States, check_fields
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffMean:
    """Mean of all positive tokens minus mean of all negative tokens, at unit length.

    Source: Marks and Tegmark, 2023; AxBench (arXiv 2501.17148), section 4. Tokens are those of
    prompt and response, after the chat prefix. All concepts are learnt in one pass over the
    distinct texts.

    Deviations from AxBench: texts are tokenised in training as they are when steered (AxBench
    leaves three tokens of the generation prompt in training rows only); the maximum activation
    comes from the training rows (see `hypersteer.learning.vectors`).

    Attributes:
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for the second reading, which measures
            maximum activations; texts beyond it run twice.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn all concepts together.

        Raises:
            DataError: if a concept has no positive or no negative rows.
        """
        del done
        states = ConceptStates(lm, site, concepts, self, method="DiffMean", negatives=True)
        return states.learned(mean_differences(states.states, states.corpus, lm.width))


@torch.no_grad()
def mean_differences(states: States, corpus: Corpus, width: int) -> Float[Tensor, "N D"]:
    """Subtract the mean state of the negatives' tokens from that of the positives', by concept.

    Args:
        states: of the corpus.
        corpus: texts of N concepts; a text counts once for a concept.
        width: D.
    """
    sides = [[set(one) for one in side] for side in (corpus.positives, corpus.negatives)]
    sums = torch.zeros(2, len(corpus.positives), width, dtype=torch.float64)
    counts = torch.zeros(2, len(corpus.positives), 1, dtype=torch.float64)
    for numbers, hidden, marks in states.walk(range(len(corpus.texts))):
        totals = torch.einsum("btd,bt->bd", hidden.float(), marks.float()).cpu().double()
        lengths = marks.sum(1, keepdim=True).cpu().double()
        for side, members in enumerate(sides):
            belongs = vectors.membership(numbers, members).double().T
            sums[side] += belongs @ totals
            counts[side] += belongs @ lengths
    positive, negative = sums / counts
    return (positive - negative).float()
