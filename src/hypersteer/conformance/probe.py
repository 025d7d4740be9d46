"""One check at work: asks a back end, holds its answers against what has to come out."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from hypersteer.conformance.adapter import Adapter, Ask, Reloads, Streams
from hypersteer.conformance.reference import Expected, Reference
from hypersteer.lm.base import BaseLM

CALLS = 6
"""Calls that a reproduction shows, the last ones."""
LONG = (
    "I have four guests tonight, one of whom eats no meat, and an oven that only half works. "
    "What would you cook, in which order, and what can be made the day before?"
)
PROMPTS = (
    "Tell me about your day.",
    "Why is the sky blue?",
    LONG,
    "Name a colour.",
)
"""Of several lengths, so that a batch of them is padded."""
PAGE = 280
"""Tokens of a page: caches keep blocks of 16 to 256 tokens, and a short prompt fills none."""
THINGS = ("brooms", "buckets", "candles", "ladders", "lamps", "nails", "ropes", "saws", "tins")
QUESTIONS = ("What should we order?", "What do we have too much of?")
AT_SEA = "The ship sails over the sea; its captain and the crew watch the waves and the wind."
WITH_CATS = "The cat sleeps on the sofa; her kittens play with a ball of wool and purr."
NEUTRAL = "The report lists the results of the year in several tables and a short text."


class Broken(Exception):
    """A back end that does not keep what a check wants; the message is what it did instead."""


class Bench(NamedTuple):
    """What all checks share: the right answers, and vectors to steer by.

    Attributes:
        reference: the right answers.
        layers: a low, a middle and the last decoder block.
        vectors: by label and layer; as long as the states there mostly are, times `SIZE`.
        pages: two long prompts, alike up to their last words.
    """

    reference: Reference
    layers: tuple[int, int, int]
    vectors: dict[tuple[str, int], Tensor]
    pages: tuple[str, str]

    def ask(self, prompt: int | str = 0, label: str = "sea", layer: int | None = None) -> Ask:
        """Return a request for a prompt under a vector, by default at the middle block."""
        place = self.layers[1] if layer is None else layer
        text = PROMPTS[prompt] if isinstance(prompt, int) else prompt
        return Ask(text, place, self.vectors[label, place], label=f"{label}[{place}]")


SIZE = 0.6
"""Length of the vectors against the states': enough to change answers, mostly not to break them."""


def make_bench(reference: Reference) -> Bench:
    """Make the vectors: differences of mean states, at three blocks."""
    depth = reference.lm.depth
    layers = (depth // 5, depth // 2, depth - 1)
    texts = {"sea": AT_SEA, "cats": WITH_CATS}
    vectors = {
        (label, layer): SIZE * reference.direction(layer, text, NEUTRAL)
        for label, text in texts.items()
        for layer in layers
    }
    return Bench(reference, layers, vectors, _pages(reference.lm, reference.tokens))


def _pages(lm: BaseLM, answer: int) -> tuple[str, str]:
    """Return two prompts of `PAGE` tokens, or as many as the context window has room for."""
    most = min(PAGE, lm.context_window - answer)
    text, first, other = "Our stock:", *QUESTIONS
    for count in itertools.count(2):
        longer = f"{text} {count} {THINGS[count % len(THINGS)]};"
        if max(len(lm.chat.prompt(f"{longer} {asked}").ids) for asked in QUESTIONS) > most:
            break
        text = longer
    return f"{text} {first}", f"{text} {other}"


class Probe:
    """Asks one back end, and keeps the calls for a reproduction.

    Args:
        adapter: the back end.
        bench: what all checks share.
    """

    def __init__(self, adapter: Adapter, bench: Bench) -> None:
        self.adapter, self.bench = adapter, bench
        self._calls: list[str] = []

    @property
    def mixed(self) -> bool:
        """Whether rows of a batch may have edits of their own."""
        return "mixed" in self.adapter.abilities

    def answers(self, asks: Sequence[Ask], tokens: int | None = None) -> list[str]:
        """Return the answers to requests that run together.

        Raises:
            Broken: if there are not as many as requests.
        """
        tokens = self.bench.reference.tokens if tokens is None else tokens
        listed = ", ".join(map(str, asks))
        self._calls.append(f"adapter.answer([{listed}], {tokens})")
        found = self.adapter.answer(asks, tokens)
        if len(found) != len(asks):
            raise self.broken(f"{len(asks)} answers", f"{len(found)}")
        return found

    def expect(self, *asks: Ask) -> None:
        """Ask for several requests together, all of which must be answered rightly.

        Raises:
            Broken: at the first answer that is not the right one.
        """
        for ask, found in zip(asks, self.answers(asks), strict=True):
            self._held(ask, self.bench.reference.expected(ask), found)

    def expect_each(self, *asks: Ask) -> None:
        """Ask for one request after the other."""
        for ask in asks:
            self.expect(ask)

    def expect_in_threads(self, *asks: Ask) -> None:
        """Ask for all requests at once, each from a thread of its own."""
        tokens = self.bench.reference.tokens
        wanted = [self.bench.reference.expected(ask) for ask in asks]
        listed = ", ".join(map(str, asks))
        self._calls.append(f"at once, a thread each: {listed}")
        with ThreadPoolExecutor(len(asks)) as pool:
            found = list(pool.map(lambda ask: self.adapter.answer([ask], tokens), asks))
        for ask, want, texts in zip(asks, wanted, found, strict=True):
            self._held(ask, want, texts[0])

    def expect_streamed(self, ask: Ask) -> None:
        """Ask for one request piece by piece."""
        assert isinstance(self.adapter, Streams)
        tokens = self.bench.reference.tokens
        self._calls.append(f'"".join(adapter.stream({ask}, {tokens}))')
        text = "".join(self.adapter.stream(ask, tokens))
        self._held(ask, self.bench.reference.expected(ask), text)

    def expect_refused(self, ask: Ask) -> None:
        """Ask for what cannot be done, which has to raise.

        Raises:
            Broken: if there is an answer.
        """
        try:
            found = self.answers([ask])
        except Broken:
            raise
        except Exception:
            return
        raise self.broken("an exception", repr(found[0]))

    def reloaded(self, ask: Ask) -> Ask:
        """Return the request with its vector out of a file."""
        assert isinstance(self.adapter, Reloads)
        self._calls.append(f"adapter.reloaded({ask})")
        return self.adapter.reloaded(ask)

    def same(self, wanted: str, found: str, what: str) -> None:
        """Hold two answers of the back end against each other.

        Raises:
            Broken: if they differ.
        """
        if wanted != found:
            raise self.broken(f"{wanted!r} ({what})", repr(found))

    def differ(self, one: str, other: str, what: str) -> None:
        """Hold two answers apart, so that a back end that steers nothing does not pass.

        Raises:
            Broken: if they are the same.
        """
        if one == other:
            raise self.broken(f"another answer than {one!r} ({what})", "the same")

    def broken(self, wanted: str, found: str) -> Broken:
        """Return what to raise: wanted and found, after the calls that lead there."""
        calls = self._calls[-CALLS:]
        before = [f"({len(self._calls) - CALLS} calls before)"] if len(self._calls) > CALLS else []
        return Broken("\n".join([*before, *calls, f"  wanted {wanted}", f"  got    {found}"]))

    def _held(self, ask: Ask, expected: Expected, found: str) -> None:
        if not expected.allows(found):
            raise self.broken(f"{expected.text!r} for {ask}", repr(found))


Check = Callable[[Probe], None]
