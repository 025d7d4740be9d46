"""The one mechanism for reading and writing hidden states: hooks held by context managers.

Every hook fires only in the thread that placed it, so that two threads may share one base LM, and
in a backward pass that runs blocks again (gradient checkpointing), which may be in another thread.
It is removed exactly, also after an exception.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.blocks import site_module

ReadWrite = Callable[[Tensor], Tensor | None]
"""Takes hidden states [B, T, D]; returns what replaces them, or None to leave them."""


class _Owners:
    """The threads that have hooks in place, each as often as it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[int] = Counter()

    @contextmanager
    def holding(self) -> Generator[int]:
        """Count the current thread while the context lasts; gives its number."""
        owner = threading.get_ident()
        with self._lock:
            self._counts[owner] += 1
        try:
            yield owner
        finally:
            with self._lock:
                self._counts[owner] -= 1
                if not self._counts[owner]:
                    del self._counts[owner]

    def serves(self, owner: int) -> bool:
        """Return whether what runs now runs for the owner.

        Raises:
            SteeringError: in a backward pass of another thread, if several threads have hooks.
        """
        current = threading.get_ident()
        if current == owner:
            return True
        # Autograd runs a backward pass on a device in a thread of its own, which has no hooks.
        if current in self._counts or torch._C._current_graph_task_id() == -1:
            return False
        if len(self._counts) > 1:
            raise SteeringError(
                f"{len(self._counts)} threads edit a model while a backward pass runs its blocks "
                "again, so it cannot be told whose edits count; train in one thread, or without "
                "gradient checkpointing"
            )
        return True


_OWNERS = _Owners()


def at_output(module: nn.Module, function: ReadWrite) -> AbstractContextManager[None]:
    """Call `function` on the module's output, or its first output, while the context lasts."""

    def first(output: Any) -> Any:
        if isinstance(output, Tensor):
            return function(output)
        changed = function(output[0])
        return None if changed is None else (changed, *output[1:])

    return at_whole_output(module, first)


@contextmanager
def at_whole_output(module: nn.Module, function: Callable[[Any], Any]) -> Generator[None]:
    """Call `function` on the module's whole output, of any type, while the context lasts.

    What it returns takes the output's place, unless it is None.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return function(output) if _OWNERS.serves(owner) else None

    with _OWNERS.holding() as owner:
        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def at_input(
    module: nn.Module, function: Callable[[tuple, dict], tuple[tuple, dict]]
) -> Generator[None]:
    """Pass the module's arguments through `function` while the context lasts."""

    # torch leaves `kwargs` out when another thread removes this hook just before it is called.
    def hook(
        _module: nn.Module, args: tuple, kwargs: dict | None = None
    ) -> tuple[tuple, dict] | None:
        if kwargs is None or not _OWNERS.serves(owner):
            return None
        return function(args, kwargs)

    with _OWNERS.holding() as owner:
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def at_sites(blocks: nn.ModuleList, functions: Iterable[tuple[Site, ReadWrite]]) -> Generator[None]:
    """Call each function on the hidden states of its site while the context lasts.

    Functions at one site run in the given order. All sites are checked before any hook is placed.
    """
    placed = [(site_module(blocks, site), function) for site, function in functions]
    with ExitStack() as stack:
        for module, function in placed:
            stack.enter_context(at_output(module, function))
        yield


@contextmanager
def capture(
    blocks: nn.ModuleList, sites: Sequence[Site], *, stop: bool = False
) -> Generator[dict[Site, Tensor]]:
    """Collect the hidden states [B, T, D] of the sites from the forward passes in the context.

    With `stop`, the forward pass ends (and so does the context) when all sites have been seen.
    """
    states: dict[Site, Tensor] = {}

    def keeper(site: Site) -> ReadWrite:
        def keep(hidden: Tensor) -> None:
            states[site] = hidden
            if stop and len(states) == len(sites):
                raise _SeenAll

        return keep

    with at_sites(blocks, [(site, keeper(site)) for site in sites]), suppress(_SeenAll):
        yield states


class _SeenAll(BaseException):
    """Ends a forward pass that has nothing more to show.

    No `Exception`, after which torch looks through the module's hooks once more, and fails where
    another thread places or removes one meanwhile.
    """


@contextmanager
def head_at(head: nn.Module, wanted: Tensor) -> Generator[None]:
    """Let the vocabulary head see only the tokens marked in `wanted` [B, T], as one row [1, N, D].

    The model's own forward still runs, so soft-capping and scaling of logits stay its business.
    """

    def gather(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden = args[0]
        picked = wanted.to(hidden.device).flatten().nonzero().squeeze(1)
        return (torch.index_select(hidden.flatten(0, 1), 0, picked)[None], *args[1:]), kwargs

    with at_input(head, gather):
        yield
