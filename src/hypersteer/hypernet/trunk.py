"""The trunk: an unfrozen copy of the base LM's first blocks, run by the base LM's own code.

No architecture is written anew: the trunk is the base LM's decoder class with fewer blocks, so
masks, rotary embeddings, soft-caps and expert layers come with it. It has no token embeddings of
its own; the frozen ones of the base LM are read outside.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from hypersteer.errors import ConfigError
from hypersteer.lm.recomputing import recomputed
from hypersteer.lm.skeleton import Shaped
from hypersteer.lm.views import StandIn, with_blocks


def build_trunk(lm: Shaped, count: int, *, pretrained: bool) -> nn.Module:
    """Return a trainable float32 decoder of `count` blocks with the base LM's architecture.

    It comes in the mode of use, as the base LM runs: nothing in it draws at random.

    Args:
        lm: the base LM.
        count: number N of blocks; the first N of the base LM.
        pretrained: whether to copy the base LM's weights; otherwise its own random initialisation.

    Raises:
        ConfigError: if the base LM has fewer blocks, or holds weights that cannot be copied.
    """
    if not 1 <= count <= lm.depth:
        raise ConfigError(f"hypernet.blocks {count} is not within 1..{lm.depth} of {lm.name}")
    decoder: Any = lm.model.get_decoder()
    config = truncated(decoder.config, lm.depth, count)
    trunk = type(decoder)._from_config(config, dtype=torch.float32)
    trunk.set_input_embeddings(nn.Identity())
    # Where the base LM has them: by number alone, other lists of a short trunk would pass for them.
    names = (name for name, module in decoder.named_modules() if module is lm.blocks)
    trunk.blocks_path = next(names)
    if pretrained:
        _copy(decoder, trunk, lm.name)
    return trunk.eval().to(lm.device, torch.float32).requires_grad_(True)


def trunk_blocks(trunk: Any) -> nn.ModuleList:
    """Return the decoder blocks of a trunk."""
    return trunk.get_submodule(trunk.blocks_path)


def recomputing_trunk(
    trunk: Any, within: Sequence[Callable[[], AbstractContextManager[None]]]
) -> nn.Module:
    """Return a view of the trunk whose blocks run again in the backward pass.

    Args:
        trunk: the trunk.
        within: for each block, makes the context that it runs in, both times.
    """
    blocks = nn.ModuleList(
        StandIn(block, recomputed(partial(_within, context, block)))
        for block, context in zip(trunk_blocks(trunk), within, strict=True)
    )
    return with_blocks(trunk, trunk.blocks_path.split("."), blocks)


def _within(
    context: Callable[[], AbstractContextManager[None]],
    block: nn.Module,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a block in a context that is made for it."""
    with context():
        return block(*args, **kwargs)


def truncated(config: Any, depth: int, count: int) -> Any:
    """Return the configuration with `count` blocks and no vocabulary to speak of.

    Lists with one entry per block (attention kinds and the like) are cut to length.
    """
    config = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:count])
    config.num_hidden_layers = count
    config.vocab_size = 8
    config.pad_token_id = None
    return config


def _copy(decoder: nn.Module, trunk: nn.Module, name: str) -> None:
    source = decoder.state_dict()
    wanted = trunk.state_dict()
    for key, value in wanted.items():
        if key not in source or source[key].shape != value.shape:
            raise ConfigError(
                f"the weights '{key}' of {name} cannot be copied (quantised, or its shorter kin "
                "has others); "
                "set hypernet.init to 'random' or load the base LM unquantised"
            )
    trunk.load_state_dict({key: source[key].float() for key in wanted})
