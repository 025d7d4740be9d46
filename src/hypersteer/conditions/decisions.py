"""What gates decided, row by row, in a form that is easy to print and to keep."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One check of one row.

    Attributes:
        token: response tokens that had been read; 0 is the check of the prompt.
        scores: score of every condition.
        conditions: those that have fired.
        edits: the edits that act from here on.
    """

    token: int
    scores: dict[str, float]
    conditions: tuple[str, ...]
    edits: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The check as plain JSON values."""
        return {
            "token": self.token,
            "scores": {name: round(score, 6) for name, score in self.scores.items()},
            "conditions": list(self.conditions),
            "edits": list(self.edits),
        }


@dataclass(slots=True)
class Decisions:
    """A log that a generation fills: `steerer.generate(..., decisions=log)`.

    Attributes:
        rows: the checks of every row of the request, oldest first; none for a row without rules.
    """

    rows: list[list[Check]] = field(default_factory=list)

    def restart(self, count: int) -> None:
        """Empty the log for a request of `count` rows."""
        self.rows = [[] for _ in range(count)]
