"""A base LM that may be changed: modules of its own, around shared or copied weights."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, ModelError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import check_site, site_module
from hypersteer.lm.chat import TokenBatch, collate
from hypersteer.lm.hooks import at_output

HEIGHTS = (5 / 26, 10 / 26, 15 / 26, 20 / 26)
"""Where AxBench's adapters act: blocks 5, 10, 15 and 20 of the 26 of Gemma-2-2B."""

PROBE = "Hello"
"""A prompt that shows what a module's output is."""


def copy_model(lm: BaseLM, *, copy_weights: bool = False) -> BaseLM:
    """The same model with modules of its own, so that changing them leaves the base LM alone.

    Args:
        lm: the base LM.
        copy_weights: whether weights and buffers are copied as well; if not, they are the base
            LM's own, and the copy_model takes next to no memory.
    """
    shared = () if copy_weights else (*lm.model.parameters(), *lm.model.buffers())
    model = copy.deepcopy(lm.model, {id(tensor): tensor for tensor in shared})
    name = module_name(lm, lm.blocks)
    return replace(lm, model=model, blocks=cast(nn.ModuleList, model.get_submodule(name)))


def module_name(lm: BaseLM, module: nn.Module) -> str:
    """Dotted name of a module of the model."""
    return next(name for name, one in lm.model.named_modules() if one is module)


def adapted_layers(lm: BaseLM, layers: Sequence[int]) -> list[int]:
    """The given layers, checked and ascending; without any, those at AxBench's heights.

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


@torch.no_grad()
def output_projections(lm: BaseLM, layers: Sequence[int]) -> list[str]:
    """Dotted names of the linear modules at the end of the blocks' attention (`o_proj`).

    They are told by what they do, not by their names: of the modules with a weight matrix, the one
    whose output is that of the whole sub-layer.

    Raises:
        ModelError: if a block has none.
    """
    names: list[str] = []
    batch = collate([lm.chat.prompt(PROBE)], pad_id=lm.chat.pad_id).to(lm.device)
    for layer in layers:
        attention = site_module(lm.blocks, Site(layer, "attention"))
        linear = [module for module in attention.modules() if _is_linear(module)]
        whole, *others = (_output(lm, batch, layer, one) for one in (attention, *linear))
        found = [one for one, out in zip(linear, others, strict=True) if _equal(out, whole)]
        if not found:
            raise ModelError(
                f"block {layer} of {lm.name} has no linear module at the end of its attention; "
                "choose other layers"
            )
        names.append(module_name(lm, found[-1]))
    return names


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not list(module.children())


def _output(lm: BaseLM, batch: TokenBatch, layer: int, module: nn.Module) -> Tensor | None:
    """The module's output on a batch; None if it does not run."""
    seen: list[Tensor] = []
    with at_output(module, seen.append):
        lm.states(batch, Site(layer))
    return seen[-1] if seen else None


def _equal(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)
