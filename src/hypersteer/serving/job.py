"""A request on its way: its rows, their texts so far, and the queue that its client reads."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypersteer.answering import Answerer
from hypersteer.conditions.rules import Check
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import TextStream
from hypersteer.engine.logprobs import TokenLogprob
from hypersteer.lm.chat import PromptIds
from hypersteer.serving.errors import Refused
from hypersteer.steering import Steerer


class Piece(NamedTuple):
    """A piece of the text of one answer.

    Attributes:
        row: which answer.
        text: the piece; may be empty.
        ending: why the answer has ended, with its last piece.
        logprobs: of its tokens, where they are wanted.
    """

    row: int
    text: str
    ending: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True, eq=False)
class Row:
    """One answer to a request.

    Attributes:
        prompt: tokenised.
        steer: what steers it, as `hypersteer.conditions.slots.laid_out` takes it.
        decoding: how it is decoded.
        text: its text, as it comes.
        decided: what rules decided on its prompt ahead.
        tokens: how many it has so far.
        logprobs: of tokens whose text is still held back.
        checks: reads what its rules have decided.
        written: size of what its edits add.
        over: whether nothing more is wanted of it.
    """

    prompt: PromptIds
    steer: Any
    decoding: Decoding
    text: TextStream
    decided: Check | None = None
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    checks: Callable[[], list[Check]] = list
    written: float = 0.0
    over: bool = False

    @property
    def first(self) -> bool:
        """Whether no token has come yet."""
        return self.tokens == 0


class Job:
    """A request that a worker runs, and that a client waits for.

    A worker's thread calls `token`, `end` and `fail`; the client's side reads `events`.

    Args:
        steerer: who steers; an `Answerer` where there is no checkpoint.
        rows: its answers.
        seconds: how long it may take.

    Attributes:
        events: pieces of the answers as they come; an error is the last.
        given_up: whether nobody waits for it any more.
        grouped: whether it was taken in together with others, one of which may be at fault where
            all of them fail.
        deadline: when its time is over, by the monotonic clock.
    """

    def __init__(self, steerer: Steerer | Answerer, rows: Sequence[Row], seconds: float) -> None:
        self.steerer, self.rows = steerer, list(rows)
        self.begun = time.monotonic()
        self.deadline = self.begun + seconds
        self.given_up = self.grouped = False
        self.events: asyncio.Queue[Piece | Refused] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._failed = False

    def token(self, place: int, token: int, logprob: TokenLogprob | None) -> None:
        """Take the next token of an answer."""
        row = self.rows[place]
        row.tokens += 1
        if logprob is not None:
            row.logprobs.append(logprob)
        piece = row.text.take(token)
        if row.text.ended:
            self.end(place, "stop")
        elif piece:
            self._tell(Piece(place, piece, None, self._held(row)))

    def end(self, place: int, ending: str) -> None:
        """End an answer."""
        row = self.rows[place]
        if not row.over:
            row.over = True
            self._tell(Piece(place, row.text.rest(), ending, self._held(row)))

    def fail(self, error: Refused) -> None:
        """End the request by an error."""
        if not self._failed:
            self._failed = True
            self._tell(error)

    def _held(self, row: Row) -> tuple[TokenLogprob, ...]:
        held, row.logprobs = tuple(row.logprobs), []
        return held

    def _tell(self, event: Piece | Refused) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
