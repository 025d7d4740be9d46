"""Clamping: a feature's latent is set to a value, and what the SAE does not rebuild is kept."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, plus


class Clamp:
    """Sets each row's latent z to `strength * a`, or raises it to that.

    Decoding the changed latents and adding the reconstruction error back gives, whatever the
    other latents are, `h + (strength * a - z) * w` with `w` the feature's decoder row. At strength
    0 the state stays as it is: 0 is the unsteered model, not a feature that is switched off.

    Its parameters are the `decoder` [B, D], w of each row, its `activation` [B], a, and the
    `column` [B] of its feature among the latents.

    Args:
        latents: hidden states [B, T, D] -> the latents [B, T, K] of the features of all rows.
        raise_only: never lower a latent (`max(z, strength * a)`).
    """

    added: ClassVar[tuple[str, ...]] = ()

    def __init__(self, latents: Callable[[Tensor], Tensor], *, raise_only: bool) -> None:
        self._latents, self._raise_only = latents, raise_only

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """The states plus `(strength * a - z) * w` on the marked tokens."""
        columns = params["column"][:, None, None].expand(-1, hidden.shape[1], 1)
        latents = self._latents(hidden).gather(-1, columns)[..., 0]
        change = (strength * params["activation"])[:, None] - latents
        if self._raise_only:
            change = change.clamp(min=0)
        delta = change[..., None] * params["decoder"][:, None]
        # What is written is not linear in the strength, so it is in the delta already.
        return plus(hidden, delta, mask, (strength != 0).to(strength))
