"""Losses of responses from the states at a site, changed on the way."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.likelihood import response_losses
from hypersteer.lm.upper_blocks import shared_below, upper_blocks


class UpperLosses:
    """Losses of responses from the states at a site, changed on the way.

    Where the lower blocks cannot be left out, they run each time (without gradient, since nothing
    below the site needs one): where `upper_blocks` says so, and at the sub-layer sites, whose block
    adds what came from below.

    Attributes:
        skips: whether the blocks up to the site are left out.

    Args:
        lm: the base LM.
        site: where the states are.
    """

    def __init__(self, lm: BaseLM, site: Site) -> None:
        self._lm, self._site = lm, site
        residual = site.kind == "residual"
        self._upper = upper_blocks(lm, shared_below(site)) if residual else None
        self.skips = self._upper is not None

    def losses(
        self, batch: TokenBatch, states: Tensor | None, change: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, " B"]:
        """Mean cross-entropy of each row's response.

        Args:
            batch: B prompts with their responses, on the model's device.
            states: hidden states [B, T, D] at the site; not looked at unless `skips`.
            change: hidden states [B, T, D] -> what the blocks above get instead.
        """
        if self._upper is None or states is None:
            with at_sites(self._lm.blocks, [(self._site, change)]):
                return response_losses(self._lm, batch)[0]
        with self._upper.given(change(states)):
            return response_losses(self._upper.view, batch)[0]
