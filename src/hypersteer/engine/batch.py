"""The Hugging Face engine: rows that are prefilled as they come, and then run in one batch."""

from collections.abc import Collection, Sequence

from hypersteer.engine.decoding import Decoding
from hypersteer.engine.protocol import Ending
from hypersteer.engine.running import RunningRows
from hypersteer.engine.sampling import Sampler
from hypersteer.engine.stopping import Endings
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.writers import Writer


class Batch:
    """Runs the base LM's own forward on all rows at once, one token per row and step.

    New rows get a prefill of their own in the step after they were added, and join the others at
    its end: their caches, masks, edits and random numbers are put behind those that run. So one
    step costs one forward pass, whatever rows came when, plus a prefill for those that are new.

    Args:
        lm: the base LM.
    """

    def __init__(self, lm: BaseLM) -> None:
        self._lm = lm
        self._endings = Endings(lm)
        self._running: _Sampled | None = None
        self._waiting: list[_Sampled] = []
        self._next = 0
        self._dropped: set[int] = set()

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that still run."""
        every = [row for part in self._parts for row in part.state.numbers]
        return [r for r in every if r not in self._endings.reasons and r not in self._dropped]

    def add(
        self,
        prompts: Sequence[PromptIds],
        writers: Sequence[Writer],
        decodings: Sequence[Decoding],
        *,
        strengths: Sequence[float] | None = None,
        told: Sequence[float] | None = None,
    ) -> list[int]:
        """Take in rows; see `hypersteer.engine.protocol.Engine.add`."""
        copies = 1 if strengths is None else len(strengths)
        each = list(told or [1.0] * len(prompts))
        if strengths is not None:
            writers = [writer.at(strengths) for writer in writers]
            each = [strength for strength in strengths for _ in prompts]
        numbers = list(range(self._next, self._next + copies * len(prompts)))
        self._next += len(numbers)
        for number, decoding, strength in zip(numbers, decodings, each, strict=True):
            self._endings.watch(number, decoding, strength if writers else None)
        state = RunningRows(self._lm, numbers, prompts, writers, copies, self._endings.reasons)
        sampler = sampler_of(decodings, [*prompts] * copies)
        self._waiting.append(_Sampled(state, sampler))
        return numbers

    def step(self) -> dict[int, int]:
        """Run all rows one token further; see `hypersteer.engine.protocol.Engine.step`."""
        fresh: dict[int, int] = {}
        for part in self._parts:
            logits = part.state.advance()
            chosen = part.sampler(logits)
            fresh |= self._endings.take(part.state.numbers, chosen, logits)
            part.state.append(chosen)
        gone = self._dropped
        self._forget(gone)
        for part in self._parts:
            part.tidy(self._endings)
        self._join()
        return {row: token for row, token in fresh.items() if row not in gone}

    def drop(self, rows: Collection[int]) -> None:
        """Forget rows, finished or not."""
        self._forget(set(rows))
        self._join()

    def ending(self, row: int) -> Ending | None:
        """Return why a row has ended; None while it runs, or if it was dropped."""
        return self._endings.reasons.get(row)

    def _forget(self, rows: Collection[int]) -> None:
        """Drop rows; those that share a prefill which is still to come go after it."""
        held: set[int] = set()
        for part in self._parts:
            numbers = part.state.numbers
            live = [n for n, row in enumerate(numbers) if row not in rows]
            if live and not part.state.begun:
                held |= {row for row in numbers if row in rows}
            elif len(live) < len(numbers):
                part.keep_rows(live)
        self._dropped = held
        for row in set(rows) - held:
            self._endings.forget(row)
            self._endings.reasons.pop(row, None)

    @property
    def _parts(self) -> list["_Sampled"]:
        return [*([] if self._running is None else [self._running]), *self._waiting]

    def _join(self) -> None:
        """Let all rows that have prefilled run together; leave out what has no rows any more."""
        begun = [part for part in self._parts if part.state.begun and part.state.numbers]
        self._waiting = [p for p in self._waiting if not p.state.begun and p.state.numbers]
        for other in begun[1:]:
            begun[0].tidy(self._endings, at_once=True)
            other.tidy(self._endings, at_once=True)
            begun[0].state.extend(other.state)
            begun[0].sampler.extend(other.sampler)
        self._running = begun[0] if begun else None


class _Sampled:
    """Rows with what chooses their tokens."""

    def __init__(self, state: RunningRows, sampler: Sampler) -> None:
        self.state, self.sampler = state, sampler

    def keep_rows(self, rows: list[int]) -> None:
        """Forget all rows but these, by their places."""
        self.state.keep_rows(rows)
        self.sampler.keep_rows(rows)

    def tidy(self, endings: Endings, *, at_once: bool = False) -> None:
        """Drop rows that have ended, by default once they are half of all."""
        numbers = self.state.numbers
        live = [n for n, row in enumerate(numbers) if row not in endings.reasons]
        few = 2 * len(live) <= len(numbers)
        if len(live) < len(numbers) and (at_once or few):
            self.keep_rows(live)


def sampler_of(decodings: Sequence[Decoding], prompts: Sequence[PromptIds]) -> Sampler:
    """Return the sampler of some rows."""
    return Sampler(
        [seed for one in decodings for seed in one.seeds(1)],
        [one.temperature for one in decodings],
        [one.top_p for one in decodings],
        top_k=[one.top_k for one in decodings],
        min_p=[one.min_p for one in decodings],
        repetition_penalty=[one.repetition_penalty for one in decodings],
        prompts=[prompt.ids for prompt in prompts],
    )
