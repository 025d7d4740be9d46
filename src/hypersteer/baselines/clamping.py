"""Clamping: a feature's latent is set to a value, and what the SAE does not rebuild is kept."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.edits import Scope, Site
from hypersteer.lm.chat import Spans
from hypersteer.lm.writers import DeltaWriter


class ClampWriter:
    """Sets each row's latent z to `strength * a`, or raises it to that, at one site.

    Decoding the changed latents and adding the reconstruction error back gives, whatever the
    other latents are, `h + (strength * a - z) * w` with `w` the feature's decoder row. At strength
    0 the state stays as it is: 0 is the unsteered model, not a feature that is switched off.

    Args:
        site: where it writes.
        latents: hidden states [B, T, D] -> the latents [B, T, R] of the features of all R rows it
            was made for.
        decoder: w of each row.
        activations: a of each row.
        raise_only: never lower a latent (`max(z, strength * a)`).
        scopes: tokens to touch, one per row.
        strengths: one for each copy of the rows, see `hypersteer.lm.writers.Writer.at`.
    """

    def __init__(
        self,
        site: Site,
        latents: Callable[[Tensor], Tensor],
        decoder: Float[Tensor, "R D"],
        activations: Float[Tensor, " R"],
        *,
        raise_only: bool,
        scopes: Sequence[Scope],
        strengths: Sequence[float] = (1.0,),
    ) -> None:
        self.site = site
        self._latents, self._decoder, self._activations = latents, decoder, activations
        self._raise_only, self._scopes = raise_only, tuple(scopes)
        self._all = torch.tensor(strengths).repeat_interleave(len(scopes))
        self._strengths = self._all
        # What is written is not linear in the strength, so it comes with the delta.
        steered = [float(strength != 0) for strength in strengths]
        self._inner = DeltaWriter(site, self._delta, scopes, steered)

    def at(self, strengths: Sequence[float]) -> "ClampWriter":
        """The same for copies of its rows; see `Writer.at`."""
        return ClampWriter(
            self.site,
            self._latents,
            self._decoder,
            self._activations,
            raise_only=self._raise_only,
            scopes=self._scopes,
            strengths=strengths,
        )

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows."""
        self._strengths = self._all
        return self._inner.prefill(hidden, spans)

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens."""
        return self._inner.step(hidden)

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        self._strengths = self._strengths[rows]
        self._inner.keep_rows(rows)

    def _delta(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """`(strength * a - z) * w` for every state."""
        columns = rows[:, None, None].expand(-1, hidden.shape[1], 1)
        latents = self._latents(hidden).gather(-1, columns)[..., 0]
        targets = self._strengths.to(rows.device) * self._activations[rows]
        change = targets[:, None] - latents
        if self._raise_only:
            change = change.clamp(min=0)
        return change[..., None] * self._decoder[rows][:, None]
