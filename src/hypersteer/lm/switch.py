"""What may turn the edits of a running batch on and off."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.lm.chat import Spans, TokenBatch
from hypersteer.lm.hooks import ReadWrite


@runtime_checkable
class Switch(Protocol):
    """Turns edits on and off, row by row, by what it reads as the batch runs.

    Attributes:
        rechecks: whether it may decide anew during the response.
    """

    rechecks: bool

    def start(self, copies: int, finished: Collection[int] = ()) -> None:
        """Begin a generation; see `hypersteer.conditions.gate.Gate`, which is one."""
        ...

    def look_ahead(self, batch: TokenBatch) -> None:
        """Read what lies above the edits, in a pass of its own, before the prefill."""
        ...

    def readers(
        self, spans: Spans | None, ids: Int[Tensor, "R 1"] | None = None
    ) -> list[tuple[Site, ReadWrite]]:
        """Return what is read in the next forward pass, before anything is written there."""
        ...

    def open(self, slot: int) -> Bool[Tensor, " R"]:
        """Return in which rows the edit that is the row's number `slot` acts."""
        ...

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order."""
        ...
