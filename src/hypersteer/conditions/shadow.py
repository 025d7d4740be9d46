"""Rows of a generation, run once more without its edits, for conditions that lie above these.

Shapes: R rows, T tokens, D width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.cache import holds_attention_alone, new_cache
from hypersteer.lm.chat import TokenBatch
from hypersteer.lm.hooks import ReadWrite, at_sites

Readers = Sequence[tuple[Site, ReadWrite]]


class Shadow:
    """The blocks of the base LM up to one, with keys and values of their own.

    It reads what was written under edits as the base LM alone would: the prompt, and the answer's
    tokens as far as they are chosen. These run when they are wanted, all at once.

    Attributes:
        places: of its rows among those of the generation.

    Args:
        lm: the base LM.
        batch: the prompts of some rows.
        top: the highest block that is read.
        readers: what reads them.
    """

    def __init__(self, lm: BaseLM, batch: TokenBatch, top: int, readers: Readers) -> None:
        self.places: list[int] = []
        self._lm, self._top, self._cache = lm, Site(top), new_cache(lm.model)
        self._mask, self._positions = batch.spans.real.long(), batch.positions
        self._batch, self._waiting = batch, batch.ids[:, :0]
        self._run(batch.ids, readers)

    def keep(self, rows: Sequence[int], places: Sequence[int]) -> None:
        """Forget all rows but these, by their numbers here, some of them several times.

        Args:
            rows: the numbers.
            places: theirs among the rows of the generation.
        """
        index = torch.tensor(rows, device=self._mask.device)
        self.places = list(places)
        self._cache.reorder_cache(index)  # type: ignore[arg-type]
        self._mask, self._positions = self._mask[index], self._positions[index]
        self._waiting = self._waiting[index]

    def add(self, ids: Int[Tensor, "R 1"]) -> None:
        """Take in the newest token of each row of the generation."""
        self._waiting = torch.cat([self._waiting, ids[self.places]], 1)

    def read(self, readers: Readers) -> None:
        """Run the tokens that wait; linear attention takes them one by one."""
        several = holds_attention_alone(self._cache)
        for ids in [self._waiting] if several else self._waiting.split(1, 1):
            ones = torch.ones_like(ids)
            self._mask = torch.cat([self._mask, ones], 1)
            self._positions = self._positions[:, -1:] + ones.cumsum(1)
            self._run(ids, readers)
        self._waiting = self._waiting[:, :0]

    def _run(self, ids: Tensor, readers: Readers) -> None:
        given = {"attention_mask": self._mask, "position_ids": self._positions}
        with at_sites(self._lm.blocks, readers):
            batch = self._batch._replace(ids=ids)
            self._lm.states(batch, self._top, cache=self._cache, **given)
