"""The trunk: an unfrozen copy of the base LM's first blocks, run by the base LM's own code.

No architecture is written anew: the trunk is the base LM's decoder class with fewer blocks, so
masks, rotary embeddings, soft-caps and expert layers come with it. It has no token embeddings of
its own; the frozen ones of the base LM are read outside.
"""

import copy
from typing import Any

import torch
from torch import nn

from hypersteer.errors import ConfigError
from hypersteer.lm.base import BaseLM


def build_trunk(lm: BaseLM, count: int, *, pretrained: bool) -> nn.Module:
    """Return a trainable float32 decoder of `count` blocks with the base LM's architecture.

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
    return trunk.to(lm.device, torch.float32).requires_grad_(True)


def trunk_blocks(trunk: Any) -> nn.ModuleList:
    """Return the decoder blocks of a trunk."""
    return trunk.get_submodule(trunk.blocks_path)


def truncated(config: Any, depth: int, count: int) -> Any:
    """Return the configuration with `count` blocks, no vocabulary to speak of, and no dropout.

    Lists with one entry per block (attention kinds and the like) are cut to length.
    """
    config = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:count])
        elif ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
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
