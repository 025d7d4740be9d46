"""The edits in force, one row per running request, and each token's share of them.

All tensors are made once and written in place, so that CUDA graphs which read them stay valid. Row
`rows` has no edit; tokens of unsteered requests and padding point there.

Shapes: N rows, T tokens, D width, P places.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypersteer.edits.kinds import EditKind, Params
from hypersteer.edits.sites import NamedScope, Site
from hypersteer.lm.scopes import ENDS

END = 2**31
"""Behind every position."""
TOGETHER = 256
"""Tokens whose parameters are gathered at once."""
RUN = 8
"""So many tokens of one request, one behind the other, are edited as one sequence."""


class Place(NamedTuple):
    """Where one edit of a request goes: its number among those of the request, site and kind."""

    slot: int
    site: Site
    kind: str


class Entry(NamedTuple):
    """An edit at a place.

    Attributes:
        params: of the edit, with no leading dimension.
        strength: multiplies it.
        scope: the tokens that it touches.
    """

    params: Params
    strength: float
    scope: NamedScope


class Row(NamedTuple):
    """The edits of one request.

    Attributes:
        entries: by place.
        prefix: tokens of its prompt that are the fixed chat prefix.
        length: tokens of its prompt.
    """

    entries: Mapping[Place, Entry]
    prefix: int
    length: int


def bounds(scope: NamedScope, prefix: int, length: int) -> tuple[int, int, int, int]:
    """Return the positions that a scope touches, as two ranges [a, b) and [c, d)."""
    if scope == "prompt_ends":
        middle = max(prefix, length - ENDS)
        return prefix, min(prefix + ENDS, length), middle, length
    one = {
        "all": (prefix, END),
        "everywhere": (0, END),
        "prompt": (prefix, length),
        "response": (length, END),
        "last_prompt": (length - 1, length),
    }[scope]
    return *one, 0, 0


class Table:
    """Edits of all running requests at all places.

    Attributes:
        sites: where edits may act, ascending.
        rows: N.

    Args:
        places: where edits may go, with their kinds.
        rank: most directions of an edit.
        width: D.
        rows: N, the most requests that run at once.
        tokens: most tokens of a step.
        device: of the model.
        fixed: never look at values on the host, so that the work can be captured in a CUDA graph;
            then every place costs its time on every token, used or not.
    """

    def __init__(
        self,
        places: Mapping[Place, EditKind],
        *,
        rank: int,
        width: int,
        rows: int,
        tokens: int,
        device: torch.device | str = "cpu",
        fixed: bool = False,
    ) -> None:
        self.rows, self._fixed = rows, fixed
        self._places = list(places)
        self._kinds = list(places.values())
        self.sites = sorted({place.site for place in places})
        self._at = {
            site: [n for n, place in enumerate(self._places) if place.site == site]
            for site in self.sites
        }
        real = {"dtype": torch.float32, "device": device}
        self._params = [
            {
                name: torch.zeros(rows + 1, *like.shape, **real)
                for name, like in blank_of(kind, width, rank).items()
            }
            for kind in self._kinds
        ]
        count = len(self._places)
        self._strength = torch.zeros(count, rows + 1, **real)
        self._bounds = torch.zeros(count, rows + 1, 4, dtype=torch.int64, device=device)
        self._row_of = torch.full((tokens,), rows, dtype=torch.int64, device=device)
        self._factor = torch.zeros(count, tokens, **real)
        self._picked: list[Tensor | None] = [None] * count

    def put(self, row: int, held: Row) -> None:
        """Write a request's edits into a row; what was there goes."""
        self.clear(row)
        for place, entry in held.entries.items():
            number = self._places.index(place)
            for name, target in self._params[number].items():
                given = entry.params[name]
                target[row] = 0
                target[row][tuple(map(slice, given.shape))] = given.to(target)
            self._strength[number, row] = entry.strength
            found = bounds(entry.scope, held.prefix, held.length)
            self._bounds[number, row] = torch.tensor(found, device=self._bounds.device)

    def clear(self, row: int) -> None:
        """Take all edits out of a row; numbers that are left there are multiplied by 0."""
        self._strength[:, row] = 0
        self._bounds[:, row] = 0

    def point(self, rows: Tensor, positions: Tensor) -> None:
        """Say whose each token of the coming forward pass is.

        Args:
            rows: [T], the row of each token's request; N for one without edits.
            positions: [T], of each token in its request, counted from 0.
        """
        count = len(rows)
        self._row_of[:count] = rows
        self._row_of[count:] = self.rows
        own = self._bounds[:, self._row_of[:count]]
        at = positions.to(own)
        inside = (own[..., 0] <= at) & (at < own[..., 1])
        inside |= (own[..., 2] <= at) & (at < own[..., 3])
        self._factor[:, :count] = inside * self._strength[:, self._row_of[:count]]
        self._factor[:, count:] = 0
        if not self._fixed:
            touched = [row.nonzero().squeeze(1) for row in self._factor[:, :count]]
            self._picked = [own if len(own) else None for own in touched]

    def rest(self) -> None:
        """Let the coming forward passes be unsteered, as trial runs are."""
        self._row_of.fill_(self.rows)
        self._factor.zero_()
        self._picked = [None] * len(self._places)

    def acts(self, number: int) -> bool:
        """Return whether anything may be written at the site of that number."""
        places = self._at[self.sites[number]]
        return self._fixed or any(self._picked[n] is not None for n in places)

    def apply(self, number: int, states: Tensor) -> Tensor:
        """Return the states [T, D] at the site of that number after all edits, in float32."""
        found = states.float()
        for place in self._at[self.sites[number]]:
            if self._fixed:
                parts = [
                    self._apply(place, found[start : start + TOGETHER], start)
                    for start in range(0, len(found), TOGETHER)
                ]
                found = torch.cat(parts)
            elif (picked := self._picked[place]) is not None:
                found = self._some(place, found, picked)
        return found

    def _apply(self, place: int, states: Tensor, start: int) -> Tensor:
        """Edit all tokens from one on, each with the parameters of its row."""
        span = slice(start, start + len(states))
        return self._edited(place, states, self._row_of[span], self._factor[place, span])

    def _some(self, place: int, states: Tensor, picked: Tensor) -> Tensor:
        """Edit some tokens; runs of one request's as one sequence, which gathers nothing."""
        rows, factors = self._row_of[picked], self._factor[place, picked]
        _, counts = torch.unique_consecutive(rows, return_counts=True)
        single, begun, made = [], 0, states.clone()
        for count in counts.tolist():
            part = picked[begun : begun + count]
            if count < RUN:
                single.append(torch.arange(begun, begun + count))
            else:
                own = rows[begun : begun + 1], factors[begun : begun + 1]
                made[part] = self._sequence(place, states[part], *own)
            begun += count
        for few in torch.cat(single).split(TOGETHER) if single else ():
            part = picked[few]
            made[part] = self._edited(place, states[part], rows[few], factors[few])
        return made

    def _edited(self, place: int, states: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
        params = {name: value[rows] for name, value in self._params[place].items()}
        mask = torch.ones(len(states), 1, dtype=torch.bool, device=states.device)
        return self._kinds[place].apply(states[:, None], params, mask, factors)[:, 0]

    def _sequence(self, place: int, states: Tensor, row: Tensor, factor: Tensor) -> Tensor:
        params = {name: value[row] for name, value in self._params[place].items()}
        mask = torch.ones(1, len(states), dtype=torch.bool, device=states.device)
        return self._kinds[place].apply(states[None], params, mask, factor)[0]


def blank_of(kind: EditKind, width: int, rank: int) -> dict[str, Tensor]:
    """Return all parameters of an edit that writes nothing, those that have defaults included."""
    shapes = kind.shapes(width, rank)
    return kind.check({name: torch.zeros(shape) for name, shape in shapes.items()})


def places_of(
    sites: Sequence[Site], kinds: Mapping[Site, Sequence[EditKind]], slots: int
) -> dict[Place, EditKind]:
    """Return all places for edits.

    Args:
        sites: where edits may act.
        kinds: that are taken at each.
        slots: most edits of a request at one site.
    """
    return {
        Place(slot, site, kind.name): kind
        for slot in range(slots)
        for site in sites
        for kind in kinds[site]
    }
