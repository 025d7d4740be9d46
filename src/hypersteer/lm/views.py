"""Views of a model: shallow copies of its modules around the same weights, with other blocks.

The model's own forward runs in a view, so masks, positions and whatever else a family has stay its
business. The model itself is never touched, so other threads may use it meanwhile.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn


class StandIn(nn.Module):
    """Takes the place of a block: passes for it, and runs something else.

    Args:
        block: whose place it takes.
        run: what runs instead; takes what the block takes and returns what the block returns.
    """

    def __init__(self, block: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self._block = (block,)  # in a tuple, it is no child
        self._run = run

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._block[0], name)  # such as the block's attention kind

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run what stands in for the block."""
        return self._run(*args, **kwargs)


def path_to(model: nn.Module, blocks: nn.ModuleList) -> list[str] | None:
    """Return names that lead from a model to its blocks; None if a forward there is patched.

    A patched forward (of a model that is spread over several devices) is bound to the model, and
    would run that in place of a view.
    """
    dotted = next((name for name, module in model.named_modules() if module is blocks), None)
    if not dotted:
        return None
    path = dotted.split(".")
    on_the_way = [model.get_submodule(".".join(path[:end])) for end in range(len(path))]
    return None if any("forward" in vars(module) for module in on_the_way) else path


def with_blocks(module: nn.Module, path: list[str], blocks: nn.ModuleList) -> Any:
    """Return a shallow copy of a module that has other blocks at the end of the path."""
    name, *rest = path
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    child = module._modules[name]
    assert child is not None
    twin._modules[name] = with_blocks(child, rest, blocks) if rest else blocks
    return twin
