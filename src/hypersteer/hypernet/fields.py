"""The head of per-token edits: one velocity field for each site, and what it reads of a text."""

from collections.abc import Callable
from typing import cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.edits.kinds import Acts
from hypersteer.edits.per_token import PerToken, PerTokenRecalling
from hypersteer.edits.velocity import Velocity

MLP_FACTOR = 2
"""Width of a field's MLP, in widths of the base LM."""


class Fields(nn.ModuleList):
    """Velocity fields, one for each of S sites.

    Args:
        width: D, of the base LM.
        heads: of cross-attention to the steering prompt.
        sites: S.
        self_attention: whether states also read those before them.
    """

    def __init__(self, width: int, heads: int, sites: int, *, self_attention: bool = False) -> None:
        super().__init__(
            Velocity(width, heads, MLP_FACTOR * width, self_attention=self_attention)
            for _ in range(sites)
        )
        self._kind = PerTokenRecalling if self_attention else PerToken

    def forward(
        self, encoded: Float[Tensor, "R C D"], mask: Bool[Tensor, "R C"]
    ) -> list[dict[str, Tensor]]:
        """Return parameters of each site's edits: the keys and values of the encoded text."""
        made = []
        for field in self:
            keys, values = cast(Velocity, field).read(encoded)
            made.append({"keys": keys.float(), "values": values.float(), "present": mask})
        return made

    def kinds(self, sizes: Callable[[], Tensor]) -> list[Acts]:
        """Return how the edits at each site apply, for states of these sizes [D]."""
        return [self._kind(cast(Velocity, field), sizes) for field in self]
