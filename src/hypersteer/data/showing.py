"""How the rows of a step are shown: at what strength, the steering prompt said or not, undone."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Shown(NamedTuple):
    """How one row is shown.

    Attributes:
        strength: of its edits; below 0 where they are to undo what the steering prompt says.
        alone: whether the base prompt leaves the steering prompt out, where rows say it.
        negated: whether its edits are to undo.
    """

    strength: float
    alone: bool
    negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What is drawn for each row, anew in every step, and from what.

    Attributes:
        strengths: range of the strength.
        alone: share of rows whose base prompt leaves the steering prompt out.
        negated: share of rows whose edits act at minus their strength, on prompts that leave it
            out, for the base LM's own answer (nulling of RePS, arXiv 2505.20809, in every kind).
    """

    strengths: tuple[float, float] = (1.0, 1.0)
    alone: float = 0.0
    negated: float = 0.0

    def draw(self, seed: int, step: int, rows: int) -> list[Shown]:
        """Return how each row of a step is shown; it follows from the seed and the step alone."""
        drawn = [np.random.default_rng([seed, step, stream]) for stream in (2, 3, 4)]
        strengths = drawn[0].uniform(*self.strengths, rows)
        alone = drawn[1].uniform(size=rows) < self.alone
        negated = drawn[2].uniform(size=rows) < self.negated
        return [
            Shown(-float(strength) if undone else float(strength), bool(left or undone), undone)
            for strength, left, undone in zip(strengths, alone, negated.tolist(), strict=True)
        ]


AS_IT_IS = Showing()
"""Every row at strength 1, none alone or negated."""
