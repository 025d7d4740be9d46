"""The checks: invariants of per-request steering, as questions to a back end.

Numbers are those of the design's invariants (docs/conformance.md lists them); 9 and 10 are of
training, and so not asked here.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from hypersteer.conformance.adapter import Ability, Ask, Scope
from hypersteer.conformance.probe import PROMPTS, Check, Probe

WORDS = ("talk like a pirate", "mention the weather")
MANY = 12


class Invariant(NamedTuple):
    """A check with what it wants.

    Attributes:
        number: of the invariant.
        title: what has to hold.
        needs: abilities without which it is not asked.
        check: asks.
    """

    number: int
    title: str
    needs: tuple[Ability, ...]
    check: Check


INVARIANTS: list[Invariant] = []
"""All checks, in the order in which they are asked."""


def invariant(number: int, *needs: Ability) -> Callable[[Check], Check]:
    """Return a decorator that lists a check; its docstring says what has to hold."""

    def listed(check: Check) -> Check:
        title = (check.__doc__ or "").rstrip(".")
        INVARIANTS.append(Invariant(number, title, needs, check))
        return check

    return listed


def steered(probe: Probe) -> list[Ask]:
    """Return a request per prompt, all under the same edit."""
    return [probe.bench.ask(prompt) for prompt in range(len(PROMPTS))]


def different(probe: Probe) -> list[Ask]:
    """Return requests that differ in prompt, edit and strength; one of them is plain."""
    ask = probe.bench.ask
    return [ask(0), ask(1, "cats"), ask(2).plain(), ask(3).at(-0.7), ask(2, "cats").at(0.5)]


@invariant(1)
def alone(probe: Probe) -> None:
    """Answer a request alone as the plain computation says."""
    probe.expect_each(*steered(probe))
    probe.expect_each(*different(probe))


@invariant(1)
def batched(probe: Probe) -> None:
    """Answer in a padded batch, in any order, as alone."""
    asks = steered(probe)
    probe.expect(*asks)
    probe.expect(*asks[::-1])


@invariant(1, "mixed")
def mixed(probe: Probe) -> None:
    """Answer in a batch of different edits, in any order, as alone."""
    asks = different(probe)
    probe.expect(*asks)
    probe.expect(*asks[::-1])


@invariant(1, "stream")
def streamed(probe: Probe) -> None:
    """Stream what comes in one piece."""
    for ask in different(probe)[:3]:
        probe.expect_streamed(ask)


@invariant(1, "threads")
def in_threads(probe: Probe) -> None:
    """Answer several threads at once as one after the other."""
    probe.expect_in_threads(*different(probe))


@invariant(2)
def nothing(probe: Probe) -> None:
    """Be the plain model at strength 0, and without an edit."""
    ask = probe.bench.ask(0)
    probe.expect_each(ask.plain(), ask.at(0.0))
    batch = [probe.bench.ask(prompt).at(0.0) for prompt in range(len(PROMPTS))]
    probe.expect(*batch)


@invariant(3)
def at_each_layer(probe: Probe) -> None:
    """Add the vector to the output of the block that is named, also of the last."""
    for layer in probe.bench.layers:
        probe.expect(probe.bench.ask(0, layer=layer))
        probe.expect(probe.bench.ask(1, "cats", layer=layer).at(-1.0))


@invariant(4, "scopes")
def on_a_scope(probe: Probe) -> None:
    """Keep to the scope while decoding from a cache, at the first new token too."""
    scopes: tuple[Scope, ...] = ("all", "prompt", "response")
    for scope in scopes:
        for prompt in range(2):
            probe.expect(probe.bench.ask(prompt).on(scope))


@invariant(5, "words", "mixed")
def made_alone(probe: Probe) -> None:
    """Make an edit of words without regard to its neighbours."""
    asks = [Ask(prompt, words=words) for words in WORDS for prompt in PROMPTS[:2]]
    apart = [probe.answers([ask])[0] for ask in asks]
    probe.differ(apart[0], apart[2], "other words")
    for ask, text in zip(asks, apart, strict=True):
        probe.differ(probe.answers([ask.plain()])[0], text, "no words")
    order = [2, 0, 3, 1]
    together = probe.answers([asks[place] for place in order])
    for place, text in zip(order, together, strict=True):
        probe.same(apart[place], text, "alone")


@invariant(6)
def linear(probe: Probe) -> None:
    """Multiply the vector by the strength, below 0 too."""
    for strength in (0.5, 1.5, -1.0):
        ask = probe.bench.ask(0).at(strength)
        probe.expect_each(ask, ask.scaled())


@invariant(7, "refuses")
def refused(probe: Probe) -> None:
    """Keep nothing of a request that was refused."""
    ask = probe.bench.ask(0)
    assert ask.vector is not None
    wide = torch.cat([ask.vector, ask.vector[:1]])
    probe.expect_refused(Ask(ask.prompt, ask.layer, wide, label="one number too many"))
    probe.expect_each(ask.plain(), ask)


@invariant(8, "files")
def through_a_file(probe: Probe) -> None:
    """Steer by a vector from a file as by the vector."""
    ask = probe.bench.ask(0)
    back = probe.reloaded(ask)
    assert ask.vector is not None
    if back.vector is None or not torch.equal(back.vector.cpu(), ask.vector):
        raise probe.broken("the vector itself", "another one")
    probe.expect(back)


@invariant(11)
def then_plain(probe: Probe) -> None:
    """Answer a prompt unsteered after it was steered, whatever the caches hold."""
    for prompt in (0, 2):
        ask = probe.bench.ask(prompt)
        probe.expect_each(ask, ask.plain(), ask, ask.at(0.0), probe.bench.ask(prompt, "cats"))
        probe.expect_each(ask.plain(), ask)


@invariant(11)
def shared_beginnings(probe: Probe) -> None:
    """Read no steered state back from a cache for a prompt that begins alike."""
    first, second = (probe.bench.ask(page) for page in probe.bench.pages)
    probe.expect_each(first, second.plain(), first.plain())
    probe.expect_each(second, second.at(-1.0), first.plain())


@invariant(11)
def strengths_in_turn(probe: Probe) -> None:
    """Keep one request's strength from the next."""
    ask = probe.bench.ask(2)
    probe.expect_each(*[ask.at(strength) for strength in (1.0, 0.25, -1.0, 0.0, 1.0)])


@invariant(11, "mixed")
def strengths_together(probe: Probe) -> None:
    """Keep one request's strength from those beside it."""
    ask = probe.bench.ask(2)
    probe.expect(*[ask.at(strength) for strength in (1.0, 0.25, -1.0, 0.0, 1.0)])


@invariant(11, "mixed")
def beside_steered(probe: Probe) -> None:
    """Be the plain model for an unsteered request beside steered ones."""
    asks = [probe.bench.ask(0), probe.bench.ask(0).plain(), probe.bench.ask(0, "cats").at(1.5)]
    probe.expect(*asks)
    probe.expect(asks[1], *asks)


@invariant(11, "mixed")
def used_again(probe: Probe) -> None:
    """Keep nothing in a place that is used again."""
    asks = different(probe)
    for turn in range(MANY):
        picked = [asks[(turn + row) % len(asks)] for row in range(1 + turn % 3)]
        probe.expect(*picked)
