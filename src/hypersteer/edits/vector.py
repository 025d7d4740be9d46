"""The steering vector: `h -> h + strength * v`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, check_names
from hypersteer.errors import SteeringError
from hypersteer.tensor_files import real_tensor


class Vector:
    """One vector [D] per edit, in units of the hidden states it is added to."""

    name: ClassVar[str] = "vector"
    added: ClassVar[tuple[str, ...]] = ("vector",)

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states plus `strength * vector` on the marked tokens."""
        delta = (strength[:, None] * params["vector"]).to(hidden.dtype)
        return hidden + delta[:, None] * mask[..., None].to(hidden.dtype)

    def check(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `hypersteer.edits.kinds.EditKind.check`."""
        check_names(params, ("vector",), self.name)
        vector = real_tensor(params["vector"], "a steering vector")
        if vector.ndim != 1:
            raise SteeringError(f"a steering vector has shape [D], not {list(vector.shape)}")
        vector = vector.detach().to("cpu", torch.float32, copy=True)
        if not bool(torch.isfinite(vector).all()):
            raise SteeringError("the steering vector holds NaN or infinite values; make it anew")
        return {"vector": vector}

    def width(self, params: Params) -> int:
        """Width D."""
        return params["vector"].shape[-1]

    def scaled(self, params: Params, factor: float) -> dict[str, Tensor]:
        """Return the vector times the factor."""
        return {"vector": params["vector"] * factor}

    def summed(self, one: Params, other: Params) -> dict[str, Tensor]:
        """Return the sum of the vectors."""
        return {"vector": one["vector"] + other["vector"]}

    def shapes(self, width: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return one vector; it has no rank."""
        del rank
        return {"vector": (width,)}

    def in_units(self, params: Params, unit: Tensor, excess: Tensor) -> dict[str, Tensor]:
        """Return the vectors times the unit."""
        del excess
        return {"vector": params["vector"] * unit}


VECTOR = Vector()
