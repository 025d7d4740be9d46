"""A few examples beside the words of a condition: what the head wrote, moved as far as they ask.

What the head writes is the prior: a normal one around its directions and its offset, whose widths
were set on conditions that are not held out. The most probable directions and offset, given which
examples are true, are those that minimise

    sum over examples of log(1 + exp(-y (slope mean_k cos(u_k, w_k) + offset)))
        + sum over k of |w_k - d_k|^2 / 2 TURN^2 + (offset - written offset)^2 / 2 SHIFT^2

with d_k what the head wrote, u_k the centred and scaled states of an example, and y 1 or -1.
Shapes: N examples, K layers, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.conditions.contrasts import ContrastText, read_states
from hypersteer.conditions.described import About
from hypersteer.conditions.head import ConditionHead, Written
from hypersteer.conditions.lessons import POOLING, asked
from hypersteer.lm.base import BaseLM

TURN = 0.05
"""How far directions may lie from those written: standard deviation of the prior, all of D."""
SHIFT = 1.0
"""Likewise of the offset, in units of the logit."""
MOST = 32
"""Examples; who has more fits a condition to them."""
ROUNDS = 100
"""Most iterations of L-BFGS."""


class Examples(NamedTuple):
    """Texts of which a condition is true, and texts of which it is not."""

    inside: tuple[ContrastText, ...] = ()
    outside: tuple[ContrastText, ...] = ()


NONE = Examples()


def read_examples(
    lm: BaseLM, examples: Examples, head: ConditionHead, about: About
) -> Float[Tensor, "N K D"]:
    """Return the pooled states of examples, those inside first.

    Raises:
        SteeringError: for a text that cannot be read.
    """
    texts: Sequence[ContrastText] = [*examples.inside, *examples.outside]
    states = read_states(lm, asked(texts, about), head.config.layers, POOLING[about])
    return states.to(head.means.device)


def sharpened(
    head: ConditionHead,
    written: Written,
    states: Float[Tensor, "N K D"],
    inside: Bool[Tensor, " N"],
    about: About,
) -> Written:
    """Return the condition that examples make of a written one; the same one without examples.

    Args:
        head: what wrote it.
        written: one condition, [1, K, D] and [1].
        states: pooled states of the examples.
        inside: of which of them it is true.
        about: what it is about.
    """
    if not len(states):
        return written
    labels = inside.to(states.device, states.dtype)
    moved = torch.zeros_like(written.directions[0], requires_grad=True)
    shift = torch.zeros_like(written.offsets, requires_grad=True)
    best = torch.optim.LBFGS([moved, shift], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def result() -> Written:
        turned = F.normalize(written.directions + moved, dim=-1)
        return Written(turned, written.offsets + shift, written.slopes)

    def loss() -> Tensor:
        best.zero_grad()
        now = result()
        logits = head.logits(now, states, about)
        wrong = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        prior = (moved**2).sum() / (2 * TURN**2) + (shift**2).sum() / (2 * SHIFT**2)
        (wrong + prior).backward()
        return wrong + prior

    with torch.enable_grad():
        best.step(loss)  # type: ignore[arg-type]
    return Written(*(value.detach() for value in result()))
