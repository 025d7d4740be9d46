"""The low-rank edit: reads few directions and writes few, `h -> h + sum_r c_r(h) u_r`.

With z = V h + b read along the rows of `down`, each latent z_r counts where it is above its
`threshold` (a JumpReLU; minus infinity lets all pass), and writes along `up` in one of two ways:

- it is added: `strength * z_r * u_r`. LoReFT's `R^T (W h + b - R h)` (Wu et al. 2024, arXiv
  2404.03592, equation 2) is this with `up = R`, `down = W - R`: see `loreft`;
- where it is `clamped`, it is set to `strength * target` instead, by `(strength * target - z_r) *
  u_r`, which for a feature of a sparse autoencoder is decoding the changed latents and adding the
  reconstruction error back: see `clamped_feature`. With `raise_only` it is never lowered.

At strength 0 the state stays as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, check_names, latents, plus
from hypersteer.errors import SteeringError
from hypersteer.tensor_files import real_tensor

NAMES = ("up", "down", "bias", "threshold", "target", "clamped", "raise_only")


class LowRank:
    """R directions read and written; parameters `up` and `down` [R, D], the others [R].

    `bias` is 0, `threshold` minus infinity, `target` 0, `clamped` and `raise_only` 0 (else 1) where
    they are not given.
    """

    name: ClassVar[str] = "low-rank"
    added: ClassVar[tuple[str, ...]] = ("up",)

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states plus what the latents write, on the marked tokens; float32 inside."""
        up, down = params["up"], params["down"]
        read = latents(hidden.float(), down) + params["bias"][:, None]
        # A row of fewer directions than others is filled with zeros, whose `up` writes nothing.
        seen = torch.where(read > params["threshold"][:, None], read, 0.0)
        factor = strength[:, None, None]
        change = factor * params["target"][:, None] - seen
        change = torch.where(params["raise_only"][:, None] > 0, change.clamp(min=0), change)
        written = torch.where(params["clamped"][:, None] > 0, change, factor * seen)
        # What is written has the strength in it already.
        return plus(hidden, written @ up, mask, (strength != 0).to(strength))

    def check(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `hypersteer.edits.kinds.EditKind.check`."""
        if not {"up", "down"} <= set(params):
            check_names(params, NAMES, self.name)
        up = checked_tensor(params["up"], "up", self.name, 2)
        given = _filled({**params, "up": up})
        check_names(given, NAMES, self.name)
        return checked_directions(given, NAMES[:2], NAMES[2:], self.name)

    def width(self, params: Params) -> int:
        """Width D."""
        return params["up"].shape[-1]

    def scaled(self, params: Params, factor: float) -> dict[str, Tensor]:
        """Return what is added times the factor; clamped latents go to `factor` times their target.

        Raises:
            SteeringError: for the negative or 0 of a clamped latent, which is another one.
        """
        clamped = params["clamped"] > 0
        if factor <= 0 and bool(clamped.any()):
            raise SteeringError(
                f"a clamped feature cannot be multiplied by {factor:g}; use it at that strength"
            )
        up = torch.where(clamped[:, None], params["up"], params["up"] * factor)
        target = torch.where(clamped, params["target"] * factor, params["target"])
        return {**params, "up": up, "target": target}

    def summed(self, one: Params, other: Params) -> dict[str, Tensor]:
        """Return the directions of both, all of which read the states as they were."""
        return {name: torch.cat([one[name], other[name]]) for name in NAMES}

    def shapes(self, width: int, rank: int) -> dict[str, tuple[int, ...]]:
        """Return directions to write and to read, and the biases of what is read."""
        return {"up": (rank, width), "down": (rank, width), "bias": (rank,)}

    def in_units(self, params: Params, unit: Tensor, excess: Tensor) -> dict[str, Tensor]:
        """Written directions times the unit, read ones such that latents of states stay near 1."""
        del excess
        reach = unit * params["down"].shape[-1] ** 0.5
        return _filled({**params, "up": params["up"] * unit, "down": params["down"] / reach})


def loreft(
    rotation: Float[Tensor, "*B R D"], source: Float[Tensor, "*B R D"], bias: Float[Tensor, "*B R"]
) -> dict[str, Tensor]:
    """Give the parameters of LoReFT's edit `h + R^T (W h + b - R h)`, or of a batch of them.

    Args:
        rotation: R, whose rows are orthonormal.
        source: W.
        bias: b.
    """
    return _filled({"up": rotation, "down": source - rotation, "bias": bias})


def clamped_feature(
    encoder: Float[Tensor, "*B D"],
    bias: Float[Tensor, "*B"],
    threshold: Float[Tensor, "*B"],
    decoder: Float[Tensor, "*B D"],
    activation: Float[Tensor, "*B"],
    *,
    raise_only: bool = False,
) -> dict[str, Tensor]:
    """Give the parameters of the edit that clamps a feature of a sparse autoencoder, or of a batch.

    Args:
        encoder: what the feature reads.
        bias: added to that.
        threshold: at and below which it is silent; 0 for a ReLU.
        decoder: what it writes.
        activation: where it is set to at strength 1.
        raise_only: never lower it.
    """
    bias, threshold, activation = (one[..., None] for one in (bias, threshold, activation))
    given = {
        "up": decoder[..., None, :],
        "down": encoder[..., None, :],
        "bias": bias,
        "threshold": threshold,
        "target": activation,
        "clamped": torch.ones_like(bias),
    }
    if raise_only:
        given["raise_only"] = torch.ones_like(bias)
    return _filled(given)


def _filled(params: Params) -> dict[str, Tensor]:
    """Give all parameters, those that are not given at values that change nothing."""
    like = params["up"][..., 0]
    blank = {name: torch.zeros_like(like) for name in NAMES[2:]}
    return {**blank, "threshold": torch.full_like(like, -torch.inf), **params}


def checked_directions(
    params: Mapping[str, Any], directions: Sequence[str], numbers: Sequence[str], kind: str
) -> dict[str, Tensor]:
    """Return parameters that hold R directions, as they are kept.

    Args:
        params: all of them.
        directions: names of those of shape [R, D]; the first gives R and D.
        numbers: names of those of shape [R].
        kind: of the edit.

    Raises:
        SteeringError: if one is no tensor of such a shape, or not finite.
    """
    held = {name: checked_tensor(params[name], name, kind, 2) for name in directions}
    held |= {name: checked_tensor(params[name], name, kind, 1) for name in numbers}
    first = held[directions[0]]
    for name, value in held.items():
        if value.shape != (first.shape if name in directions else first.shape[:1]):
            raise SteeringError(
                f"'{name}' of a {kind} edit has shape {list(value.shape)}, which does not go "
                f"with {list(first.shape)} of '{directions[0]}' [rank, width]"
            )
    return held


def checked_tensor(value: Any, name: str, kind: str, dimensions: int) -> Tensor:
    """Return a parameter of an edit as it is kept.

    Raises:
        SteeringError: if it is none, has another number of dimensions, or is not finite; a
            `threshold` may be minus infinity.
    """
    held = real_tensor(value, f"'{name}' of a {kind} edit")
    if held.ndim != dimensions:
        raise SteeringError(
            f"'{name}' of a {kind} edit has shape {list(held.shape)}, not that of "
            f"{dimensions} dimensions"
        )
    held = held.detach().to("cpu", torch.float32, copy=True)
    finite = held.isfinite() if name != "threshold" else held.isfinite() | held.isneginf()
    if not bool(finite.all()):
        raise SteeringError(f"'{name}' of a {kind} edit holds NaN or infinite values")
    return held


LOW_RANK = LowRank()
