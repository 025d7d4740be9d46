"""The Hugging Face engine: rows that are prefilled as they come, and then run in one batch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count

from torch import Tensor

from hypersteer.engine.decoding import Decoding
from hypersteer.engine.logprobs import TokenLogprob, token_logprobs
from hypersteer.engine.protocol import Ending
from hypersteer.engine.running import RunningRows
from hypersteer.engine.sampling import Sampler
from hypersteer.engine.stopping import Endings
from hypersteer.errors import SteeringError
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
        lenient: as a server wants it: what goes wrong in a row, or in the prefill of rows, ends
            those rows alone (`ending` is "failed", `error` says why), instead of being raised, and
            `written` is noted.
    """

    def __init__(self, lm: BaseLM, *, lenient: bool = False) -> None:
        self._lm, self._lenient = lm, lenient
        self._endings = Endings(lm, lenient=lenient)
        self._running: _Sampled | None = None
        self._waiting: list[_Sampled] = []
        self._numbers = count()
        self._dropped: set[int] = set()
        self._told: dict[int, _Told] = {}

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
        numbers = [next(self._numbers) for _ in range(copies * len(prompts))]
        for number, decoding, strength in zip(numbers, decodings, each, strict=True):
            self._endings.watch(number, decoding, strength if writers else None)
            self._told[number] = _Told(decoding.logprobs)
        state = RunningRows(self._lm, numbers, prompts, writers, copies, self._endings.reasons)
        sampler = sampler_of(decodings, [*prompts] * copies)
        self._waiting.append(_Sampled(state, sampler))
        return numbers

    def step(self) -> dict[int, int]:
        """Run all rows one token further; see `hypersteer.engine.protocol.Engine.step`."""
        fresh: dict[int, int] = {}
        for part in self._parts:
            logits = self._advance(part)
            if logits is None:
                continue
            chosen = part.sampler(logits)
            taken = self._endings.take(part.state.numbers, chosen, logits)
            self._tell(part.state.numbers, taken, chosen, logits)
            fresh |= taken
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

    def error(self, row: int) -> Exception | None:
        """Return what went wrong in a row that failed."""
        return self._endings.errors.get(row)

    def logprobs(self, row: int) -> Sequence[TokenLogprob]:
        """Return the log-probabilities of a row's tokens so far, where its decoding wants them."""
        return self._told[row].tokens

    def written(self, row: int) -> float:
        """Return the size of what a row's edits add: see `RunningRows`; 0 before it is noted."""
        return self._told[row].written

    def aside(self) -> "Batch":
        """Return an empty batch whose rows may `join` this one: no number is in both.

        It may take its first step in another thread, so that a long prefill holds up no row here.
        """
        other = Batch(self._lm, lenient=self._lenient)
        other._endings, other._numbers, other._told = self._endings, self._numbers, self._told
        return other

    def takes(self, other: "Batch") -> bool:
        """Return whether a batch may `join` this one."""
        return other._endings is self._endings

    def join(self, other: "Batch") -> None:
        """Take over the rows of a batch that `aside` gave; it is empty afterwards."""
        self._waiting += other._parts
        self._dropped |= other._dropped
        other._running, other._waiting, other._dropped = None, [], set()
        self._join()

    def _advance(self, part: "_Sampled") -> Tensor | None:
        """Return the logits of a part's next token; None where its prefill fails, if lenient."""
        first = not part.state.begun
        try:
            logits = part.state.advance()
        except (SteeringError, RuntimeError, MemoryError) as error:
            if not (self._lenient and first):
                raise
            self._endings.fail(part.state.numbers, error)
            part.keep_rows([])
            return None
        if first and self._lenient:
            for row, size in zip(part.state.numbers, part.state.written(), strict=True):
                self._told[row].written = size
        return logits

    def _tell(
        self, numbers: Sequence[int], taken: Collection[int], chosen: Tensor, logits: Tensor
    ) -> None:
        """Note the log-probabilities of new tokens, in rows that want them."""
        for place, row in enumerate(numbers):
            told = self._told.get(row)
            if told is not None and told.logprobs is not None and row in taken:
                one = slice(place, place + 1)
                told.tokens += token_logprobs(logits[one], chosen[one], told.logprobs)

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
            self._endings.errors.pop(row, None)
            self._told.pop(row, None)

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


@dataclass(slots=True)
class _Told:
    """What is noted of a row beside its tokens.

    Attributes:
        logprobs: how many rivals of each token are wanted; None for nothing at all.
        tokens: log-probabilities so far.
        written: size of what its edits add.
    """

    logprobs: int | None
    tokens: list[TokenLogprob] = field(default_factory=list)
    written: float = 0.0


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
