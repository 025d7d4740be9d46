"""A device without float64, as Apple's is, for machines that have none."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten


class Single(Tensor):
    """A tensor on a device that refuses float64; what is made of it is there as well.

    `cpu()` and `to("cpu")` bring it to the processor, where there is float64.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = super().__torch_function__(func, types, args, given)
        if func is Tensor.cpu or (func is Tensor.to and "cpu" in (*args[1:], *given.values())):
            return result.as_subclass(Tensor)
        for one in tree_flatten(result)[0]:
            if isinstance(one, Single) and one.dtype == torch.float64:
                raise RuntimeError(f"{func} on a device that has no float64")
        return result


def single(tensor: Tensor) -> Tensor:
    """The tensor on that device."""
    return tensor.as_subclass(Single)
