"""How alike the hidden states of two texts are, once what all texts share is taken out.

Raw states of a causal LM all point the same way: the cosine of any two is near 1. The mean over
everyday texts and the directions of most variance are removed first (as Mu and Viswanath 2018,
"All-but-the-Top", do for word vectors). Then single tokens are compared, as in ColBERT's late
interaction (Khattab and Zaharia 2020), since a concept often shows in few words of a response.

Shapes: T and C tokens of two texts, D width, K directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

Match = Callable[[Tensor, Tensor], Tensor]
"""What is sought, and the unit states [T, D] of a text -> how well they match, a scalar."""

TOP = 5
"""Tokens of a response that a concept's match is the mean of."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """States of one layer without what all texts share.

    Attributes:
        mean: [D] over the tokens of the background texts.
        directions: [D, K] orthonormal, the directions of most variance.
    """

    mean: Float[Tensor, " D"]
    directions: Float[Tensor, "D K"]

    @classmethod
    def of(cls, texts: Sequence[Float[Tensor, "T D"]], components: int) -> "Space":
        """Return the space of some texts' states, without `components` main directions."""
        states = torch.cat(list(texts)).double()
        mean = states.mean(0)
        _, vectors = torch.linalg.eigh((states - mean).T @ (states - mean))
        width = vectors.shape[1]
        return cls(mean.float(), vectors[:, width - min(components, width - 1) :].float())

    def centred(self, states: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Return states less the mean and the main directions."""
        states = states - self.mean
        return states - (states @ self.directions) @ self.directions.T

    def unit(self, states: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Return the same space with each token of length 1."""
        return normalize(self.centred(states), dim=-1)


def mean_direction(states: Float[Tensor, "C D"]) -> Float[Tensor, " D"]:
    """Return the unit vector of the mean of centred states."""
    return normalize(states.mean(0), dim=0)


def best_tokens(direction: Float[Tensor, " D"], text: Float[Tensor, "T D"]) -> Float[Tensor, ""]:
    """Return the mean cosine of the `TOP` tokens of a text that are nearest to a direction."""
    cosines = text @ direction
    return cosines.topk(min(TOP, len(cosines))).values.mean()


def best_words(sought: Float[Tensor, "C D"], text: Float[Tensor, "T D"]) -> Float[Tensor, ""]:
    """Return the mean over the sought tokens of the cosine with the nearest token of the text."""
    return (sought @ text.T).max(dim=1).values.mean()
