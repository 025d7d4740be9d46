"""Two massive dimensions in a tiny model: hundreds of times as large as all others, and noisy."""

from contextlib import contextmanager

import torch
from torch import Tensor

from hypersteer.lm.base import BaseLM

PLACES, TIMES = (3, 17), 300.0
"""Which dimensions, and how many times the typical size of the others they get."""


def massive(hidden: Tensor, ids: Tensor) -> Tensor:
    """States [B, T, D] whose two dimensions are massive, by amounts that mean nothing.

    A quarter of the amount is drawn from the text and its tokens, so that it tells no topic.
    """
    typical = hidden.float().abs().median()
    whole = hidden.clone()
    for number, place in enumerate(PLACES):
        drawn = torch.sin(7.1 * ids + 13.7 * ids.sum(1, keepdim=True) + number)
        whole[..., place] = TIMES * typical * (1 + 0.25 * drawn) / (1 + number)
    return whole


@contextmanager
def massive_dimensions(lm: BaseLM):
    """Makes the outputs of all blocks of a base LM massive in two dimensions."""
    ids: list[Tensor] = []

    def look(_module, args):
        ids[:] = args[:1]

    def change(_module, _args, output):
        if isinstance(output, Tensor):
            return massive(output, ids[0])
        return (massive(output[0], ids[0]), *output[1:])

    hooks = [block.register_forward_hook(change) for block in lm.blocks]
    hooks.append(lm.embeddings.register_forward_pre_hook(look))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
