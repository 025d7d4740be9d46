"""What a forward pass keeps for the backward pass, counted in bytes."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Kept:
    """Bytes of all storages kept, each counted once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        self._held: list[Tensor] = []  # so that no address is used again

    def take(self, tensor: Tensor) -> Tensor:
        self._held.append(tensor)
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._storages.pop(tensor.untyped_storage().data_ptr(), None)

    @property
    def total(self) -> int:
        return sum(self._storages.values())


@contextmanager
def saved_bytes(weights: Iterable[Tensor]) -> Generator[Kept]:
    """Count what is kept by what runs in the context, weights that are there anyway left out."""
    kept = Kept()
    with saved_tensors_hooks(kept.take, lambda tensor: tensor):
        yield kept
    kept.leave_out(weights)
