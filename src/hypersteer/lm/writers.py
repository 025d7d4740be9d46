"""What is written into the hidden states of a running batch at a site.

`VectorWriter` adds one vector per row; `DeltaWriter` adds what depends on the state it is added to;
`GatedWriter` lets other writers act only in the rows whose gate is open.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.edits import Scope, Site
from hypersteer.lm.chat import Spans, scope_mask
from hypersteer.lm.finite import check_vectors
from hypersteer.lm.gate import Gate
from hypersteer.lm.hooks import ReadWrite, at_sites

MakeVectors = Callable[[Tensor, Spans], Tensor]
"""Hidden states [B, T, D] at the site and their spans -> vectors [B, D], strength included."""


Delta = Callable[[Tensor, Tensor], Tensor]
"""Hidden states [B, T, D] and the row numbers [B] they belong to -> what is added at strength 1."""


@runtime_checkable
class Writer(Protocol):
    """Writes at one site, into the rows it was made for, as a generation runs.

    Attributes:
        site: where it writes.
    """

    site: Site

    def at(self, strengths: Sequence[float]) -> "Writer":
        """This writer for `len(strengths)` copies of its rows, each copy at its own strength.

        Row r of copy c is row `c * B + r`, as `hypersteer.lm.upper_blocks.repeated` has it.
        """
        ...

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows; several strengths give as many copies."""
        ...

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens after the prefill."""
        ...

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order; called when rows have finished."""
        ...


def add_vectors(
    hidden: Float[Tensor, "B T D"], vectors: Float[Tensor, "B D"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T D"]:
    """Add each row's vector to the hidden states of the row's marked tokens."""
    delta = vectors.to(hidden.device, hidden.dtype)[:, None]
    return hidden + delta * mask.to(hidden.device)[..., None].to(hidden.dtype)


class VectorWriter:
    """Adds one vector per row at one site, on the tokens of each row's scope.

    The first forward pass of a generation (the prefill) fixes the vectors, made from the hidden
    states at the site where `vectors` is a function; later passes hold response tokens only and
    reuse them. The next prefill makes them anew. At several strengths each row is written once per
    strength.

    Attributes:
        site: where it writes.
        vectors: [B, D] (times the number of strengths), strength included; None until the prefill.
    """

    def __init__(
        self,
        site: Site,
        vectors: Tensor | MakeVectors,
        scopes: Sequence[Scope],
        strengths: Sequence[float] = (1.0,),
    ) -> None:
        self.site = site
        self.vectors: Tensor | None = None
        self._source = vectors
        self._strengths = tuple(strengths)
        self._given = tuple(scopes)
        self._scopes = self._given * len(self._strengths)
        self._step: Tensor | None = None
        self._fixed = False

    def at(self, strengths: Sequence[float]) -> "VectorWriter":
        """The same for copies of its rows; see `Writer.at`."""
        return VectorWriter(self.site, self._source, self._given, strengths)

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows; several strengths give as many copies."""
        copies = len(self._strengths)
        if not self._fixed:
            self.fix(hidden, spans)
        self._fixed = False
        assert self.vectors is not None
        mask = scope_mask(self._given, spans).repeat(copies, 1)
        # Below a residual site the rows are still shared; a sub-layer's own block has them all.
        whole = hidden.repeat(copies, 1, 1) if len(hidden) < len(mask) else hidden
        return add_vectors(whole, self.vectors, mask)

    def fix(self, hidden: Tensor, spans: Spans) -> None:
        """Make the vectors of the coming prefill from the states that are to be written into.

        Copies of the rows have the same states, unless an edit further down has made them differ.

        Raises:
            SteeringError: if they are beyond what the states' dtype can hold.
        """
        source = self._source
        self._scopes, self._step = self._given * len(self._strengths), None
        if isinstance(source, Tensor):
            made = [source] * len(self._strengths)
        else:
            copies = hidden.split(len(self._given))
            same = all(torch.equal(copies[0], other) for other in copies[1:])
            made = [source(copy, spans) for copy in copies[: 1 if same else None]]
            made = made * len(self._strengths) if same else made
        vectors = torch.cat([s * one for s, one in zip(self._strengths, made, strict=True)])
        check_vectors(vectors, self._strengths, hidden.dtype)
        self.vectors, self._fixed = vectors, True

    def silence(self, rows: Bool[Tensor, " B"]) -> None:
        """Add nothing to these rows from here on; the vectors must be made."""
        assert self.vectors is not None
        self.vectors = self.vectors.masked_fill(rows.to(self.vectors.device)[:, None], 0.0)
        self._step = None

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens after the prefill."""
        if self._step is None:
            assert self.vectors is not None
            touched = torch.tensor([s in ("all", "response") for s in self._scopes])
            vectors = self.vectors.to(hidden.device, hidden.dtype)
            self._step = (vectors * touched.to(vectors)[:, None])[:, None]
        return hidden + self._step

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order; called when rows have finished."""
        self._scopes = tuple(self._scopes[row] for row in rows)
        self._step = None
        if self.vectors is not None:
            self.vectors = self.vectors[rows]


class DeltaWriter:
    """Adds `strength * delta(h)` to every state h of each row's scope, at one site.

    Args:
        site: where it writes.
        delta: what is added at strength 1.
        scopes: tokens to touch, one per row.
        strengths: one for each copy of the rows, see `Writer.at`.
    """

    def __init__(
        self,
        site: Site,
        delta: Delta,
        scopes: Sequence[Scope],
        strengths: Sequence[float] = (1.0,),
    ) -> None:
        self.site = site
        self._delta = delta
        self._given = tuple(scopes)
        self._copies = len(strengths)
        self._all = (
            torch.arange(len(scopes)).repeat(self._copies),
            torch.tensor(strengths).repeat_interleave(len(scopes)),
        )
        self._rows, self._strengths = self._all
        self._touched = torch.tensor([scope in ("all", "response") for scope in scopes])

    def at(self, strengths: Sequence[float]) -> "DeltaWriter":
        """The same for copies of its rows; see `Writer.at`."""
        return DeltaWriter(self.site, self._delta, self._given, strengths)

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows."""
        self._rows, self._strengths = self._all
        mask = scope_mask(self._given, spans).repeat(self._copies, 1).to(hidden.device)
        # Below a residual site the rows are still shared; a sub-layer's own block has them all.
        whole = hidden.repeat(self._copies, 1, 1) if len(hidden) < len(mask) else hidden
        return self._add(whole, mask)

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens."""
        return self._add(hidden, self._touched[self._rows, None].to(hidden.device))

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        self._rows, self._strengths = self._rows[rows], self._strengths[rows]

    def _add(self, hidden: Tensor, mask: Tensor) -> Tensor:
        delta = self._delta(hidden, self._rows.to(hidden.device)).to(hidden.dtype)
        factors = mask * self._strengths.to(hidden.device)[:, None]
        # Where nothing is added the state stays as it is, bit for bit, whatever delta says.
        return torch.where(
            factors[..., None] == 0, hidden, hidden + factors[..., None].to(hidden.dtype) * delta
        )


class GatedWriter:
    """Writers at one site, each of which acts only in the rows where its edit's gate is open.

    A gate that is decided on the prompt only costs nothing afterwards: vectors of closed rows are
    zero from then on, and writers that act in no row are left out.

    Args:
        gate: decides.
        members: writers of the site, each with the number of its edits among a row's.
    """

    def __init__(self, gate: Gate, members: Sequence[tuple[int, Writer]]) -> None:
        self.gate = gate
        self.site = members[0][1].site
        self._members = tuple(members)
        self._acting = self._members

    def at(self, strengths: Sequence[float]) -> "GatedWriter":
        """The same for copies of its rows; see `Writer.at`."""
        return GatedWriter(self.gate, [(slot, one.at(strengths)) for slot, one in self._members])

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows; several strengths give as many copies."""
        rows = self.gate.rows
        whole = hidden if len(hidden) == rows else hidden.repeat(rows // len(hidden), 1, 1)
        settled = not self.gate.rechecks
        self._acting = tuple(
            (slot, writer)
            for slot, writer in self._members
            if not settled or bool(self.gate.open(slot).any())
        )
        for _, writer in self._acting:  # all read what is there before any of them writes
            if isinstance(writer, VectorWriter):
                writer.fix(whole, spans)
        for slot, writer in self._acting:
            whole = self._where_open(slot, writer.prefill(whole, spans), whole)
            if settled and isinstance(writer, VectorWriter):
                writer.silence(~self.gate.open(slot))
        return whole

    def step(self, hidden: Tensor) -> Tensor:
        """Write into the states [B, 1, D] of response tokens after the prefill."""
        for slot, writer in self._acting:
            changed = writer.step(hidden)
            silenced = isinstance(writer, VectorWriter) and not self.gate.rechecks
            hidden = changed if silenced else self._where_open(slot, changed, hidden)
        return hidden

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these; the gate is told by who runs the batch."""
        for _, writer in self._acting:
            writer.keep_rows(rows)

    def _where_open(self, slot: int, changed: Tensor, hidden: Tensor) -> Tensor:
        opened = self.gate.open(slot).to(hidden.device)
        return torch.where(opened[:, None, None], changed, hidden)


def gates_of(writers: Sequence[Writer]) -> list[Gate]:
    """The distinct gates that writers obey."""
    return list(dict.fromkeys(w.gate for w in writers if isinstance(w, GatedWriter)))


def acting(writers: Sequence[Writer], spans: Spans | None) -> list[tuple[Site, ReadWrite]]:
    """What a forward pass runs at which site for the writers and their gates, in order.

    Args:
        writers: what to write, in order.
        spans: what each token is, or None where all are response tokens after the prefill.
    """

    def act(writer: Writer) -> ReadWrite:
        if spans is None:
            return writer.step
        return lambda hidden: writer.prefill(hidden, spans)

    readers = [reader for gate in gates_of(writers) for reader in gate.readers(spans)]
    return [*readers, *((writer.site, act(writer)) for writer in writers)]


@contextmanager
def written(
    blocks: nn.ModuleList, writers: Sequence[Writer], spans: Spans | None
) -> Generator[None]:
    """Let the writers act on the forward passes in the context; see `acting`."""
    with at_sites(blocks, acting(writers, spans)):
        yield
