"""Numbers that a dtype cannot hold, told in one line that names strength, dtype and the way out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hypersteer.edits.kinds import Acts, Params
from hypersteer.errors import SteeringError

WAY_OUT = "lower the strength, or load the base LM in a dtype of wider range (float32 is widest)"


def check_range(strengths: Sequence[float]) -> None:
    """Refuse strengths that no edit can be multiplied by.

    Raises:
        SteeringError: naming the first that is beyond float32.
    """
    for strength in strengths:
        if abs(strength) > torch.finfo(torch.float32).max:
            raise SteeringError(f"strength {strength:g} is beyond float32; try values from 0 to 2")


def check_added(kind: Acts, params: Params, strength: Tensor, dtype: torch.dtype) -> None:
    """Refuse what would be added, strength included, where it is not finite in the states' dtype.

    Squares must be finite too, in float32: that is where norms take them.

    Args:
        kind: of the edits.
        params: [B, ...] of B rows.
        strength: [B].
        dtype: of the hidden states.

    Raises:
        SteeringError: naming the first such row's strength.
    """
    for name in kind.added:
        each = params[name].flatten(1) * strength[:, None]
        fits = each.to(dtype).isfinite().all(-1) & each.float().square().sum(-1).isfinite()
        if not bool(fits.all()):
            told = float(strength[fits.tolist().index(False)])
            raise SteeringError(
                f"at strength {told:g} the edit is beyond what {name_of(dtype)} can hold; {WAY_OUT}"
            )


def no_logits(strength: float | None, dtype: torch.dtype) -> SteeringError:
    """Return what to raise where logits are no longer finite.

    Args:
        strength: of the row; None where it has no edit.
        dtype: of the hidden states.
    """
    if strength is None:
        return SteeringError(
            f"the base LM's logits are not finite in {name_of(dtype)}, with no edit in force: its "
            "weights are damaged, or this dtype is too narrow for it; load it in float32"
        )
    return SteeringError(
        f"at strength {strength:g} the base LM's logits are not finite in {name_of(dtype)}; "
        f"{WAY_OUT}"
    )


def name_of(dtype: torch.dtype) -> str:
    """Return a dtype as options name it."""
    return str(dtype).removeprefix("torch.")
