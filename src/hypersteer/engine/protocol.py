"""What an engine is: a batch of rows that come and go, each with its own edits and settings."""

from collections.abc import Collection, Sequence
from typing import Literal, Protocol, runtime_checkable

from hypersteer.engine.decoding import Decoding
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.writers import Writer

Ending = Literal["stop", "length", "failed"]
"""Why a row has ended: by itself (end of turn, stop string), at its most tokens, or by an error
that an engine keeps to that row."""


@runtime_checkable
class Engine(Protocol):
    """Generates token by token for all of its rows at once; rows may be added at any step.

    A row has the same tokens whatever other rows run beside it. A new engine is a class with these
    members; `hypersteer.answering` takes it as `engine=`.
    """

    def __init__(self, lm: BaseLM) -> None:
        """Return an empty batch of a base LM."""
        ...

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that still run."""
        ...

    def add(
        self,
        prompts: Sequence[PromptIds],
        writers: Sequence[Writer],
        decodings: Sequence[Decoding],
        *,
        strengths: Sequence[float] | None = None,
        told: Sequence[float] | None = None,
    ) -> list[int]:
        """Take in rows; they run from the next step on.

        Args:
            prompts: B tokenised prompts.
            writers: edits in force, made for these B rows.
            decodings: how to decode each row, its own seed among it.
            strengths: answer every prompt at each of these S strengths, which multiply the writers'
                own: row r at strength s is the new row `s * B + r`, so there are S times as many
                rows, and `decodings` has one for each.
            told: the writers' own strength in each of the B rows, for messages; by default 1.

        Returns:
            numbers of the new rows, never used before.
        """
        ...

    def step(self) -> dict[int, int]:
        """Run all rows one token further; the new token of each row that still runs.

        The end of turn is not among them; the token that completes a stop string is.

        Raises:
            SteeringError: if the base LM's numbers are not finite.
        """
        ...

    def drop(self, rows: Collection[int]) -> None:
        """Forget rows, finished or not."""
        ...

    def ending(self, row: int) -> Ending | None:
        """Return why a row has ended; None while it runs, or if it was dropped."""
        ...
