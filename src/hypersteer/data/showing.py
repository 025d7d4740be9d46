"""How rows of a step are shown: at what strength, the prompt said or not, undone, contrasted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hypersteer.config import LossConfig


class Shown(NamedTuple):
    """How one row is shown.

    Attributes:
        strength: of its edits; below 0 where they are to undo what the steering prompt says.
        alone: whether the base prompt leaves the steering prompt out, where rows say it.
        negated: whether its edits are to undo.
        contrast: weight of its contrastive term in the mean over all rows of a step, so that the
            sum of all weights is their number; 0 where none is measured.
    """

    strength: float
    alone: bool
    negated: bool
    contrast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What is drawn for each row, anew in every step, and from what.

    Attributes:
        strengths: range of the strength.
        alone: share of rows whose base prompt leaves the steering prompt out.
        negated: share of rows whose edits act at minus their strength, on prompts that leave it
            out, for the base LM's own answer (nulling of RePS, arXiv 2505.20809, in every kind).
        contrasted: share of rows that the contrastive term is measured on; never negated ones.
    """

    strengths: tuple[float, float] = (1.0, 1.0)
    alone: float = 0.0
    negated: float = 0.0
    contrasted: float = 1.0

    @classmethod
    def of(cls, loss: LossConfig) -> "Showing":
        """Return how rows are shown for what is minimised."""
        return cls(
            strengths=loss.strengths,
            alone=loss.alone,
            negated=loss.negated,
            contrasted=loss.contrast_share if loss.contrast else 0.0,
        )

    def draw(self, seed: int, step: int, rows: int) -> list[Shown]:
        """Return how each row of a step is shown; it follows from the seed and the step alone.

        Args:
            seed: of the run.
            step: which step.
            rows: how many it has, sorted by length, those of all processes together.
        """
        drawn = [np.random.default_rng([seed, step, stream]) for stream in (2, 3, 4)]
        strengths = drawn[0].uniform(*self.strengths, rows)
        alone = drawn[1].uniform(size=rows) < self.alone
        negated = (drawn[2].uniform(size=rows) < self.negated).tolist()
        weights = self._weights(negated, np.random.default_rng([seed, step, 5]))
        return [
            Shown(
                -float(strength) if undone else float(strength), bool(left or undone), undone, one
            )
            for strength, left, undone, one in zip(strengths, alone, negated, weights, strict=True)
        ]

    def _weights(self, negated: Sequence[bool], random: np.random.Generator) -> list[float]:
        """Return the weights of the contrastive term, on rows of all lengths.

        They are drawn, one from every stretch, so that no process has more of them than another in
        the long run.
        """
        free = [place for place, undone in enumerate(negated) if not undone]
        count = min(len(free), math.ceil(self.contrasted * len(negated)))
        weights = [0.0] * len(negated)
        for number in range(count):
            stretch = range(number * len(free) // count, (number + 1) * len(free) // count)
            weights[free[int(random.choice(stretch))]] = len(negated) / count
        return weights


AS_IT_IS = Showing()
"""Every row at strength 1 and contrasted, none alone or negated."""
