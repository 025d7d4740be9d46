"""The gate of a running batch: decides, row by row, which edits of its rules act.

Conditions are read in the forward passes of the generation itself, at or below the sites of the
edits that they gate, so they see states that no edit of their row has touched. A condition that is
read above them gets passes of its own, up to its layer: over the prompt before the generation, and
over the answer's tokens when it is checked again.
Shapes: B rows of the request, R running rows (B times the number of strengths), T tokens, D width.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hypersteer.conditions.checks import layers_above, layers_read
from hypersteer.conditions.condition import Condition
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.conditions.shadow import Shadow
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.beginning import beginning_of
from hypersteer.lm.chat import Spans, TokenBatch
from hypersteer.lm.hooks import ReadWrite
from hypersteer.lm.pooling import masked_sum, pool_mask, run_to


class Gate:
    """Decides for the rows of one request; belongs to that request alone.

    Args:
        lm: the base LM.
        rows: the rules of each of B rows; None for a row whose edits always act.
        lowest: tells the lowest site of any edit of a row, by its number, not of its rules only.
        log: filled with what is decided.

    Raises:
        CheckpointError: if a condition was fitted for another base LM.
        ModelError: if it reads a layer that is not there.
        SteeringError: if its width is not the base LM's, or if it is about the answer but is
            checked on the prompt only.
    """

    def __init__(
        self,
        lm: BaseLM,
        rows: Sequence[Rules | None],
        lowest: Callable[[int], Site],
        log: Decisions | None = None,
    ) -> None:
        self._lm, self._given, self._log = lm, list(rows), log
        self._rules = list(dict.fromkeys(one for one in rows if one is not None))
        self._layers = [layers_read(lm, one) for one in self._rules]
        self._poolings: dict[int, set] = {}
        self._ahead: set[int] = set()
        for one in self._rules:
            first = min(lowest(row) for row, rules in enumerate(rows) if rules is one)
            for condition in one.conditions.values():
                for layer in condition.layers:
                    self._poolings.setdefault(layer % lm.depth, set()).add(condition.pooling)
                self._ahead |= layers_above(lm, condition, first)
        self.rechecks = any(one.every for one in self._rules)
        reads_ahead = [not self._ahead.isdisjoint(layers) for layers in self._layers]
        self._reads_ahead = {n for n, does in enumerate(reads_ahead) if does}
        self.slots = max(len(one.edits) for one in self._rules)
        self.start(1)

    @property
    def rows(self) -> int:
        """Running rows R."""
        return len(self._of)

    def open(self, slot: int) -> Bool[Tensor, " R"]:
        """Return in which rows edit number `slot` of the row acts; without rules it always does."""
        if slot < self.slots:
            return self._open[slot]
        return torch.ones_like(self._open[0])

    def start(self, copies: int, finished: Collection[int] = ()) -> None:
        """Begin a generation.

        Args:
            copies: strengths at which every row is answered.
            finished: rows that have ended, kept up to date by the caller; nothing is logged there.
        """
        device = self._lm.device
        of = [-1 if one is None else self._rules.index(one) for one in self._given]
        self._of = torch.tensor(of, device=device).repeat(copies)
        sizes = torch.tensor([*(len(one.edits) for one in self._rules), 0], device=device)
        own = sizes[self._of]  # rows without rules have none, and what follows is not theirs
        self._open = [own <= slot for slot in range(self.slots)]
        self._numbers = list(range(self.rows))
        self._copies, self._finished = copies, finished
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._counts: dict[tuple[int, str], Tensor] = {}
        self._looked, self._shadow = not self._ahead, None
        self._token = 0
        self._scores: dict[Condition, Tensor] = {}
        self._fired: dict[tuple[int, str], Tensor] = {}
        self._seen: set[int] = set()
        self._waiting: set[int] = set()
        if self._log is not None:
            self._log.restart(self.rows)

    def look_ahead(self, batch: TokenBatch) -> None:
        """Read, in a pass of their own, the conditions that lie above edits of their rows."""
        if not self._ahead:
            return
        numbers = self._of[: len(self._given)].tolist()
        wanted = [row for row, number in enumerate(numbers) if number in self._reads_ahead]
        followed = [row for row in wanted if self._rules[numbers[row]].every]
        index = torch.tensor(wanted, device=batch.ids.device)
        part, top = TokenBatch(batch.ids[index], batch.spans.rows(index)), max(self._ahead)
        if followed:
            readers = self._prompt_readers(self._ahead, part.spans, index)
            self._shadow = Shadow(self._lm, part, top, readers)
            places = [row + copy * len(numbers) for copy in range(self._copies) for row in followed]
            self._shadow.keep([wanted.index(row) for row in followed] * self._copies, places)
        else:
            pools_all = any("all" in self._poolings[layer] for layer in self._ahead)
            beginning = None if pools_all else beginning_of(self._lm, part, top)
            spans = (part if beginning is None else beginning.rest(part)).spans
            run_to(self._lm, part, self._prompt_readers(self._ahead, spans, index), beginning)
        self._looked = True

    def readers(
        self, spans: Spans | None, ids: Int[Tensor, "R 1"] | None = None
    ) -> list[tuple[Site, ReadWrite]]:
        """Begin a forward pass, and say what is read in it, before anything is written there.

        Args:
            spans: what each token of B whole rows is, or None for one response token per row.
            ids: these tokens.

        Raises:
            SteeringError: if conditions must be read beforehand and were not.
        """
        self._scores = {}
        if spans is None:
            if not self.rechecks:
                return []
            self._token += 1
            self._seen = set()
            self._waiting = {n for n, one in enumerate(self._rules) if one.every}
            layers = set().union(*(self._layers[number] for number in self._waiting))
            if self._shadow is not None and ids is not None:
                self._follow(self._shadow, ids, layers & self._ahead)
            below = sorted(layers - self._ahead)
            return [(Site(layer), partial(self._read_token, layer)) for layer in below]
        if not self._looked:
            raise SteeringError(
                f"conditions at layers {sorted(self._ahead)} lie above the edits they gate, so the "
                "prompt must be read beforehand; generate does, a single forward pass does not"
            )
        self._token, self._fired = 0, {}
        self._seen = set(self._ahead)
        self._waiting = set(range(len(self._rules)))
        self._decide_ready()
        everything = torch.arange(len(spans.prompt), device=self._of.device)
        return self._prompt_readers(set(self._poolings) - self._ahead, spans, everything)

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, in this order."""
        self._numbers = [self._numbers[row] for row in rows]
        if self._shadow is not None:
            places = self._shadow.places
            left = {place: places.index(row) for place, row in enumerate(rows) if row in places}
            if left:
                self._shadow.keep(list(left.values()), list(left))
            else:
                self._shadow = None
        self._of, self._open = self._of[rows], [of_slot[rows] for of_slot in self._open]
        for held in (self._sums, self._counts, self._fired):
            held.update({key: value[rows] for key, value in held.items()})  # type: ignore[arg-type]

    def _prompt_readers(
        self, layers: set[int], spans: Spans, index: Tensor
    ) -> list[tuple[Site, ReadWrite]]:
        read = self._read_prompt
        return [(Site(layer), partial(read, layer, spans, index)) for layer in sorted(layers)]

    def _read_prompt(self, layer: int, spans: Spans, index: Tensor, hidden: Tensor) -> None:
        """Pool the states of whole rows; `index` are their numbers among the B rows."""
        device, rows = self._of.device, len(self._given)
        for pooling in self._poolings[layer]:
            mask = pool_mask(spans, pooling)
            # Above another row's edit there may be copies; they do not differ in the wanted rows.
            sums = masked_sum(hidden[: len(mask)], mask).to(device)
            counts = mask.sum(1, keepdim=True).float().to(device)
            for held, found in ((self._sums, sums), (self._counts, counts)):
                whole = found.new_zeros(rows, found.shape[1]).index_copy(0, index, found)
                held[layer, pooling] = whole.repeat(self._copies, 1)
        self._seen_at(layer)

    def _follow(self, shadow: Shadow, ids: Tensor, layers: set[int]) -> None:
        """Let rows be read without their edits, if any of their rules is due."""

        def read(layer: int, hidden: Tensor) -> None:
            whole = hidden.new_zeros(self.rows, *hidden.shape[1:])
            index = torch.tensor(shadow.places, device=hidden.device)
            self._take(layer, whole.index_copy(0, index, hidden))

        shadow.add(ids)
        ahead = self._waiting & self._reads_ahead
        if any(self._token % self._rules[number].every == 0 for number in ahead):
            shadow.read([(Site(layer), partial(read, layer)) for layer in layers])
            for layer in layers:
                self._seen_at(layer)

    def _read_token(self, layer: int, hidden: Tensor) -> None:
        """Take in the states [R, 1, D] of the newest response token."""
        self._take(layer, hidden)
        self._seen_at(layer)

    def _take(self, layer: int, hidden: Tensor) -> None:
        """Add the states [R, T, D] of response tokens to what is pooled."""
        states = hidden.to(self._of.device, torch.float32)
        for pooling in self._poolings[layer]:
            key = layer, pooling
            if pooling == "last":
                self._sums[key] = states[:, -1]
            else:
                self._sums[key] = self._sums[key] + states.sum(1)
                self._counts[key] = self._counts[key] + states.shape[1]

    def _seen_at(self, layer: int) -> None:
        if self._looked:
            self._seen.add(layer)
            self._decide_ready()

    def _decide_ready(self) -> None:
        """Decide the rules all of whose conditions have been read in this pass."""
        for number in [n for n in self._waiting if self._layers[n] <= self._seen]:
            self._waiting.discard(number)
            every = self._rules[number].every
            if not self._token or (every and self._token % every == 0):
                self._decide(number)

    def _decide(self, number: int) -> None:
        rules, fired = self._rules[number], {}
        for name, condition in rules.conditions.items():
            scores = self._score(condition)
            fired[name] = condition.passed(scores, self._fired.get((number, name)))
            self._fired[number, name] = fired[name]
        members = self._of == number
        acts = rules.acting(fired)
        for slot, now in enumerate(acts.values()):
            self._open[slot] = torch.where(members, now, self._open[slot])
        if self._log is not None:
            self._note(rules, members.tolist(), fired, acts)

    def _score(self, condition: Condition) -> Tensor:
        """Return scores [R] of what has been read so far, worked out once per pass."""
        if condition not in self._scores:
            states = {}
            for layer in condition.layers:
                key = layer % self._lm.depth, condition.pooling
                states[layer] = self._sums[key] / self._counts[key].clamp(min=1)
            scores = condition.score(states)
            if condition.pooling == "response" and not self._token:
                scores = torch.full_like(scores, -1.0 if condition.fires == "above" else 1.0)
            self._scores[condition] = scores
        return self._scores[condition]

    def _note(
        self,
        rules: Rules,
        members: list[bool],
        fired: dict[str, Tensor],
        acts: dict[str, Tensor],
    ) -> None:
        assert self._log is not None
        scores = {name: self._score(c).tolist() for name, c in rules.conditions.items()}
        chances = {name: c.probabilities(self._score(c)) for name, c in rules.conditions.items()}
        likely = {name: found.tolist() for name, found in chances.items() if found is not None}
        did_fire = {name: values.tolist() for name, values in fired.items()}
        do_act = {name: values.tolist() for name, values in acts.items()}
        for row, number in enumerate(self._numbers):
            if members[row] and number not in self._finished:
                check = Check(
                    self._token,
                    {name: values[row] for name, values in scores.items()},
                    tuple(name for name, values in did_fire.items() if values[row]),
                    tuple(name for name, values in do_act.items() if values[row]),
                    {name: values[row] for name, values in likely.items()} or None,
                    None if self._token else self._log.shares.get(number % len(self._given)),
                )
                self._log.rows[number].append(check)
