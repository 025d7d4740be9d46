"""What a hypernetwork attends to: its own tokens, and the base LM's states in cross-attention.

Weights are seen on a copy of the hypernetwork whose trunk computes attention step by step
(`eager`), since faster implementations never hold them. The hypernetwork itself stays as it is.

Shapes: C tokens that the trunk reads, T tokens of the base prompt, K keys (C or T), H heads.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.hypernet.cross_attention import CrossAttention
from hypersteer.hypernet.maker import EditMaker
from hypersteer.hypernet.network import Hypernet
from hypersteer.hypernet.trunk import trunk_blocks
from hypersteer.lm.blocks import sublayer
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.hooks import at_input, at_whole_output
from hypersteer.steering import Steerer

Kind = Literal["self", "cross"]
NAMES: dict[Kind, str] = {"self": "self-attention", "cross": "cross-attention"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maps:
    """Attention while an edit is made.

    Attributes:
        tokens: what the trunk reads, as text: its queries, and the keys of self-attention.
        base: the base prompt's tokens as text: the keys of cross-attention; empty without it.
        own: self-attention by layer; None for a block that has none, or does not show it.
        cross: cross-attention by layer; empty for variants without it.
    """

    tokens: list[str]
    base: list[str]
    own: list[Float[Tensor, "H C C"] | None]
    cross: list[Float[Tensor, "H C T"]]

    def of(self, kind: Kind) -> dict[int, Float[Tensor, "H C K"]]:
        """Return the maps of a kind by layer, of layers that have one."""
        found: Sequence[Tensor | None] = self.own if kind == "self" else self.cross
        return {layer: one for layer, one in enumerate(found) if one is not None}

    def keys(self, kind: Kind) -> list[str]:
        """Return the tokens that are attended to."""
        return self.tokens if kind == "self" else self.base


class AttentionReader:
    """Reads the attention maps of a checkpoint's hypernetwork.

    Args:
        steerer: the checkpoint; its hypernetwork is copied.
    """

    def __init__(self, steerer: Steerer) -> None:
        self._lm, self._card = steerer.lm, steerer.card
        self._hypernet: Hypernet = copy.deepcopy(steerer.hypernet)
        cast(Any, self._hypernet.trunk).set_attn_implementation("eager")
        self._maker = EditMaker(steerer.lm, self._hypernet, steerer.card)

    def read(self, text: str, prompt: str) -> Maps:
        """Return what is attended to while the edit of a steering prompt is made.

        Args:
            text: the steering prompt.
            prompt: the base prompt; the no-context variant does not read it.

        Raises:
            SteeringError: if they do not fit the context window.
        """
        said = self._lm.chat.prompt(prompt)
        self._lm.check_length(len(said.ids), "a base prompt")
        self._maker.check(text, said)
        blocks = trunk_blocks(self._hypernet.trunk)
        own: list[Tensor | None] = [None] * len(blocks)
        cross: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer, block in enumerate(blocks):
                keep = partial(_keep_own, own, layer)
                stack.enter_context(at_whole_output(sublayer(block, "attention"), keep))
            for layer, module in enumerate(self._hypernet.cross):
                look = partial(_keep_cross, cross, layer, cast(CrossAttention, module))
                stack.enter_context(at_input(module, look))
            self._maker.params([text], [said])
        return Maps(
            tokens=self._tokens(text, said),
            base=self._texts(said.ids[said.prefix :]) if cross else [],
            own=own,
            cross=[cross[layer] for layer in sorted(cross)],
        )

    def _tokens(self, text: str, prompt: PromptIds) -> list[str]:
        """Return what the trunk reads, as `hypernet.maker.write_edits` puts it together."""
        ids = [*self._lm.chat.lead, *self._lm.chat.text(text)]
        if self._card.hypernet.variant == "in-context":
            ids += prompt.ids[prompt.prefix :]
        return self._texts(ids)

    def _texts(self, ids: Sequence[int]) -> list[str]:
        return [str(self._lm.tokenizer.decode([one])) for one in ids]


def _keep_own(found: list[Tensor | None], layer: int, output: Any) -> None:
    """Keep the weights [H, C, C] that an attention module returns beside its output."""
    if isinstance(output, tuple) and len(output) > 1:
        weights = output[1]
        if isinstance(weights, Tensor) and weights.ndim == 4:
            found[layer] = weights[0].float().cpu()


def _keep_cross(
    found: dict[int, Tensor], layer: int, module: CrossAttention, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    """Keep the weights [H, C, T] by which cross-attention is about to read."""
    found[layer] = module.weights(*args, **kwargs)[0].float().cpu()
    return args, kwargs


def top_shares(weights: Float[Tensor, "H C K"], top: int) -> Float[Tensor, " H"]:
    """Return the share of each head's attention that the `top` tokens most attended to take.

    Queries count together: one that all of them read stands out, and keys that differ from query to
    query do not.
    """
    read = weights.mean(1)
    return read.topk(min(top, read.shape[-1])).values.sum(-1)


def uniform_share(weights: Float[Tensor, "H C K"], top: int) -> float:
    """Return what `top_shares` gives where every query reads all that it can see alike."""
    seen = (weights.amax(0) > 0).float()
    even = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    return float(top_shares(even[None], top)[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """How much of the attention the tokens most attended to take, on average over readings.

    Attributes:
        kind: of attention.
        layers: which layers, ascending.
        heads: share by layer and head.
        uniform: the same where attention is even.
        favourites: the tokens most attended to over all readings, heads and layers, with the share
            of readings, heads and layers in which each came first.
    """

    kind: Kind
    layers: list[int]
    heads: Float[Tensor, "L H"]
    uniform: float
    favourites: list[tuple[str, float]]


def measure(kind: Kind, readings: list[Maps], top: int) -> Shares:
    """Return how concentrated the attention of some readings is.

    Args:
        kind: of attention; every reading has it.
        readings: at least one.
        top: tokens whose share is told.
    """
    layers = sorted(readings[0].of(kind))
    heads, even = [], []
    firsts: Counter[str] = Counter()
    for maps in readings:
        found, keys = maps.of(kind), maps.keys(kind)
        heads.append(torch.stack([top_shares(found[layer], top) for layer in layers]))
        even.append(uniform_share(found[layers[0]], top))
        for layer in layers:
            firsts.update(keys[place] for place in found[layer].mean(1).argmax(-1).tolist())
    total = firsts.total()
    return Shares(
        kind=kind,
        layers=layers,
        heads=torch.stack(heads).mean(0),
        uniform=sum(even) / len(even),
        favourites=[(token, count / total) for token, count in firsts.most_common(5)],
    )
