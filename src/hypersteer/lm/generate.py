"""Cached decoding of a batch under edits: one prefill, then one token per row and step."""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from hypersteer.edits import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.cache import joined, new_cache, pick_rows
from hypersteer.lm.chat import PromptIds, Spans, TokenBatch, collate
from hypersteer.lm.decoding import Decoding
from hypersteer.lm.finite import check_range
from hypersteer.lm.hooks import ReadWrite, at_sites, capture
from hypersteer.lm.packing import pack, packed_products
from hypersteer.lm.requests import check_room
from hypersteer.lm.sampling import Sampler
from hypersteer.lm.stopping import Endings, certain, cut_at, end_at
from hypersteer.lm.upper_blocks import repeated, shared_below, upper_blocks
from hypersteer.lm.writers import Writer, acting, gates_of


def decode(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decoding: Decoding,
    strengths: Sequence[float] | None = None,
    told: Sequence[float] | None = None,
) -> Generator[dict[int, int]]:
    """Generate token by token; what is asked for is checked at the call, before the first token.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        writers: edits in force, made for these B rows.
        decoding: how to decode.
        strengths: answer every prompt at each of these S strengths, which multiply the writers'
            own: row r at strength s is row `s * B + r`. The edits are made once, and the prefill
            below the lowest site runs once for all strengths.
        told: the writers' own strength in each of the B rows, for messages; by default 1.

    Yields:
        after every step, the new token id of each row that still runs, by row number. The end of
        turn is not among them; the token that completes a stop string is.

    Raises:
        SteeringError: if a prompt and the new tokens do not fit the context window, or if there
            are several strengths but nothing that is written; and, as it runs, if the base LM's
            numbers are not finite.
    """
    if strengths is not None and not writers:
        raise SteeringError(f"{len(strengths)} strengths, but no edit to multiply; give an edit")
    check_room(lm, prompts, decoding)
    check_range(strengths or ())
    copies = 1 if strengths is None else len(strengths)
    sampler = decoding.sampler(copies * len(prompts), [*prompts] * copies)
    told = told or [1.0] * len(prompts)
    if strengths is not None:
        writers = [writer.at(strengths) for writer in writers]
        told = [strength for strength in strengths for _ in prompts]

    def steps() -> Generator[dict[int, int]]:
        state = Running(lm, prompts, writers, copies)
        endings = Endings(lm, decoding, state.finished, told if writers else None)
        yield from _steps(state, endings, sampler, decoding.max_new_tokens)

    return steps()


def _steps(
    state: "Running", endings: Endings, sampler: Sampler, most: int
) -> Generator[dict[int, int]]:
    """The new tokens of each of at most so many steps; rows that have ended are dropped."""
    rows = len(state.rows)
    for step in range(most):
        logits = state.advance()
        chosen = sampler(logits)
        fresh = endings.take(state.rows, chosen, logits)
        if fresh:
            yield fresh
        if len(state.finished) == rows or step == most - 1:
            return
        state.append(chosen)
        live = [i for i, row in enumerate(state.rows) if row not in state.finished]
        if 2 * len(live) <= len(state.rows):
            state.keep_rows(live)
            sampler.keep_rows(live)


def generate_ids(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decoding: Decoding,
    strengths: Sequence[float] | None = None,
    told: Sequence[float] | None = None,
) -> list[list[int]]:
    """All response ids of every row of `decode`, without the end of turn."""
    copies = 1 if strengths is None else len(strengths)
    responses: list[list[int]] = [[] for _ in range(copies * len(prompts))]
    for fresh in decode(lm, prompts, writers, decoding, strengths, told):
        for row, token in fresh.items():
            responses[row].append(token)
    return responses


def generate_texts(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decoding: Decoding,
    told: Sequence[float] | None = None,
) -> list[str]:
    """The text of every row of `decode`, up to the first stop string."""
    rows = generate_ids(lm, prompts, writers, decoding, told=told)
    return [cut_at(lm.chat.decode(ids), decoding.stops) for ids in rows]


def join_pieces(
    lm: BaseLM, tokens: Generator[dict[int, int]], stops: Sequence[str] = ()
) -> Generator[str]:
    """Text pieces of row 0 that join to the text of all its tokens, up to the first stop string.

    A piece is held back while it ends inside a multi-byte character, or in what may become a stop
    string.
    """
    ids: list[int] = []
    sent = ""
    for fresh in tokens:
        ids.append(fresh[0])
        text = lm.chat.decode(ids)
        if end_at(text, stops) is not None:
            break
        text = certain(text, stops)
        if len(text) > len(sent):
            yield text[len(sent) :]
            sent = text
    text = cut_at(lm.chat.decode(ids), stops)
    if len(text) > len(sent):
        yield text[len(sent) :]


class Running:
    """The running batch: cache, attention mask, positions, and which rows are in it."""

    def __init__(
        self,
        lm: BaseLM,
        prompts: Sequence[PromptIds],
        writers: Sequence[Writer],
        copies: int,
    ) -> None:
        self._lm = lm
        self._writers = writers
        self._copies = copies
        self._gates = gates_of(writers)
        batch = collate(prompts, pad_id=lm.chat.pad_id, side="left").to(lm.device)
        self._next: TokenBatch = batch
        self._mask = batch.spans.real.long()
        self._positions = batch.positions
        self._spans: Spans | None = batch.spans
        self._cache = new_cache(lm.model)
        self._packed = pack(lm.model)
        self.rows = list(range(copies * len(prompts)))
        self.finished: set[int] = set()

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """Run the tokens not yet run; logits [B, V] of the last one."""
        with packed_products(self._packed):
            if self._spans is None:
                with at_sites(self._lm.blocks, acting(self._writers, None)):
                    return self._run(self._lm)
            for gate in self._gates:
                gate.start(self._copies, self.finished)
                gate.look_ahead(self._next)
            functions = acting(self._writers, self._spans)
            self._spans = None
            if self._copies > 1:
                return self._fan_out(functions)
            with at_sites(self._lm.blocks, functions):
                return self._run(self._lm)

    def _fan_out(self, functions: Sequence[tuple[Site, ReadWrite]]) -> Tensor:
        """The prefill at several strengths: blocks that see no edit run once for all of them."""
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
        with at_sites(lm.blocks, [one for one in functions if one not in above]):
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

    def append(self, chosen: Tensor) -> None:
        """Make the chosen token of each row the next to run."""
        ids = chosen[:, None]
        self._next = TokenBatch(ids, self._next.spans)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], 1)
        self._positions = self._positions[:, -1:] + 1

    def keep_rows(self, rows: list[int]) -> None:
        """Drop finished rows from the batch."""
        index = torch.tensor(rows, device=self._mask.device)
        pick_rows(self._cache, index)
        self._next = TokenBatch(self._next.ids[index], self._next.spans)
        self._mask, self._positions = self._mask[index], self._positions[index]
        self.rows = [self.rows[row] for row in rows]
        for held in (*self._gates, *self._writers):
            held.keep_rows(rows)
