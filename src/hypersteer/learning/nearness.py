"""How alike steering prompts are under a base LM, and which known ones are nearest to one.

A text stands for the mean of the base LM's input embeddings of its tokens. The raw means of any two
steering prompts are alike; so they are centred and whitened over the steering prompts that ship
with the package (Su et al. 2021, "Whitening Sentence Representations"), and compared by cosine. No
layer of the model runs. It sees words and forms of a request, little of what they mean.

What counts as far is measured for each base LM: of the concepts that `bundled` holds out, a tenth
is farther than that from all others. docs/serving.md tells how well it finds unrelated texts.
Shapes: N texts, D width, K directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from hypersteer.data.sources import load_concepts
from hypersteer.lm.base import BaseLM

SHIPPED = ("bundled", "bundled:wide", "bundled:more")
DIRECTIONS = 64
"""Main directions that count; with more, texts on no subject look near, with fewer, all do."""
SHARE_FAR = 0.1
"""Of the held-out concepts, which are steering prompts as good as any, so many count as far."""
SOFTENING = 0.1
"""Keeps the smallest directions from being blown up, in parts of the mean one."""


def pooled(lm: BaseLM, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Return the mean input embedding of each text's tokens, whatever their case."""
    rows = [lm.chat.text(f" {text.strip().casefold()}") or [lm.chat.pad_id] for text in texts]
    sizes = torch.tensor([len(row) for row in rows])
    owners = torch.arange(len(rows)).repeat_interleave(sizes)
    ids = torch.tensor([token for row in rows for token in row])
    with torch.no_grad():
        states = lm.embeddings(ids.to(lm.device)).float().cpu()
    sums = states.new_zeros(len(rows), states.shape[1]).index_add(0, owners, states)
    return sums / sizes[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """How texts are compared under a base LM.

    Attributes:
        lm: the base LM.
        mean: [D] of the shipped steering prompts.
        directions: [D, K] their main directions, each scaled to spread 1.
        least: similarity below which the nearest is far.
    """

    lm: BaseLM
    mean: Float[Tensor, " D"]
    directions: Float[Tensor, "D K"]
    least: float

    @classmethod
    def of(cls, lm: BaseLM) -> "Measure":
        """Fit it to the steering prompts that ship with the package."""
        concepts = [one for source in SHIPPED for one in load_concepts(source).concepts]
        known = pooled(lm, [one.text for one in concepts if not one.held_out])
        mean = known.mean(0)
        _, spread, rows = torch.linalg.svd(known - mean, full_matrices=False)
        spread, rows = spread[:DIRECTIONS] / len(known) ** 0.5, rows[:DIRECTIONS]
        directions = rows.T / (spread + SOFTENING * spread.mean())
        made = cls(lm, mean, directions, 0.0)
        held_out = made.unit([one.text for one in concepts if one.held_out])
        best = (held_out @ made._placed(known).T).max(1).values
        return cls(lm, mean, directions, float(best.quantile(SHARE_FAR)))

    def unit(self, texts: Sequence[str]) -> Float[Tensor, "N K"]:
        """Return the unit vectors of texts; their products are the similarities."""
        return self._placed(pooled(self.lm, texts))

    def nearest(self, text: str, known: Float[Tensor, "N K"], top: int) -> list[tuple[int, float]]:
        """Return places and similarities of the known texts nearest to a text, the nearest first.

        Args:
            text: a steering prompt.
            known: what `unit` gives for the known texts.
            top: how many at most.
        """
        found = (known @ self.unit([text])[0]).topk(min(top, len(known)))
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def _placed(self, means: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        return normalize((means - self.mean) @ self.directions, dim=-1)
