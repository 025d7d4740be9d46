"""What an edit keeps of the tokens before, where it depends on them; the cache of its own.

All rows end at the same place: shorter ones have padding in front. What stands there is never read.

Shapes: R running rows, T tokens that are new, A tokens in all, the new ones included.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

ROOM = 64
"""Tokens of room added where there is none: a step then copies nothing that is held."""


class Memory:
    """Tensors [R, A, ...] by name, and which of their tokens are there.

    Made before the first tokens of its rows. For each further pass `begin` says what comes, and
    `grown` takes in what is to be kept of it.
    """

    def __init__(self) -> None:
        self._real: Bool[Tensor, "R A"] | None = None
        self._held: dict[str, Tensor] = {}
        self._coming: Coming | None = None

    @property
    def coming(self) -> "Coming":
        """The tokens of the pass that was begun."""
        assert self._coming is not None
        return self._coming

    def begin(self, real: Bool[Tensor, "R T"]) -> None:
        """Let these tokens come next; `real` is false on padding, which is never read."""
        before = real[:, :0] if self._real is None else self._real
        self._real = torch.cat([before, real], 1)
        first = before.shape[1]
        places = torch.arange(self._real.shape[1], device=real.device)
        new = places[first:, None]
        # A token always reads itself, so that padding reads something and stays finite.
        readable = (self._real[:, None] & (places < new)) | (places == new)
        positions = (self._real.long().cumsum(1) - 1).clamp(min=0)
        self._coming = Coming(real, positions[:, first:], readable)

    def grown(self, name: str, new: Tensor) -> Tensor:
        """Take in what is kept of the coming tokens [R, T, ...]; return that of all [R, A, ...]."""
        assert self._real is not None
        held, every = self._held.get(name), self._real.shape[1]
        if held is None:  # whole rows begin: gradients flow, and one pass is often all there is
            self._held[name] = new
            return new
        before = every - new.shape[1]
        if held.shape[1] < every:
            room = new.new_empty(len(new), every + ROOM, *new.shape[2:])
            room[:, :before] = held[:, :before]
            self._held[name] = held = room
        held[:, before:every] = new
        return held[:, :every]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, in this order."""
        assert self._real is not None
        kept, every = list(rows), self._real.shape[1]
        self._real = self._real[kept]
        self._held = {name: held[kept, :every] for name, held in self._held.items()}
        self._crop()

    def extend(self, other: "Memory | None", before: int, after: int) -> None:
        """Take in the rows of another memory behind its own.

        Args:
            other: of edits of the same kind; None for rows that nothing is known of.
            before: rows in front of its own that nothing is known of.
            after: rows behind them, those of `other` or such that nothing is known of.
        """
        own, theirs = self._real, None if other is None else other._real
        assert own is not None
        self._real = _beside(own, theirs, before, after)
        for name, held in self._held.items():
            joining = None
            if other is not None and theirs is not None:
                joining = other._held[name][:, : theirs.shape[1]]
            self._held[name] = _beside(held[:, : own.shape[1]], joining, before, after, ROOM)
        self._crop()

    def _crop(self) -> None:
        """Give back the padding that stands in front of all rows."""
        assert self._real is not None
        spare = int(self._real.any(0).long().argmax()) if len(self._real) else 0
        self._real = self._real[:, spare:]
        self._held = {name: held[:, spare:] for name, held in self._held.items()}


class Coming(NamedTuple):
    """The tokens that a pass is about.

    Attributes:
        real: which of them are no padding.
        positions: counted from the row's first real token; 0 on padding.
        readable: which of all tokens so far each of them may read.
    """

    real: Bool[Tensor, "R T"]
    positions: Int[Tensor, "R T"]
    readable: Bool[Tensor, "R T A"]


def _beside(one: Tensor, other: Tensor | None, before: int, after: int, room: int = 0) -> Tensor:
    """Return the rows of both in one tensor [before + R + after, A + room, ...], all ending alike.

    Where a row is shorter, or there is none, are zeros: they are masked, but must be finite.
    """
    rows, size = len(one), max(one.shape[1], 0 if other is None else other.shape[1])
    made = one.new_zeros(before + rows + after, size + room, *one.shape[2:])
    made[before : before + rows, size - one.shape[1] : size] = one
    if other is not None:
        made[before + rows :, size - other.shape[1] : size] = other.to(one)
    return made
