"""The per-token edit: states flow along a velocity field for as long as the strength says.

`dh/dt = v(h, t, c)` from 0 to the strength, in a few Euler steps (FLAS, arXiv 2605.05892). The
field belongs to the hypernetwork; an edit is what it reads of one steering prompt. So edits of this
kind act where their hypernetwork is, and are neither kept in files nor added up.

A field with self-attention reads all real tokens of a row up to the present one. All of them flow,
those too that no edit touches: a mask says only where the end of the flow is written. So what is
read does not depend on scopes, or on rules that turn an edit on and off.

Shapes: B rows, T tokens, C tokens of a steering prompt, D width.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, plus
from hypersteer.edits.memory import Memory
from hypersteer.edits.velocity import Velocity

NAME = "per-token"
STEPS = 3
"""Euler steps, whatever the strength (FLAS)."""


class PerToken:
    """Flows along one field; parameters `keys` and `values` [C, D] and `present` [C].

    Args:
        field: the field, in units of the states; it looks at one state alone.
        sizes: gives the size [D] of each dimension of the states, which is the unit there.
    """

    name: ClassVar[str] = NAME
    added: ClassVar[tuple[str, ...]] = ()

    def __init__(self, field: Velocity, sizes: Callable[[], Tensor]) -> None:
        self._field, self._sizes = field, sizes

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states at the end of the flow, on the marked tokens; float32 inside.

        A negative strength flows the other way.
        """
        moved = _flow(self._field, self._sizes(), hidden.float(), params, strength)
        return plus(hidden, moved, mask, (strength != 0).to(torch.float32))


class PerTokenRecalling:
    """Flows along one field with self-attention; see `PerToken`."""

    name: ClassVar[str] = NAME
    added: ClassVar[tuple[str, ...]] = ()

    def __init__(self, field: Velocity, sizes: Callable[[], Tensor]) -> None:
        self._field, self._sizes = field, sizes

    def recall(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
        memory: Memory,
    ) -> Float[Tensor, "B T D"]:
        """Return the states at the end of the flow, on the marked tokens; float32 inside.

        Each Euler step has keys and values of its own, since states are elsewhere in each.
        """
        # Whatever a model leaves on padding is multiplied by 0 there, so it must be finite.
        states = hidden.float().masked_fill(~memory.coming.real[..., None], 0.0)
        moved = _flow(self._field, self._sizes(), states, params, strength, memory)
        return plus(hidden, moved, mask, (strength != 0).to(torch.float32))


def _flow(
    field: Velocity,
    sizes: Float[Tensor, " D"],
    hidden: Float[Tensor, "B T D"],
    params: Params,
    strength: Float[Tensor, " B"],
    memory: Memory | None = None,
) -> Float[Tensor, "B T D"]:
    """Return how far each state flows."""
    first = states = hidden / sizes
    stride = strength / STEPS
    read = params["keys"], params["values"], params["present"]
    for step in range(STEPS):
        velocity = field(states, step * stride, *read, memory, f"step {step}")
        states = states + stride[:, None, None] * velocity
    return (states - first) * sizes
