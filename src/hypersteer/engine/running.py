"""Rows that run together: cache, attention mask, positions, and the edits in force."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from hypersteer.edits.sites import Site
from hypersteer.engine.cache import add_rows, crop_left, joined, pick_rows
from hypersteer.lm.base import BaseLM
from hypersteer.lm.cache import new_cache
from hypersteer.lm.chat import PromptIds, Spans, TokenBatch, collate
from hypersteer.lm.hooks import ReadWrite, at_sites, capture
from hypersteer.lm.packing import pack, packed_products
from hypersteer.lm.upper_blocks import repeated, shared_below, upper_blocks
from hypersteer.lm.writers import Writer, acting, switches_of

CROP = 64
"""Tokens of padding in front of all rows that are kept, since cropping copies the cache."""


class RunningRows:
    """A running batch; see `hypersteer.engine.batch.Batch`, which feeds it.

    Attributes:
        numbers: of its rows, in order.
        begun: whether it has prefilled.

    Args:
        lm: the base LM.
        numbers: of its rows.
        prompts: B tokenised prompts.
        writers: edits in force, made for these B rows, already for as many copies.
        copies: how many rows there are of each prompt.
        ended: numbers of rows that have ended, kept up to date by the caller.
    """

    def __init__(
        self,
        lm: BaseLM,
        numbers: list[int],
        prompts: Sequence[PromptIds],
        writers: Sequence[Writer],
        copies: int = 1,
        ended: Collection[int] = (),
    ) -> None:
        self.numbers, self.begun = numbers, False
        self._lm, self._copies = lm, copies
        self._writers = list(writers)
        self._gated: list[_Gated] = []
        self._ended = _Places(numbers, ended)
        batch = collate(prompts, pad_id=lm.chat.pad_id, side="left").to(lm.device)
        self._next: TokenBatch = batch
        self._mask = batch.spans.real.long()
        self._positions = batch.positions
        self._cache = new_cache(lm.model)
        self._packed = pack(lm.model)

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """Run the tokens not yet run; logits [R, V] of the last one."""
        with packed_products(self._packed):
            if self.begun:
                with at_sites(self._lm.blocks, self._stepping()):
                    return self._run(self._lm)
            self.begun = True
            logits = self._prefill(self._next.spans)
            self._settle()
            return logits

    def written(self) -> list[float]:
        """Return the size of what the edits of each row add, strengths included; after the prefill.

        It is the Euclidean norm of all that is added as it is, at all sites together; of a vector
        its norm. What is added in proportion to the states counts for nothing.
        """
        squares = torch.zeros(len(self.numbers))
        for writer in self._writers:
            squares += writer.added().cpu()
        for gated in self._gated:
            squares[gated.places] += gated.added().cpu()
        return squares.sqrt().tolist()

    def append(self, chosen: Tensor) -> None:
        """Make the chosen token of each row the next to run."""
        ids = chosen[:, None]
        self._next = TokenBatch(ids, self._next.spans)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], 1)
        self._positions = self._positions[:, -1:] + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all rows but these, by their places, after the prefill; or all rows before it."""
        self.numbers = [self.numbers[row] for row in rows]
        if not rows:
            return
        index = torch.tensor(rows, device=self._mask.device)
        pick_rows(self._cache, index)
        self._next = TokenBatch(self._next.ids[index], self._next.spans)
        self._mask, self._positions = self._mask[index], self._positions[index]
        for writer in self._writers:
            writer.keep_rows(rows)
        for gated in self._gated:
            gated.keep_rows(rows)
        self._gated = [gated for gated in self._gated if gated.places]
        self._crop()

    def extend(self, other: "RunningRows") -> None:
        """Take in the rows of another batch of the base LM behind its own; both have prefilled."""
        mine, theirs = len(self.numbers), len(other.numbers)
        lengths = [part._mask.shape[1] - 1 for part in (self, other)]  # the newest has not run
        add_rows(self._cache, other._cache, max(lengths))
        self._mask = torch.cat([_padded(p._mask, max(lengths) + 1) for p in (self, other)])
        self._positions = torch.cat([self._positions, other._positions])
        ids = torch.cat([self._next.ids, other._next.ids])
        self._next = TokenBatch(ids, self._next.spans)
        self.numbers = [*self.numbers, *other.numbers]
        self._writers = _merged(self._writers, other._writers, mine, theirs)
        for gated in other._gated:
            gated.places = [place + mine for place in gated.places]
        self._gated += other._gated
        self._crop()

    def _prefill(self, spans: Spans) -> Tensor:
        """Run the prompts; logits [R, V] of their last tokens."""
        for switch in switches_of(self._writers):
            switch.start(self._copies, self._ended)
            switch.look_ahead(self._next)
        functions = acting(self._writers, spans)
        if self._copies > 1:
            return self._fan_out(functions)
        with at_sites(self._lm.blocks, functions):
            return self._run(self._lm)

    def _fan_out(self, functions: Sequence[tuple[Site, ReadWrite]]) -> Tensor:
        """Prefill at several strengths: blocks that see no edit run once for all of them."""
        lm, lower_cache = self._lm, self._cache
        index = torch.arange(len(self._mask), device=self._mask.device).repeat(self._copies)
        lowest = min(writer.site for writer in self._writers)
        below = shared_below(lowest)
        upper = upper_blocks(lm, below)
        if upper is None:
            self._repeat(index)
            with at_sites(lm.blocks, functions):
                return self._run(lm)
        above = [one for one in functions if one[0].layer >= lowest.layer]
        with at_sites(lm.blocks, [one for one in functions if one[0].layer < lowest.layer]):
            given = self._states(upper.border)
        self._repeat(index)
        self._cache = new_cache(lm.model)
        with (
            upper.given(given.repeat(self._copies, 1, 1)),
            at_sites(upper.view.blocks, above),
        ):
            logits = self._run(upper.view)
        self._cache = joined(lower_cache, self._cache, below, index)
        return logits

    def _states(self, border: Site) -> Tensor:
        """Run the blocks up to a border only; the states that leave it."""
        with capture(self._lm.blocks, [border], stop=True) as states:
            self._run(self._lm)
        return states[border]

    def _repeat(self, index: Tensor) -> None:
        """Let the tokens to run next be those of these rows."""
        self._next = repeated(self._next, self._copies)
        self._mask, self._positions = self._mask[index], self._positions[index]

    def _run(self, lm: BaseLM) -> Tensor:
        output = lm.forward(
            self._next,
            attention_mask=self._mask,
            position_ids=self._positions,
            cache=self._cache,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _settle(self) -> None:
        """Set writers apart whose edits may be turned on and off again: they stay by themselves."""
        gated = [w for w in self._writers if w.switch is not None and w.switch.rechecks]
        if gated:
            self._gated = [_Gated(gated, list(range(len(self.numbers))))]
        self._writers = [w for w in self._writers if w.switch is None or not w.switch.rechecks]

    def _stepping(self) -> list[tuple[Site, ReadWrite]]:
        """Return what a pass over response tokens runs at which site."""
        rows = len(self.numbers)
        gated = [step for one in self._gated for step in one.functions(rows, self._next.ids)]
        return [*gated, *((writer.site, writer.step) for writer in self._writers)]

    def _crop(self) -> None:
        """Give back the room of padding that stands in front of all rows."""
        spare = int(self._mask.any(0).long().argmax())
        if spare >= CROP:
            crop_left(self._cache, spare)
            self._mask = self._mask[:, spare:]


class _Gated:
    """Writers of some of the rows, turned on and off as those go on.

    Attributes:
        places: of its rows among all.
    """

    def __init__(self, writers: Sequence[Writer], places: list[int]) -> None:
        self._writers, self.places = list(writers), places

    def functions(self, rows: int, ids: Tensor) -> list[tuple[Site, ReadWrite]]:
        """Return what a pass over response tokens of so many rows runs at which site."""
        acts = acting(self._writers, None, ids[self.places])
        if self.places == list(range(rows)):
            return acts
        return [(site, self._within(function)) for site, function in acts]

    def added(self) -> Tensor:
        """Return the square sums [R] of what its writers add; see `Writer.added`."""
        return torch.stack([writer.added() for writer in self._writers]).sum(0)

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, by their places among all."""
        own = [self.places.index(row) for row in rows if row in self.places]
        self.places = [place for place, row in enumerate(rows) if row in self.places]
        for held in (*switches_of(self._writers), *self._writers):
            held.keep_rows(own)

    def _within(self, function: ReadWrite) -> ReadWrite:
        def act(hidden: Tensor) -> Tensor | None:
            index = torch.tensor(self.places, device=hidden.device)
            changed = function(hidden[index])
            return None if changed is None else hidden.index_copy(0, index, changed)

        return act


class _Places(Collection[int]):
    """Which rows have ended, by their places among those of a request."""

    def __init__(self, numbers: Sequence[int], ended: Collection[int]) -> None:
        self._numbers, self._ended = list(numbers), ended

    def __contains__(self, place: object) -> bool:
        return isinstance(place, int) and self._numbers[place] in self._ended

    def __iter__(self):  # noqa: ANN204
        return (place for place in range(len(self._numbers)) if place in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _merged(
    mine: Sequence[Writer], theirs: Sequence[Writer], before: int, after: int
) -> list[Writer]:
    """Join the writers of two running batches, edits of a kind at a site together."""
    left = list(theirs)
    for writer in mine:
        fits = [w for w in left if w.site == writer.site and w.kind is writer.kind]
        other = next((w for w in fits if w.slot == writer.slot), fits[0] if fits else None)
        if other is not None:
            left.remove(other)
        writer.extend(other, 0, after)
    for writer in left:
        writer.extend(None, before, 0)
    return [*mine, *left]


def _padded(mask: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))
