"""Faster matrix products on CPUs: frozen weights laid out once for oneDNN.

Decoding multiplies few rows with large weights. torch hands float32 products to MKL, which on
these skinny shapes reaches a third of what oneDNN reaches with weights packed beforehand (measured
in docs/performance.md). Packing costs a copy of the weights, so large models go without.
"""

import threading
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

PACK_LIMIT = 4 << 30
"""Bytes of weights above which nothing is packed."""

Signature = tuple[int, int, torch.dtype]
_by_model: WeakKeyDictionary[nn.Module, tuple[list[Signature], dict[int, Tensor]]] = (
    WeakKeyDictionary()
)
_by_weight: MutableMapping[Tensor, tuple[Signature, Tensor]] = WeakTensorKeyDictionary()
"""Models that share weights share what is packed of them; it goes when the weight goes."""
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
def packed_products(weights: dict[int, Tensor]) -> Generator[None]:
    """Use packed weights in the context; no gradients flow through such products."""
    if not weights:
        yield
        return
    with _PackedProducts(weights):
        yield


def pack(model: nn.Module) -> dict[int, Tensor]:
    """Packed weights by the identity of the parameter they come from.

    Each weight is packed once, however many models share it, and anew when it has changed. Empty
    where packing is not worthwhile: on other devices, for other types than float32 and bfloat16,
    and above `PACK_LIMIT`.
    """
    if not _worthwhile(model):
        return {}
    weights = [module.weight for module in model.modules() if type(module) is nn.Linear]
    signatures = [_signature(weight) for weight in weights]
    with _lock:
        held = _by_model.get(model)
        if held is None or held[0] != signatures:
            held = (signatures, {id(weight): _pack_weight(weight) for weight in weights})
            _by_model[model] = held
        return held[1]


def _signature(weight: Tensor) -> Signature:
    """Change whenever the weight does."""
    return weight.data_ptr(), weight._version, weight.dtype


def _pack_weight(weight: Tensor) -> Tensor:
    """Return the packed weight; the one made before where the weight is still the same."""
    held = _by_weight.get(weight)
    if held is None or held[0] != _signature(weight):
        with torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.data)
        held = _by_weight[weight] = (_signature(weight), packed)
    return held[1]


def _worthwhile(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    return (
        all(p.device.type == "cpu" and p.dtype == parameters[0].dtype for p in parameters)
        and parameters[0].dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and sum(p.numel() * p.element_size() for p in parameters) <= PACK_LIMIT
    )
