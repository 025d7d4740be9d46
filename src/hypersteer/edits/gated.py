"""The gated low-rank edit, `h -> h + strength * sum_r s(g_r h + c_r) (v_r h + b_r) u_r`.

Each of R directions `up` is written as far as a gate opens, the logistic function s of what `gate`
reads of the very state, times a latent that `down` reads. With a latent of 1 and an open gate it is
a steering vector; a gate lets it act on some tokens and not on others, and the latents make it a
small layer that is written for one steering prompt.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, check_names, latents, plus
from hypersteer.edits.low_rank import checked_directions

NAMES = ("up", "down", "gate", "bias", "gate_bias")


class Gated:
    """R directions; parameters `up`, `down` and `gate` [R, D], `bias` and `gate_bias` [R]."""

    name: ClassVar[str] = "gated"
    added: ClassVar[tuple[str, ...]] = ("up",)

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states plus what is written, on the marked tokens; float32 inside."""
        states = hidden.float()
        # Directions that fill up a row of fewer ones are zeros, and write nothing.
        read = latents(states, params["down"]) + params["bias"][:, None]
        gates = latents(states, params["gate"]) + params["gate_bias"][:, None]
        return plus(hidden, (read * gates.sigmoid()) @ params["up"], mask, strength)

    def check(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `hypersteer.edits.kinds.EditKind.check`."""
        check_names(params, NAMES, self.name)
        return checked_directions(params, NAMES[:3], NAMES[3:], self.name)

    def width(self, params: Params) -> int:
        """Width D."""
        return params["up"].shape[-1]

    def scaled(self, params: Params, factor: float) -> dict[str, Tensor]:
        """Return what is written times the factor."""
        return {**params, "up": params["up"] * factor}

    def summed(self, one: Params, other: Params) -> dict[str, Tensor]:
        """Return the directions of both, all of which read the states as they were."""
        return {name: torch.cat([one[name], other[name]]) for name in NAMES}

    def shapes(self, width: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return directions to write, to read and to gate by, and their biases."""
        directions = dict.fromkeys(NAMES[:3], (rank, width))
        return {**directions, "bias": (rank,), "gate_bias": (rank,)}

    def in_units(self, params: Params, unit: Tensor, excess: Tensor) -> dict[str, Tensor]:
        """Written directions times the unit, read ones such that what they give stays near 1.

        Latents start from 1, so that a network which writes small numbers at first writes small
        vectors, and not products of two small numbers, from which it would hardly learn.
        """
        reach = unit * excess * params["down"].shape[-1] ** 0.5
        read = {name: params[name] / reach for name in ("down", "gate")}
        return {**params, **read, "up": params["up"] * unit, "bias": params["bias"] + 1.0}


GATED = Gated()
