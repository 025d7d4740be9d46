"""A copy of a base LM that may be changed, and the layers where adapters change it."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import check_site

HEIGHTS = (5 / 26, 10 / 26, 15 / 26, 20 / 26)
"""Where AxBench's adapters act: blocks 5, 10, 15 and 20 of the 26 of Gemma-2-2B."""


def copy_model(lm: BaseLM, *, copy_weights: bool = False) -> BaseLM:
    """Copy a model, so that its modules may be changed while the base LM stays as it is.

    Args:
        lm: the base LM.
        copy_weights: whether weights and buffers are copied as well; if not, they are the base
            LM's own, and the copy takes next to no memory.
    """
    shared = () if copy_weights else (*lm.model.parameters(), *lm.model.buffers())
    model = copy.deepcopy(lm.model, {id(tensor): tensor for tensor in shared})
    name = module_name(lm, lm.blocks)
    return replace(lm, model=model, blocks=cast(nn.ModuleList, model.get_submodule(name)))


def module_name(lm: BaseLM, module: nn.Module) -> str:
    """Return the dotted name of a module of the model."""
    return next(name for name, one in lm.model.named_modules() if one is module)


def adapted_layers(lm: BaseLM, layers: Sequence[int]) -> list[int]:
    """Return the given layers, checked and ascending; without any, those at AxBench's heights.

    Raises:
        ModelError: if a layer is out of range.
        ConfigError: if one is named twice.
    """
    if not layers:
        return sorted({min(round(height * lm.depth), lm.depth - 1) for height in HEIGHTS})
    found = sorted(check_site(Site(layer), lm.depth).layer for layer in layers)
    if len(set(found)) != len(found):
        raise ConfigError(f"layers {list(layers)} name a block twice")
    return found
