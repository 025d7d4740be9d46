"""Answer a batch of prompts with an engine: as tokens, as texts, or piece by piece."""

from collections.abc import Callable, Generator, Iterator, Sequence

from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.protocol import Engine
from hypersteer.engine.stopping import certain, cut_at, end_at
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.finite import check_range
from hypersteer.lm.writers import Writer

NewEngine = Callable[[BaseLM], Engine]
"""Makes an empty batch of a base LM; the class of an engine does."""


def check_room(
    lm: BaseLM, prompts: Sequence[PromptIds], decodings: Decoding | Sequence[Decoding]
) -> None:
    """Refuse prompts that leave no room for the new tokens.

    Args:
        lm: the base LM.
        prompts: what it is to answer.
        decodings: how, one for all or one for each.

    Raises:
        SteeringError: naming the lengths.
    """
    each = [decodings] * len(prompts) if isinstance(decodings, Decoding) else decodings
    for prompt, decoding in zip(prompts, each, strict=True):
        lm.check_length(len(prompt.ids) + decoding.max_new_tokens, "prompt and response")


def decode(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decoding: Decoding | Sequence[Decoding],
    strengths: Sequence[float] | None = None,
    told: Sequence[float] | None = None,
    engine: NewEngine = Batch,
) -> Generator[dict[int, int]]:
    """Generate token by token; what is asked for is checked at the call, before the first token.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        writers: edits in force, made for these B rows.
        decoding: how to decode, for all rows or for each.
        strengths: answer every prompt at each of these S strengths, which multiply the writers'
            own: row r at strength s is row `s * B + r`. The edits are made once, and the prefill
            below the lowest site runs once for all strengths.
        told: the writers' own strength in each of the B rows, for messages; by default 1.
        engine: what runs the rows.

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
    check_range(strengths or ())
    copies = 1 if strengths is None else len(strengths)
    one_for_all = isinstance(decoding, Decoding)
    each = decoding.each(copies * len(prompts)) if one_for_all else list(decoding) * copies
    check_room(lm, prompts, each[: len(prompts)])

    def steps() -> Generator[dict[int, int]]:
        batch = engine(lm)
        numbers = batch.add(prompts, writers, each, strengths=strengths, told=told)
        places = {number: place for place, number in enumerate(numbers)}
        while batch.rows:
            if fresh := batch.step():
                yield {places[row]: token for row, token in fresh.items()}

    return steps()


def generate_ids(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decoding: Decoding | Sequence[Decoding],
    strengths: Sequence[float] | None = None,
    told: Sequence[float] | None = None,
    engine: NewEngine = Batch,
) -> list[list[int]]:
    """Return all response ids of every row of `decode`, without the end of turn."""
    copies = 1 if strengths is None else len(strengths)
    responses: list[list[int]] = [[] for _ in range(copies * len(prompts))]
    for fresh in decode(lm, prompts, writers, decoding, strengths, told, engine):
        for row, token in fresh.items():
            responses[row].append(token)
    return responses


def generate_texts(
    lm: BaseLM,
    prompts: Sequence[PromptIds],
    writers: Sequence[Writer],
    decodings: Sequence[Decoding],
    told: Sequence[float] | None = None,
    engine: NewEngine = Batch,
) -> list[str]:
    """Return the text of every row of `decode`, up to the first stop string."""
    rows = generate_ids(lm, prompts, writers, decodings, told=told, engine=engine)
    return [
        cut_at(lm.chat.decode(ids), decoding.stops)
        for ids, decoding in zip(rows, decodings, strict=True)
    ]


class TextStream:
    """The pieces of one row's text as its tokens come; they join to the text of all of them.

    A piece is held back while it ends inside a multi-byte character, or in what may become a stop
    string.

    Args:
        lm: the base LM.
        stops: the text ends before the first of these.

    Attributes:
        ended: whether a stop string has come; there is no use in further tokens.
    """

    def __init__(self, lm: BaseLM, stops: Sequence[str] = ()) -> None:
        self._lm, self._stops = lm, stops
        self._ids: list[int] = []
        self._sent = ""
        self.ended = False

    def take(self, token: int) -> str:
        """Return what can be sent after one more token; often nothing."""
        self._ids.append(token)
        text = self._lm.chat.decode(self._ids)
        self.ended = end_at(text, self._stops) is not None
        if self.ended:
            return ""
        return self._fresh(certain(text, self._stops))

    def rest(self) -> str:
        """Return what is left to be sent when no more tokens come."""
        return self._fresh(cut_at(self._lm.chat.decode(self._ids), self._stops))

    def _fresh(self, text: str) -> str:
        piece = text[len(self._sent) :]
        self._sent += piece
        return piece


def join_pieces(
    lm: BaseLM, tokens: Iterator[dict[int, int]], stops: Sequence[str] = ()
) -> Generator[str]:
    """Yield the text of row 0, piece by piece; see `TextStream`."""
    stream = TextStream(lm, stops)
    for fresh in tokens:
        if piece := stream.take(fresh[0]):
            yield piece
        if stream.ended:
            break
    if piece := stream.rest():
        yield piece
