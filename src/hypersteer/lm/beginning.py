"""What many texts begin with, run once: their own tokens then see its keys and values.

A chat template puts the same tokens before every text, mostly more of them than a short text has.
Only attention goes on from there as if they were run together; linear attention begins anew with
every prompt, so a base LM that has it shares nothing.
Shapes: B rows, T tokens, P shared ones, D width.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.cache import RoomyLayer, new_cache
from hypersteer.lm.chat import PromptIds, Spans, TokenBatch, collate, common

ATTENTION = (RoomyLayer, DynamicSlidingWindowLayer)
"""What layers of a cache are that hold keys and values alone."""


class Beginning:
    """The first tokens of many rows, run up to a block.

    Attributes:
        tokens: P, how many they are; each row has more. 0 where nothing is shared.

    Args:
        lm: the base LM.
        prompts: the rows' prompts.
        top: the highest block that will run.
    """

    @torch.no_grad()
    def __init__(self, lm: BaseLM, prompts: Sequence[PromptIds], top: int) -> None:
        first = prompts[0].ids
        shared = min(common(first, prompt.ids) for prompt in prompts)
        self._lm, self._top, self._cache = lm, Site(top), new_cache(lm.model)
        goes_on = all(type(layer) in ATTENTION for layer in self._cache.layers)
        self.tokens = min(shared, *(prompt.prefix for prompt in prompts)) if goes_on else 0
        if self.tokens:
            start = collate([PromptIds(first[: self.tokens], self.tokens)], pad_id=lm.chat.pad_id)
            lm.states(start.to(lm.device), self._top, cache=self._cache)

    def go_on(self, batch: TokenBatch) -> TokenBatch:
        """Run the rest of rows up to the block, under whatever hooks are in place.

        Args:
            batch: whole rows, padded on the right.

        Returns:
            The rest of the batch, [B, T - P]: what the hooks saw.
        """
        if not self.tokens:
            self._lm.states(batch, self._top)
            return batch
        cache, rows = deepcopy(self._cache), torch.zeros_like(batch.ids[:, 0])
        cache.reorder_cache(rows)  # type: ignore[arg-type]
        spans = Spans(*(mask[:, self.tokens :] for mask in batch.spans))
        rest = TokenBatch(batch.ids[:, self.tokens :], spans)
        whole = {
            "attention_mask": batch.spans.real.long(),
            "position_ids": batch.positions[:, self.tokens :],
        }
        self._lm.states(rest, self._top, cache=cache, **whole)
        return rest
