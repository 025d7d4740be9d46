"""What many texts begin with, run once: their own tokens then see its keys and values.

A chat template puts the same tokens before every text, mostly more of them than a short text has.
Only attention goes on from there as if they were run together; linear attention begins anew with
every prompt, so a base LM that has it shares nothing.
Shapes: B rows, T tokens, P shared ones, D width.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.cache import holds_attention_alone, new_cache
from hypersteer.lm.chat import PromptIds, Spans, TokenBatch, collate, common


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
        goes_on = holds_attention_alone(self._cache)
        self.tokens = min(shared, *(prompt.prefix for prompt in prompts)) if goes_on else 0
        if self.tokens:
            start = collate([PromptIds(first[: self.tokens], self.tokens)], pad_id=lm.chat.pad_id)
            lm.states(start.to(lm.device), self._top, cache=self._cache)

    def rest(self, batch: TokenBatch) -> TokenBatch:
        """Return what of a batch of whole rows, padded on the right, is still to be run."""
        spans = Spans(*(mask[:, self.tokens :] for mask in batch.spans))
        return TokenBatch(batch.ids[:, self.tokens :], spans)

    def go_on(self, batch: TokenBatch) -> None:
        """Run the rest of a batch up to the block; the hooks in place see the rest only."""
        if not self.tokens:
            self._lm.states(batch, self._top)
            return
        cache, rows = deepcopy(self._cache), torch.zeros_like(batch.ids[:, 0])
        cache.reorder_cache(rows)  # type: ignore[arg-type]
        whole = {
            "attention_mask": batch.spans.real.long(),
            "position_ids": batch.positions[:, self.tokens :],
        }
        self._lm.states(self.rest(batch), self._top, cache=cache, **whole)


def beginning_of(lm: BaseLM, batch: TokenBatch, top: int) -> Beginning | None:
    """Return what the rows of a batch begin with, run up to a block; None where it is no gain.

    That is one row alone, or rows that are padded on the left.
    """
    if len(batch.ids) < 2 or not bool(batch.spans.real[:, 0].all()):
        return None
    prefixes = batch.spans.prefix.sum(1).tolist()
    rows = zip(batch.ids.tolist(), prefixes, strict=True)
    return Beginning(lm, [PromptIds(ids, prefix) for ids, prefix in rows], top)
