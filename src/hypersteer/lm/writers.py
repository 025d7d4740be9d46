"""What is written into the hidden states of a running batch: edits of any kind, one per row.

A `Writer` applies edits of one kind at one site. Rows may have several writers; those of a site
act in their order, and what is made from the states there is made before any of them writes.
Shapes: B rows of a request, R running rows (B times the number of strengths), T tokens, D width.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hypersteer.edits.kinds import Acts, Params, act, joined, new_memory
from hypersteer.edits.memory import Memory
from hypersteer.edits.sites import Scope, Site
from hypersteer.edits.vector import VECTOR
from hypersteer.lm.chat import Spans
from hypersteer.lm.finite import check_added
from hypersteer.lm.hooks import ReadWrite, at_sites
from hypersteer.lm.scopes import DECODED, scope_mask
from hypersteer.lm.switch import Switch

MakeParams = Callable[[Tensor, Spans], Params]
"""Hidden states [B, T, D] at the site and their spans -> parameters [B, ...] at strength 1."""


class Writer:
    """Applies edits of one kind at one site, on the tokens of each row's scope.

    The first forward pass of a generation (the prefill) fixes the parameters, made from the hidden
    states at the site where they are given as a function; later passes hold response tokens only
    and reuse them. The next prefill makes them anew. At several strengths each row is written once
    per strength.

    Attributes:
        site: where it writes.
        kind: how parameters apply.
        params: [R, ...], once they are fixed.
        switch: what turns its edits on and off; None if they always act.

    Args:
        site: where it writes.
        kind: how parameters apply.
        params: [B, ...] at strength 1, or what makes them in the prefill.
        scopes: which tokens to touch, one per row; None for a row without an edit.
        strengths: of each row; by default 1.
        switch: see above.
        slot: its edits' number among those of a row, by which a switch knows them.
        copies: all rows are written once at each of these strengths, which multiply their own.
    """

    def __init__(
        self,
        site: Site,
        kind: Acts,
        params: Params | MakeParams,
        scopes: Sequence[Scope | None],
        strengths: Sequence[float] | None = None,
        *,
        switch: Switch | None = None,
        slot: int = 0,
        copies: Sequence[float] = (1.0,),
    ) -> None:
        self.site, self.kind, self.switch, self.slot = site, kind, switch, slot
        self.params: dict[str, Tensor] | None = None
        self._memory: Memory | None = None
        self._source = params
        self._scopes = tuple(scopes)
        self._given = tuple(strengths or [1.0] * len(scopes))
        self._copies = tuple(copies)
        self._fixed = False
        self._restart()

    def at(self, strengths: Sequence[float]) -> "Writer":
        """Return this writer for copies of its rows, each copy at its own strength.

        Row r of copy c is row `c * B + r`, as `hypersteer.lm.upper_blocks.repeated` has it.
        """
        return Writer(
            self.site,
            self.kind,
            self._source,
            self._scopes,
            self._given,
            switch=self.switch,
            slot=self.slot,
            copies=strengths,
        )

    def switched(self, switch: Switch, slot: int) -> "Writer":
        """Return this writer under a switch that knows its edits by their number."""
        made = self.at(self._copies)
        made.switch, made.slot = switch, slot
        return made

    def fix(self, hidden: Tensor, spans: Spans) -> None:
        """Make the parameters of the coming prefill from the states that are to be written into.

        Copies of the rows have the same states, unless an edit further down has made them differ.

        Raises:
            SteeringError: if what is added is beyond what the states' dtype can hold.
        """
        self._restart()
        count, source = len(self._copies), self._source
        if isinstance(source, Mapping):
            made = [source] * count
        else:
            parts = hidden.split(len(self._scopes))
            same = all(torch.equal(parts[0], other) for other in parts[1:])
            made = [source(part, spans) for part in parts[: 1 if same else None]]
            made = made * count if same else made
        self.params = {
            name: torch.cat([one[name] for one in made]).to(hidden.device) for name in made[0]
        }
        self._strength = self._strength.to(hidden.device)
        check_added(self.kind, self.params, self._strength, hidden.dtype)
        self._fixed = True

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows; several strengths give as many copies."""
        if not self._fixed:
            self.fix(hidden, spans)
        self._fixed = False
        assert self.params is not None
        mask = scope_mask(self._scopes, spans).repeat(len(self._copies), 1).to(hidden.device)
        # Below a residual site the rows are still shared; a sub-layer's own block has them all.
        whole = hidden if len(hidden) == len(mask) else hidden.repeat(len(self._copies), 1, 1)
        if self.switch is not None:
            opened = self.switch.open(self.slot).to(hidden.device)
            mask = mask & opened[:, None]
            if not self.switch.rechecks:
                self._touched = self._touched.to(opened.device) & opened[:, None]
        self._touched = self._touched.to(hidden.device)
        self._idle = not bool(self._touched.any())
        self._memory = new_memory(self.kind)
        real = spans.real.repeat(len(self._copies), 1).to(hidden.device)
        return act(self.kind, whole, self.params, mask, self._strength, real, self._memory)

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [R, 1, D] of response tokens after the prefill."""
        if self._idle:
            return hidden
        assert self.params is not None
        mask = self._touched
        if self.switch is not None and self.switch.rechecks:
            mask = mask & self.switch.open(self.slot).to(mask.device)[:, None]
        real = self._touched  # a row that is not touched any more has no use for a memory
        return act(self.kind, hidden, self.params, mask, self._strength, real, self._memory)

    def added(self) -> Float[Tensor, " R"]:
        """Return the square sum of what each row's edit adds as it is, once it is fixed."""
        assert self.params is not None
        parts = [self.params[name].flatten(1).float() for name in self.kind.added]
        sums = [(part * self._strength[:, None]).square().sum(1) for part in parts]
        return sum(sums, torch.zeros_like(self._strength))

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order; called when rows have finished."""
        self._touched, self._strength = self._touched[rows], self._strength[rows]
        self._idle = not bool(self._touched.any())
        if self.params is not None:
            self.params = {name: value[rows] for name, value in self.params.items()}
        if self._memory is not None:
            self._memory.keep_rows(rows)

    def extend(self, other: "Writer | None", before: int, after: int) -> None:
        """Take in the rows of another running writer behind its own; both have prefilled.

        Args:
            other: edits of the same kind at the same site; None for rows without any.
            before: rows in front of its own that it has no edits for.
            after: rows behind them that `other` has, or has no edits for.
        """
        assert self.params is not None
        rows = len(self._strength)
        empty = {name: value[:0] for name, value in self.params.items()}
        lead = _blank(empty, before)
        tail = _blank(empty, after) if other is None else other.params
        assert tail is not None
        self.params = joined(joined(lead, self.params), tail)
        if self._memory is not None:
            self._memory.extend(None if other is None else other._memory, before, after)
        device = self._touched.device
        touched = torch.zeros(before + rows + after, 1, dtype=torch.bool, device=device)
        strength = torch.zeros(before + rows + after, device=device)
        touched[before : before + rows] = self._touched
        strength[before : before + rows] = self._strength
        if other is not None:
            touched[before + rows :] = other._touched.to(device)
            strength[before + rows :] = other._strength.to(device)
        self._touched, self._strength = touched, strength
        self._idle = not bool(touched.any())

    def _restart(self) -> None:
        """Begin with rows and strengths as they were given, whatever rows have left since."""
        strengths = torch.tensor(self._given, dtype=torch.float32)
        self._strength = torch.cat([copy * strengths for copy in self._copies])
        touched = torch.tensor([[scope in DECODED] for scope in self._scopes])
        self._touched = touched.repeat(len(self._copies), 1)
        self._idle = False


def add_vectors(
    hidden: Float[Tensor, "B T D"], vectors: Float[Tensor, "B D"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """Add each row's vector to the hidden states of the row's marked tokens."""
    ones = torch.ones(len(vectors), device=hidden.device)
    given = {"vector": vectors.to(hidden.device)}
    return VECTOR.apply(hidden, given, mask.to(hidden.device), ones)


def vector_writer(
    site: Site,
    vectors: Float[Tensor, "B D"] | Callable[[Tensor, Spans], Tensor],
    scopes: Sequence[Scope | None],
    strengths: Sequence[float] | None = None,
) -> Writer:
    """Return a writer that adds one vector per row, given or made from the states at the site."""
    if isinstance(vectors, Tensor):
        return Writer(site, VECTOR, {"vector": vectors}, scopes, strengths)

    def make(hidden: Tensor, spans: Spans) -> Params:
        return {"vector": vectors(hidden, spans)}

    return Writer(site, VECTOR, make, scopes, strengths)


def switches_of(writers: Sequence[Writer]) -> list[Switch]:
    """Return the distinct switches that writers obey."""
    return list(dict.fromkeys(w.switch for w in writers if w.switch is not None))


def acting(
    writers: Sequence[Writer], spans: Spans | None, ids: Int[Tensor, "R 1"] | None = None
) -> list[tuple[Site, ReadWrite]]:
    """Return what a forward pass runs at which site for the writers and their switches, in order.

    Args:
        writers: what to write, in order.
        spans: what each token is, or None where all are response tokens after the prefill.
        ids: these tokens.
    """
    readers = [reader for switch in switches_of(writers) for reader in switch.readers(spans, ids)]
    if spans is None:
        return [*readers, *((writer.site, writer.step) for writer in writers)]
    at: dict[Site, list[Writer]] = {}
    for writer in writers:
        at.setdefault(writer.site, []).append(writer)
    return [*readers, *((site, _prefilling(members, spans)) for site, members in at.items())]


@contextmanager
def written(
    blocks: nn.ModuleList, writers: Sequence[Writer], spans: Spans | None
) -> Generator[None]:
    """Let the writers act on the forward passes in the context; see `acting`."""
    with at_sites(blocks, acting(writers, spans)):
        yield


def _prefilling(members: Sequence[Writer], spans: Spans) -> ReadWrite:
    """Join a site's writers for the prefill: all read what is there before any of them writes."""

    def write(hidden: Tensor) -> Tensor:
        if len(members) > 1:
            for writer in members:
                writer.fix(hidden, spans)
        for writer in members:
            hidden = writer.prefill(hidden, spans)
        return hidden

    return write


def _blank(empty: Params, rows: int) -> dict[str, Tensor]:
    """Return parameters of rows without an edit."""
    return {name: value.new_zeros(rows, *value.shape[1:]) for name, value in empty.items()}
