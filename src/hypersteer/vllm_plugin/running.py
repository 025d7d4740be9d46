"""What runs beside vLLM's model in a worker: edits made, put into the table, tokens pointed to it.

Nothing here imports vLLM: what a runner hands over is named in the arguments.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from hypersteer.vllm_plugin.making import Making, New
from hypersteer.vllm_plugin.table import Row, Table


class Running:
    """The steered requests of a worker whose runner moves requests between places (runner V1).

    A request's edits are made when it is first scheduled and stay until it is finished, so that one
    that is preempted, and computed again, is steered as before. It has a row of the table while it
    is scheduled.

    Attributes:
        made: requests whose edits were made so far.

    Args:
        table: of the edits in force.
        making: makes them.
    """

    def __init__(self, table: Table, making: Making) -> None:
        self._table, self._making = table, making
        self._held: dict[str, Row] = {}
        self._row_of: dict[str, int] = {}
        self._free = list(reversed(range(table.rows)))
        self.made = 0

    def begin(
        self, finished: Iterable[str], new: Sequence[tuple[str, New]], scheduled: Iterable[str]
    ) -> None:
        """Make ready for a step.

        Args:
            finished: requests that are over.
            new: steered ones that are scheduled for the first time.
            scheduled: all that this step computes tokens of.
        """
        for name in finished:
            self._held.pop(name, None)
            self._leave(name)
        names = [name for name, _ in new]
        if new:
            made = self._making.rows([one for _, one in new])
            self._held |= dict(zip(names, made, strict=True))
            self.made += len(new)
        wanted = [name for name in scheduled if name in self._held]
        for name in set(self._row_of) - set(wanted):
            self._leave(name)
        for name in wanted:
            if name not in self._row_of:
                self._row_of[name] = self._free.pop()
            elif name not in names:
                continue
            self._table.put(self._row_of[name], self._held[name])

    def point(self, names: Sequence[str], starts: np.ndarray, positions: Tensor) -> None:
        """Point the tokens of a forward pass to their requests' rows.

        Args:
            names: requests in the order of the batch.
            starts: [R + 1], where each one's tokens begin, and the last one's end.
            positions: of all tokens, each in its request.
        """
        none = self._table.rows
        rows = np.repeat([self._row_of.get(name, none) for name in names], np.diff(starts))
        self._table.point(torch.from_numpy(rows.astype(np.int64)), positions[: len(rows)])

    def rest(self) -> None:
        """Let whatever the model runs next be unsteered."""
        self._table.rest()

    def _leave(self, name: str) -> None:
        row = self._row_of.pop(name, None)
        if row is not None:
            self._free.append(row)


class Rows:
    """The steered requests of a worker whose runner gives each a number of its own (runner V2).

    The number is the row of the table; `none` is the row of padding and of all that is unsteered.

    Args:
        table: of the edits in force.
        making: makes them.
    """

    def __init__(self, table: Table, making: Making) -> None:
        self._table, self._making = table, making
        self._staged: dict[int, New] = {}
        self._row_of: dict[str, int] = {}

    def add(self, name: str, row: int, new: New | None) -> None:
        """Take in a request; its edits are made with those of all others in `write`."""
        self.remove(name)
        self._staged.pop(row, None)
        self._table.clear(row)
        if new is not None:
            self._row_of[name] = row
            self._staged[row] = new

    def remove(self, name: str) -> None:
        """Forget a request."""
        row = self._row_of.pop(name, None)
        if row is not None:
            self._staged.pop(row, None)
            self._table.clear(row)

    def write(self) -> None:
        """Make the edits of all requests taken in since, in one pass, and write their rows."""
        staged, self._staged = self._staged, {}
        if staged:
            made = self._making.rows(list(staged.values()))
            for row, held in zip(staged, made, strict=True):
                self._table.put(row, held)

    def point(self, numbers: Tensor, starts: Tensor, positions: Tensor, tokens: int) -> None:
        """Point the tokens of a forward pass to their requests' rows, on the device.

        Args:
            numbers: [R], each request's number (`InputBatch.idx_mapping`).
            starts: [R + 1 or more], where each one's tokens begin (`query_start_loc`).
            positions: [T or more], of each token in its request.
            tokens: T, padding left out.
        """
        ends = starts[1 : len(numbers) + 1].to(torch.int64)
        token = torch.arange(tokens, device=ends.device)
        batch = torch.searchsorted(ends, token, right=True).clamp(max=len(numbers) - 1)
        self._table.point(numbers.to(torch.int64)[batch], positions[:tokens])

    def rest(self) -> None:
        """Let whatever the model runs next be unsteered, as what is captured is."""
        self._table.rest()
