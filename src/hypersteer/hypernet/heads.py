"""The head: from the trunk's last state to numbers, and which of them is which parameter.

Shapes: R rows, D width, S sites, P numbers of one edit.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.edits.kinds import EditKind

HEAD_INIT = 0.05
"""Factor on the default initialisation of the head's last layer: first edits are small."""

FIRST_STRENGTH = 0.25
"""Size that vectors of a learned strength begin with, in units of the states' own."""
STRENGTH_RATE = 20.0
"""Factor on the number that a learned strength comes from: so much faster it learns than the
direction does (PrOSV, arXiv 2605.05983, gives it a learning rate of its own)."""


def new_head(width: int, hidden: int, size: int) -> nn.Sequential:
    """Return the MLP that writes `size` numbers from a state of the trunk."""
    head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, size))
    with torch.no_grad():
        for parameter in head[-1].parameters():
            parameter.mul_(HEAD_INIT)
    return head


class Layout:
    """Which of the numbers that a head writes is which parameter of which site's edit.

    Attributes:
        kind: of the edits.
        sites: number S of sites, each of which gets an edit of its own.
        size: numbers of all edits together, S * P.

    Args:
        kind: of the edits.
        width: D.
        rank: of the edits, where the kind has one.
        sites: S.
        strength: whether one more number of each edit is its length, and the others of `added` its
            direction.
    """

    def __init__(
        self, kind: EditKind, width: int, rank: int, sites: int, *, strength: bool = False
    ) -> None:
        self.kind, self.sites, self._strength = kind, sites, strength
        self._shapes = kind.shapes(width, rank)
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        self.size = sites * (sum(self._sizes) + strength)

    def split(
        self,
        numbers: Float[Tensor, "R N"],
        unit: Float[Tensor, ""],
        excess: Float[Tensor, " D"],
    ) -> list[dict[str, Tensor]]:
        """Return parameters [R, ...] of each site's edits, float32.

        Args:
            numbers: as the head writes them, for states of size 1.
            unit: size of the states that the edits are for.
            excess: how far single dimensions of them are beyond it.
        """
        made = []
        for own in numbers.unflatten(-1, (self.sites, -1)).unbind(1):
            parts = own[..., : sum(self._sizes)].split(self._sizes, dim=-1)
            named = {
                name: part.unflatten(-1, shape)
                for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
            }
            if self._strength:
                lengths = learned_strength(own[..., -1])
                for name in self.kind.added:
                    named[name] = _of_length(named[name], lengths)
            scaled = self.kind.in_units(named, unit, excess)
            made.append({name: value.float() for name, value in scaled.items()})
        return made


def learned_strength(number: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Return a length above 0, in units of the states' own, from what a head writes for it."""
    start = math.log(math.expm1(FIRST_STRENGTH))
    return F.softplus(start + STRENGTH_RATE * number.float())


def _of_length(
    values: Float[Tensor, "R ..."], lengths: Float[Tensor, " R"]
) -> Float[Tensor, "R ..."]:
    """Return each row with entries whose root mean square is its length."""
    flat = values.float().flatten(1)
    unit = F.normalize(flat, dim=-1) * math.sqrt(flat.shape[-1])
    return (unit * lengths[:, None]).view_as(values)
