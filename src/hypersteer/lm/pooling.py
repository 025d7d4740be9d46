"""Hidden states pooled over tokens: read in running passes, or in a pass of their own."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.beginning import Beginning
from hypersteer.lm.chat import Spans, TokenBatch
from hypersteer.lm.hooks import ReadWrite, at_sites

TokenPooling = Literal["turn", "prompt", "all", "last", "response"]


def pool_mask(spans: Spans, pooling: TokenPooling) -> Bool[Tensor, "B T"]:
    """Mark the tokens that are averaged; never padding.

    Args:
        spans: what each token is.
        pooling: `turn`, the user's last message with what the template puts behind it; the whole
            `prompt` without the chat prefix; `all` of prefix and prompt; the `last` token of the
            prompt; or the `response`.
    """
    if pooling == "all":
        return spans.prefix | spans.prompt
    if pooling == "last":
        last = spans.prompt.long().cumsum(1) == spans.prompt.sum(1, keepdim=True)
        return spans.prompt & last
    return {"turn": spans.turn, "prompt": spans.prompt, "response": spans.response}[pooling]


def masked_sum(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Sum over each row's marked states, float32, whatever the others hold."""
    mask = mask.to(hidden.device)
    return hidden.where(mask[..., None], 0).sum(1, dtype=torch.float32)


def run_to(
    lm: BaseLM,
    batch: TokenBatch,
    readers: Sequence[tuple[Site, ReadWrite]],
    beginning: Beginning | None = None,
) -> None:
    """Run a batch up to the highest of the residual sites that are read.

    Args:
        lm: the base LM.
        batch: whole rows.
        readers: what is read; of rows whose beginning was run before, only the rest.
        beginning: what all rows begin with, run up to that site.
    """
    with at_sites(lm.blocks, readers):
        if beginning is None:
            lm.states(batch, Site(max(site.layer for site, _ in readers)))
        else:
            beginning.go_on(batch)


@torch.no_grad()
def pooled_states(
    lm: BaseLM,
    batch: TokenBatch,
    layers: Sequence[int],
    pooling: TokenPooling,
    beginning: Beginning | None = None,
) -> Float[Tensor, "B L D"]:
    """Return the mean states at the outputs of several blocks, read in one pass.

    Args:
        lm: the base LM.
        batch: tokens and spans, on the model's device; each row has tokens to average.
        layers: L blocks.
        pooling: see `pool_mask`.
        beginning: what all rows begin with, run up to the highest of the blocks, if nothing of it
            is averaged.
    """
    read = batch if beginning is None else beginning.rest(batch)
    mask = pool_mask(read.spans, pooling)
    sums: dict[int, Tensor] = {}

    def keep(layer: int) -> ReadWrite:
        return lambda hidden: sums.__setitem__(layer, masked_sum(hidden, mask).to(mask.device))

    readers = [(Site(layer), keep(layer)) for layer in dict.fromkeys(layers)]
    run_to(lm, batch, readers, beginning)
    return torch.stack([sums[layer] for layer in layers], 1) / mask.sum(1)[:, None, None]
