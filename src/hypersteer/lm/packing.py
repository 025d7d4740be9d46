"""Faster matrix products on CPUs: frozen weights laid out once for oneDNN.

Decoding multiplies few rows with large weights. torch hands float32 products to MKL, which on
these skinny shapes reaches a third of what oneDNN reaches with weights packed beforehand (measured
in docs/performance.md). Packing costs a copy of the weights, so large models go without.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PACK_LIMIT = 4 << 30
"""Bytes of weights above which nothing is packed."""

_packed: WeakKeyDictionary[nn.Module, dict[int, Tensor]] = WeakKeyDictionary()
_lock = threading.Lock()


class _PackedProducts(TorchFunctionMode):
    """Runs `linear` with a packed weight where there is one; modes belong to their own thread."""

    def __init__(self, weights: dict[int, Tensor]) -> None:
        super().__init__()
        self._weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is nn.functional.linear and (packed := self._weights.get(id(args[1]))) is not None:
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return torch.ops.mkldnn._linear_pointwise(args[0], packed, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


@contextmanager
def packed_products(model: nn.Module) -> Generator[None]:
    """Use packed weights in the context, where the model lies on a CPU and is not too large.

    No gradients flow through packed products: use it for inference only.
    """
    weights = _pack(model) if _worthwhile(model) else {}
    if not weights:
        yield
        return
    with _PackedProducts(weights):
        yield


def _worthwhile(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    return (
        all(p.device.type == "cpu" and p.dtype == parameters[0].dtype for p in parameters)
        and parameters[0].dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and sum(p.numel() * p.element_size() for p in parameters) <= PACK_LIMIT
    )


def _pack(model: nn.Module) -> dict[int, Tensor]:
    """Packed weights by the identity of the parameter they come from; made on first use."""
    with _lock:
        if model not in _packed:
            with torch.no_grad():
                _packed[model] = {
                    id(module.weight): torch.ops.mkldnn._reorder_linear_weight(module.weight.data)
                    for module in model.modules()
                    if type(module) is nn.Linear
                }
        return _packed[model]
