"""Run only the upper blocks of a base LM, from hidden states that are at hand.

The base LM's own forward runs, so masks, positions, rotary or linear biases, soft-caps and whatever
else a family has are its business, for however many rows it is given. It runs on a view of the
model (`hypersteer.lm.views`) in which the lower blocks are replaced by stand-ins that return the
given states; hooks on its upper blocks act in the view.
"""

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, TokenBatch, collate
from hypersteer.lm.checks import trial_rows
from hypersteer.lm.hooks import capture
from hypersteer.lm.views import StandIn, path_to, with_blocks

CLOSE = {torch.float32: 1e-3}
CLOSE_IN_HALF = 3e-2
"""Largest difference to the whole model's logits, as a share of the largest of them."""

TRIALS = 3
"""A model whose upper blocks could not be run alone so many times is not tried again."""

_views: WeakKeyDictionary[nn.ModuleList, dict[int, "UpperBlocks | None"]] = WeakKeyDictionary()
"""By blocks, since what is held does not refer to them."""
_tried: WeakKeyDictionary[nn.ModuleList, Counter[int]] = WeakKeyDictionary()
_lock = threading.Lock()


class UpperBlocks:
    """The base LM without its lower blocks; made by `upper_blocks`.

    Attributes:
        border: the site whose states are given: the output of the highest block left out.
        view: a base LM whose lower blocks return what `given` provides. Sites count as in the base
            LM: hooks at the highest stand-in's output see the given states.
    """

    def __init__(self, lm: BaseLM, path: list[str], rests: list["tuple | None"]) -> None:
        self.border = Site(len(rests) - 1)
        self._given = threading.local()
        stand_ins = [
            StandIn(block, partial(self._output, rest))
            for block, rest in zip(lm.blocks[: len(rests)], rests, strict=True)
        ]
        blocks = nn.ModuleList([*stand_ins, *lm.blocks[len(rests) :]])
        self.view = replace(lm, model=with_blocks(lm.model, path, blocks), blocks=blocks)

    @contextmanager
    def given(self, states: Tensor) -> Generator[None]:
        """Let the view's forward passes of this thread start from states [R, T, D]."""
        self._given.states = states
        try:
            yield
        finally:
            del self._given.states

    def _output(self, rest: tuple | None, *_args: Any, **_kwargs: Any) -> Any:
        """Return the given states, in the form that a block returns its own."""
        states = self._given.states
        return states if rest is None else (states, *rest)


def upper_blocks(lm: BaseLM, below: int) -> UpperBlocks | None:
    """Return the base LM without its lowest blocks; None where they cannot be left out.

    That is so where the model's forward is patched (spread over several devices), and where upper
    blocks need more from lower ones than hidden states (keys and values shared between layers, the
    embeddings). The latter is found out once, by running a small batch both ways.

    Args:
        lm: the base LM.
        below: number of blocks to leave out; with 0 there is nothing to leave out.
    """
    if not below:
        return None
    with _lock:
        held = _views.setdefault(lm.blocks, {})
        if below not in held:
            found, tried = _checked(lm, below), _tried.setdefault(lm.blocks, Counter())
            tried[below] += 1
            # What stood in the way (little memory, others' hooks) may be gone the next time.
            if found is None and tried[below] < TRIALS:
                return None
            held[below] = found
        return held[below]


def shared_below(site: Site) -> int:
    """Return how many of the lowest blocks do not see what is written at a site."""
    return site.layer + (site.kind == "residual")


def repeated(batch: TokenBatch, copies: int) -> TokenBatch:
    """Return the batch's rows several times over: row r of copy c is row `c * B + r`."""
    spans = type(batch.spans)(*(mask.repeat(copies, 1) for mask in batch.spans))
    return TokenBatch(batch.ids.repeat(copies, 1), spans)


@torch.no_grad()
def _checked(lm: BaseLM, below: int) -> UpperBlocks | None:
    path = path_to(lm.model, lm.blocks)
    if path is None:
        return None
    probe = _probe(lm)
    border = Site(below - 1)
    with capture(lm.blocks, [border]) as states:
        whole, rests = _logits_and_rests(lm, probe)
    upper = UpperBlocks(lm, path, rests[:below])
    twice = repeated(probe, 2)
    try:
        with upper.given(states[border].repeat(2, 1, 1)):
            found = upper.view.logits(twice)
    except Exception:  # whatever a block above misses, then the blocks below have to run
        return None
    real = twice.spans.real
    expected = whole.repeat(2, 1, 1)[real].float()
    limit = CLOSE.get(lm.dtype, CLOSE_IN_HALF) * float(expected.abs().max())
    return upper if float((found[real].float() - expected).abs().max()) <= limit else None


def _probe(lm: BaseLM) -> TokenBatch:
    """Two short rows of different lengths, whose ids differ."""
    rows = trial_rows(lm.vocab, (6, 4))
    return collate([PromptIds(ids, 0) for ids in rows], pad_id=lm.chat.pad_id).to(lm.device)


def _logits_and_rests(lm: BaseLM, probe: TokenBatch) -> tuple[Tensor, list[tuple | None]]:
    """Return the logits, and what each block returns beside states; None for a bare tensor."""
    rests: list[tuple | None] = []
    owner = threading.get_ident()  # other threads may run the model meanwhile

    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() != owner:
            return
        rests.append(None if isinstance(output, Tensor) else (None,) * (len(output) - 1))

    handles = [block.register_forward_hook(look) for block in lm.blocks]
    try:
        return lm.logits(probe), rests
    finally:
        for handle in handles:
            handle.remove()
