"""Gradient checkpointing: blocks keep their inputs only, and run again in the backward pass.

Memory then holds one state [B, T, D] per block, and the activations of one block at a time; a step
costs one more forward pass of these blocks (Chen et al. 2016, arXiv 1604.06174). torch's own
`checkpoint` does it, in a view of the model, which itself stays as it is.

Hooks at a block's output act outside of what runs again, and so once. Hooks inside a block are
long gone when it runs again, so a block that something is written inside of must not be among them.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hypersteer.errors import ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.views import StandIn, path_to, with_blocks


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run`, of which nothing is kept for the backward pass but what goes into it."""

    def once_more(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, **kwargs)

    return once_more


def recomputing(lm: BaseLM, numbers: Collection[int]) -> BaseLM:
    """Return the base LM with blocks that run again in the backward pass.

    Args:
        lm: the base LM, or a view of it.
        numbers: which blocks; nothing may be written inside of them.

    Raises:
        ModelError: if it has no view, since it is spread over several devices.
    """
    path = path_to(lm.model, lm.blocks)
    if path is None:
        raise ModelError(
            f"{lm.name} is spread over several devices, so its blocks cannot run again in the "
            "backward pass; leave out gradient checkpointing, or base_lm.device_map"
        )
    blocks = nn.ModuleList(
        StandIn(block, recomputed(block)) if number in numbers else block
        for number, block in enumerate(lm.blocks)
    )
    return replace(lm, model=with_blocks(lm.model, path, blocks), blocks=blocks)
