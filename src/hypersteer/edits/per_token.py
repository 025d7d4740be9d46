"""The per-token edit: states flow along a velocity field for as long as the strength says.

`dh/dt = v(h, t, c)` from 0 to the strength, in a few Euler steps (FLAS, arXiv 2605.05892). The
field belongs to the hypernetwork; an edit is what it reads of one steering prompt. So edits of this
kind act where their hypernetwork is, and are neither kept in files nor added up.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, plus
from hypersteer.edits.velocity import Velocity

NAME = "per-token"
STEPS = 3
"""Euler steps, whatever the strength (FLAS)."""


class PerToken:
    """Flows along one field; parameters `keys` and `values` [C, D] and `present` [C].

    Args:
        field: the field, in units of the states.
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
        sizes = self._sizes()
        first = states = hidden.float() / sizes
        stride = strength / STEPS
        for step in range(STEPS):
            velocity = self._field(
                states, step * stride, params["keys"], params["values"], params["present"]
            )
            states = states + stride[:, None, None] * velocity
        moved = (states - first) * sizes
        return plus(hidden, moved, mask, (strength != 0).to(torch.float32))
