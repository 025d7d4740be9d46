"""Run only the blocks above a site, from hidden states that are at hand.

The base LM's own forward runs, so masks, rotary embeddings, soft-caps and whatever else a family
has are its business; but it runs on a view of the model in which the blocks up to the site are
replaced by stand-ins that return the given states. The view is a handful of shallow copies of
modules around the same weights and the same upper blocks. The base LM itself is never touched, so
other threads may use it meanwhile, and hooks placed on it act in the view as well.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.edits import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch
from hypersteer.lm.hooks import at_sites, capture
from hypersteer.lm.likelihood import response_losses


class Above:
    """Losses of responses from the states at a site, changed on the way.

    Where the lower blocks cannot be left out, they run each time (without gradient, since nothing
    below the site needs one): at the sub-layer sites, whose block adds what came from below; in a
    model whose forward is patched (spread over several devices); and where upper blocks need more
    from lower ones than hidden states (keys and values shared between layers). The last is found
    out by running `probe` both ways.

    Attributes:
        skips: whether the blocks up to the site are left out.

    Args:
        lm: the base LM.
        site: where the states are.
        probe: any small batch.
    """

    def __init__(self, lm: BaseLM, site: Site, probe: TokenBatch) -> None:
        self._lm, self._site = lm, site
        self._given: Tensor | None = None
        self._view: BaseLM | None = None
        if site.kind == "residual":
            self._view = self._checked_view(probe)
        self.skips = self._view is not None

    def losses(
        self, batch: TokenBatch, states: Tensor | None, change: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, " B"]:
        """Mean cross-entropy of each row's response.

        Args:
            batch: B prompts with their responses, on the model's device.
            states: hidden states [B, T, D] at the site; not looked at unless `skips`.
            change: hidden states [B, T, D] -> what the blocks above get instead.
        """
        if self._view is None or states is None:
            with at_sites(self._lm.blocks, [(self._site, change)]):
                return response_losses(self._lm, batch)[0]
        self._given = change(states)
        try:
            return response_losses(self._view, batch)[0]
        finally:
            self._given = None

    def _checked_view(self, probe: TokenBatch) -> BaseLM | None:
        path = _path(self._lm.model, self._lm.blocks)
        if path is None:
            return None
        with torch.no_grad(), capture(self._lm.blocks, [self._site]) as states:
            whole, rests = _logits_and_rests(self._lm, probe)
        stand_ins = [
            _StandIn(block, rest, lambda: self._given)
            for block, rest in zip(self._lm.blocks[: self._site.layer + 1], rests, strict=False)
        ]
        blocks = nn.ModuleList([*stand_ins, *self._lm.blocks[self._site.layer + 1 :]])
        view = replace(self._lm, model=_with_blocks(self._lm.model, path, blocks))
        self._given = states[self._site]
        try:
            with torch.no_grad():
                upper = view.logits(probe)
        except Exception:  # whatever a block above misses, then the blocks below have to run
            return None
        finally:
            self._given = None
        real = probe.spans.real
        scale = float(whole[real].abs().max())
        close = torch.allclose(upper[real], whole[real], rtol=0, atol=1e-3 * scale)
        return view if close else None


class _StandIn(nn.Module):
    """Takes the place of a block: passes for it, and returns the given states."""

    def __init__(self, block: nn.Module, rest: tuple | None, given: Callable[[], Any]) -> None:
        super().__init__()
        self._block = (block,)  # in a tuple, it is no child
        self._rest = rest
        self._states = given

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._block[0], name)  # such as the block's attention kind

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """The given states, in the form that the block returns its own."""
        states = self._states()
        return states if self._rest is None else (states, *self._rest)


def _logits_and_rests(lm: BaseLM, probe: TokenBatch) -> tuple[Tensor, list[tuple | None]]:
    """Logits, and what each block returns beside states; None where it returns a bare tensor."""
    rests: list[tuple | None] = []

    def look(_module: nn.Module, _args: Any, output: Any) -> None:
        rests.append(None if isinstance(output, Tensor) else (None,) * (len(output) - 1))

    handles = [block.register_forward_hook(look) for block in lm.blocks]
    try:
        return lm.logits(probe), rests
    finally:
        for handle in handles:
            handle.remove()


def _path(model: nn.Module, blocks: nn.ModuleList) -> list[str] | None:
    """Names that lead from the model to its blocks; None if a forward on the way is patched."""
    dotted = next((name for name, module in model.named_modules() if module is blocks), None)
    if not dotted:
        return None
    path = dotted.split(".")
    on_the_way = [model.get_submodule(".".join(path[:end])) for end in range(len(path))]
    return None if any("forward" in vars(module) for module in on_the_way) else path


def _with_blocks(module: nn.Module, path: list[str], blocks: nn.ModuleList) -> Any:
    """A shallow copy of a module that has other blocks at the end of the path."""
    name, *rest = path
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    child = module._modules[name]
    assert child is not None
    twin._modules[name] = _with_blocks(child, rest, blocks) if rest else blocks
    return twin
