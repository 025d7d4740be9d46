"""How likely a steered base LM finds continuations, as harnesses want it: a sum and a yes or no.

Shapes: B rows, N predicted tokens of all rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.harnesses.steered import Steered
from hypersteer.lm.chat import PromptIds, collate, length_batches
from hypersteer.lm.likelihood import token_cross_entropy
from hypersteer.lm.writers import Writer, written


class Scored(NamedTuple):
    """What a harness is told of a continuation.

    Attributes:
        logprob: log-probability of all of its tokens, in nats.
        greedy: whether each is the likeliest in its place.
    """

    logprob: float
    greedy: bool


class Continuation(NamedTuple):
    """A text whose likelihood is wanted.

    Attributes:
        prompt: what goes before it.
        ids: its tokens.
        steer: a steering prompt, an edit, or None.
        bare: whether the prompt is nothing but the token that begins any text.
    """

    prompt: PromptIds
    ids: Sequence[int]
    steer: Any = None
    bare: bool = False


def score(
    steered: Steered,
    asked: Sequence[Continuation],
    batch_size: int,
    done: Callable[[int], object] = int,
) -> list[Scored]:
    """Return how likely continuations are, in their order, on any neighbours the same.

    Those that differ in their last token only, as the letters of a multiple choice do, share a row.

    Args:
        steered: who answers, and how strongly.
        asked: what is asked.
        batch_size: most rows of a batch.
        done: told how many more are finished, for progress bars.

    Raises:
        SteeringError: for a row that does not fit the context window, or a steering prompt that
            cannot be read.
    """
    shared: dict[tuple, list[int]] = {}
    for place, one in enumerate(asked):
        steer = one.steer if isinstance(one.steer, str) else id(one.steer)
        key = (one.bare, steer, one.prompt.prefix, *one.prompt.ids, -1, *one.ids[:-1])
        shared.setdefault(key, []).append(place)
    found: dict[int, Scored] = {}
    for bare in (False, True):
        rows = [places for places in shared.values() if asked[places[0]].bare is bare]
        sizes = [len(asked[row[0]].prompt.ids) + len(asked[row[0]].ids) for row in rows]
        for part in length_batches(sizes, rows=batch_size):
            members = [rows[number] for number in part]
            firsts = [asked[places[0]] for places in members]
            logits = _logits(steered, firsts, _writers(steered, firsts, bare=bare))
            for own, places in zip(logits, members, strict=True):
                found |= {place: _scored(own, asked[place].ids) for place in places}
                done(len(places))
    return [found[place] for place in range(len(asked))]


def _writers(steered: Steered, rows: Sequence[Continuation], *, bare: bool) -> list[Writer]:
    """Return what is written; the token that begins a text is read where it must be, never edited.

    Its states are hundreds of times larger than others and serve as attention sinks.
    """
    scope = "response" if bare and steered.reads_prompts else None
    return steered.writers([row.prompt for row in rows], [row.steer for row in rows], scope)


@torch.no_grad()
def _logits(
    steered: Steered, rows: Sequence[Continuation], writers: Sequence[Writer]
) -> list[Float[Tensor, "T V"]]:
    """Return the logits that predict each row's continuation, whose last token is not run."""
    lm = steered.lm
    for row in rows:
        lm.check_length(len(row.prompt.ids) + len(row.ids) - 1, "context and continuation")
    prompts = [row.prompt for row in rows]
    batch = collate(prompts, [row.ids[:-1] for row in rows], pad_id=lm.chat.pad_id).to(lm.device)
    wanted = torch.zeros_like(batch.spans.real)
    for marks, row in zip(wanted, rows, strict=True):
        start = len(row.prompt.ids) - 1
        marks[start : start + len(row.ids)] = True
    with written(lm.blocks, writers, batch.spans):
        logits = lm.logits(batch, wanted)
    return list(logits.split([len(row.ids) for row in rows]))


def _scored(logits: Float[Tensor, "T V"], ids: Sequence[int]) -> Scored:
    targets = torch.tensor(ids, device=logits.device)
    greedy = bool((logits.argmax(-1) == targets).all())
    return Scored(-float(token_cross_entropy(logits, targets).sum()), greedy)
