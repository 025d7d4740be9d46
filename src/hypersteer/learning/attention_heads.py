"""Attention heads of any base LM: their output projection, and what they put out.

A head's output is its slice of what the attention's output projection reads. The projection is
found by watching it: it is the module inside the attention whose output is the attention's.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.learning.corpus import CorpusText, batch_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.blocks import sublayer
from hypersteer.lm.chat import collate, length_batches
from hypersteer.lm.hooks import ReadWrite, at_input, at_output

Arguments = Callable[[tuple, dict], tuple[tuple, dict]]
"""Takes a module's arguments; returns those it is called with."""


class Heads(NamedTuple):
    """The attention heads of a base LM.

    Attributes:
        projections: of each of L blocks, the module that maps H heads' outputs to the width.
        count: H.
        width: of one head's output, W.
    """

    projections: list[nn.Module]
    count: int
    width: int


class Projection(NamedTuple):
    """The linear module at the end of a block's attention (`o_proj` in many models).

    Attributes:
        module: the module.
        name: its dotted name in the model.
        inputs: width of what it reads.
    """

    module: nn.Module
    name: str
    inputs: int


@torch.no_grad()
def find_projections(lm: BaseLM, layers: Sequence[int]) -> list[Projection | None]:
    """Find the output projection of each layer's attention, by one short forward pass.

    It is told by what it does, not by its name: of the modules with a weight matrix, the last one
    whose output is that of the whole sub-layer; None where there is no such module.
    """
    attentions = [sublayer(lm.blocks[layer], "attention") for layer in layers]
    candidates = [[one for one in whole.modules() if _is_linear(one)] for whole in attentions]
    read: dict[nn.Module, int] = {}
    written: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for module in dict.fromkeys([*attentions, *(one for own in candidates for one in own)]):
            stack.enter_context(at_input(module, _width_keeper(module, read)))
            stack.enter_context(at_output(module, _output_keeper(module, written)))
        batch = collate([lm.chat.prompt("1")], pad_id=lm.chat.pad_id).to(lm.device)
        lm.states(batch, Site(max(layers)))
    names = {module: name for name, module in lm.model.named_modules()}
    found: list[Projection | None] = []
    for whole, own in zip(attentions, candidates, strict=True):
        last = [one for one in own if _same(written.get(one), written.get(whole))][-1:]
        found.append(Projection(last[0], names[last[0]], read.get(last[0], 0)) if last else None)
    return found


def output_projections(lm: BaseLM, layers: Sequence[int]) -> list[str]:
    """Return the dotted names of the output projections of the layers' attention.

    Raises:
        ModelError: if a block has none.
    """
    names: list[str] = []
    for layer, found in zip(layers, find_projections(lm, layers), strict=True):
        if found is None:
            raise ModelError(
                f"block {layer} of {lm.name} has no linear module at the end of its attention; "
                "choose other layers"
            )
        names.append(found.name)
    return names


def find_heads(lm: BaseLM) -> Heads:
    """Find the attention heads of every block by its output projection.

    Raises:
        ModelError: if a block has none, or what it reads cannot be told apart by heads.
    """
    count = int(lm.model.config.get_text_config().num_attention_heads)
    projections: list[Projection] = []
    for block, found in zip(lm.blocks, find_projections(lm, range(lm.depth)), strict=True):
        if found is None or not found.inputs or found.inputs % count:
            raise ModelError(
                f"{type(block).__name__} has no output projection of {count} attention heads that "
                "can be told by its structure; use a method that acts at a site"
            )
        projections.append(found)
    widths = {found.inputs // count for found in projections}
    if len(widths) != 1:
        raise ModelError(
            f"the attention heads of {lm.name} have widths {sorted(widths)}; heads of one width "
            "are expected, so use a method that acts at a site"
        )
    return Heads([found.module for found in projections], count, widths.pop())


@torch.no_grad()
def read_heads(
    lm: BaseLM,
    heads: Heads,
    texts: Sequence[CorpusText],
    pool: Callable[[Tensor, CorpusText], Tensor],
    batch_tokens: int,
) -> list[Float[Tensor, "heads W"]]:
    """Read the outputs of all L times H heads, block by block, for each text.

    Args:
        lm: the base LM.
        heads: from `find_heads`.
        texts: with responses.
        pool: states [T, H * W] of a text's tokens and the text -> what stands for it [H * W].
        batch_tokens: most tokens of a forward pass, padding included.
    """
    found: dict[int, Tensor] = {}
    for part in length_batches([text.size for text in texts], tokens=batch_tokens):
        chosen = [texts[number] for number in part]
        seen: list[Tensor] = []
        with ExitStack() as stack:
            for module in heads.projections:
                stack.enter_context(at_input(module, _pooling(chosen, pool, seen)))
            lm.states(batch_of(lm, chosen), Site(lm.depth - 1))
        whole = torch.stack(seen, 1).view(len(part), -1, heads.width)
        found.update(zip(part, whole, strict=True))
    return [found[number] for number in range(len(texts))]


@torch.no_grad()
def through(module: nn.Module, shift: Float[Tensor, "B I"]) -> Float[Tensor, "B D"]:
    """Return what a shift of the projection's input adds to its output; exact, as it is affine."""
    weight = next(module.parameters())
    moved = shift.to(weight.device)
    moved = moved.to(weight.dtype) if weight.is_floating_point() else moved
    return (module(moved) - module(torch.zeros_like(moved))).float()


def _is_linear(module: nn.Module) -> bool:
    """Return whether it has a weight matrix of its own and no children."""
    weight = next(module.parameters(), None)
    return weight is not None and weight.ndim == 2 and not list(module.children())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    return one.shape == other.shape and torch.equal(one, other)


def _width_keeper(module: nn.Module, into: dict[nn.Module, int]) -> Arguments:
    def keep(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args and isinstance(args[0], Tensor):
            into[module] = args[0].shape[-1]
        return args, kwargs

    return keep


def _output_keeper(module: nn.Module, into: dict[nn.Module, Tensor]) -> ReadWrite:
    def keep(output: Tensor) -> None:
        into[module] = output

    return keep


def _pooling(
    texts: Sequence[CorpusText], pool: Callable[[Tensor, CorpusText], Tensor], into: list[Tensor]
) -> Arguments:
    """Return a hook that keeps what stands for each text; blocks are called in order."""

    def keep(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        rows = [pool(states[: t.size], t) for states, t in zip(args[0], texts, strict=True)]
        into.append(torch.stack(rows).float().cpu())
        return args, kwargs

    return keep
