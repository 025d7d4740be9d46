"""Rows of a key-value cache: picked, put behind those of another one, and shortened.

Rows are padded on the left, so all of them end at the same place. Layers hold keys and values
[B, H, T, D_head], or only the last T of a sliding window, or states without tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from hypersteer.errors import ModelError
from hypersteer.lm.cache import RoomyLayer

FOREIGN = ("indexer_keys", "_quantized_keys")
"""What layers hold that are more than keys, values and states."""


def pick_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep these rows, by number and in this order; some may be taken several times.

    `reorder_cache` is what every kind of layer has, linear attention and convolutions included.
    """
    cache.reorder_cache(rows)  # type: ignore[arg-type]


def joined(lower: DynamicCache, upper: DynamicCache, below: int, rows: Tensor) -> DynamicCache:
    """Return one cache from the lowest layers of one and the others of another.

    Args:
        lower: cache of a pass up to a border; its rows are picked by number.
        upper: cache of the pass above it, which has as many rows as are picked.
        below: number of layers below the border.
        rows: which rows of `lower` to take, in order; some may be taken several times.
    """
    lower.layers = lower.layers[:below]
    pick_rows(lower, rows)
    upper.layers = [*lower.layers, *upper.layers[below:]]
    return upper


def add_rows(cache: DynamicCache, other: DynamicCache, length: int) -> None:
    """Put the rows of another cache behind those of the first, all padded to one length.

    Args:
        cache: takes them in.
        other: of the same model; it is of no use afterwards.
        length: tokens of the longer one.

    Raises:
        ModelError: if a layer is of a kind whose rows cannot be joined.
    """
    pairs: list[tuple[Any, Any]] = list(zip(cache.layers, other.layers, strict=True))
    for mine, theirs in pairs:
        if any(hasattr(mine, name) for name in FOREIGN):
            raise ModelError(
                f"rows cannot be added to a running batch of a model whose cache has layers of the "
                f"kind {type(mine).__name__}; answer them in a batch of their own"
            )
        _join_states(mine, theirs)
        if getattr(mine, "is_initialized", False):
            _join_keys(mine, theirs, length)


def crop_left(cache: DynamicCache, count: int) -> None:
    """Forget the oldest tokens, which are padding in all rows."""
    layers: list[Any] = list(cache.layers)
    for layer in layers:
        if not getattr(layer, "is_initialized", False):
            continue
        before = layer.get_seq_length()
        held = min(layer.keys.shape[-2], before - count)
        layer.keys, layer.values = (part[..., -held:, :] for part in (layer.keys, layer.values))
        _set_length(layer, before - count)


def _join_keys(mine: Any, theirs: Any, length: int) -> None:
    """Join keys and values; where the layer has a window, both keep its last tokens only."""
    if isinstance(mine, RoomyLayer):
        mine.join(theirs)
        return
    size = max(mine.keys.shape[-2], theirs.keys.shape[-2])
    for name in ("keys", "values"):
        parts = [getattr(layer, name) for layer in (mine, theirs)]
        padded = [F.pad(part, (0, 0, size - part.shape[-2], 0)) for part in parts]
        setattr(mine, name, torch.cat(padded))
    _set_length(mine, length)


def _set_length(layer: Any, length: int) -> None:
    """Tell a layer how many tokens it has seen, and that its keys are other ones."""
    if hasattr(layer, "cumulative_length"):
        layer.cumulative_length = length
    if hasattr(layer, "forget_room"):
        layer.forget_room()


def _join_states(mine: Any, theirs: Any) -> None:
    """Join states that have no tokens, of convolutions and linear attention."""
    for name in ("conv_states", "recurrent_states"):
        states = getattr(mine, name, None)
        if not isinstance(states, dict):
            continue
        for key, state in states.items():
            if isinstance(state, Tensor):
                states[key] = torch.cat([state, getattr(theirs, name)[key]])
