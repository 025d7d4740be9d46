"""Floating-point operations of a training step, in all its parts, from lengths alone.

What is counted, and how, is what `hypersteer.lm.flops` says: all matrix products that run, padding
included. What runs is what `hypersteer.training` runs, pass by pass, and what a hypernetwork and
its edits run; where these change, this has to.

Shapes: B rows, K steering prompts for each of them, R = K B, T tokens of prompt and response, C
tokens read of a steering prompt, D width.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hypersteer.config import HypernetConfig, LossConfig, TrainConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.edits.sites import Site
from hypersteer.hypernet.activation_prior import TOGETHER
from hypersteer.hypernet.flops import TRAINED, Flops, applying_flops, writing_flops
from hypersteer.hypernet.network import sites_of
from hypersteer.lm.flops import MULTIPLY_ADD, LMFlops, place, width_of
from hypersteer.lm.skeleton import Shaped


class RowLengths(NamedTuple):
    """Tokens of all that a step may read of a row.

    Attributes:
        prompt: of the base prompt that edits act on, chat prefix included.
        response: of the response.
        steering: of the steering prompt, without what begins a text.
        wrong: of the wrong steering prompt.
        prefix: of the chat prefix.
        plain: of the base prompt without the steering prompt.
        prompted: of the base prompt that says the steering prompt.
        own: of the base LM's own answer.
        negated: whether the row wants that one.
        texts: which steering prompts these two are; equal ones are read once.
        contrasted: whether the contrastive term is measured on it, where there is one.
    """

    prompt: int
    response: int
    steering: int
    wrong: int = 0
    prefix: int = 0
    plain: int = 0
    prompted: int = 0
    own: int = 0
    negated: bool = False
    texts: tuple[Hashable, Hashable] = (None, None)
    contrasted: bool = True

    @property
    def wanted(self) -> int:
        """Tokens of the answer that is to become likely."""
        return self.own if self.negated else self.response

    @property
    def unwanted(self) -> int:
        """Tokens of the other one."""
        return self.response if self.negated else self.own


def row_lengths(row: TrainingRow, own: Sequence[int] = ()) -> RowLengths:
    """Return the lengths of a training row, with the base LM's own answer where that counts."""
    return RowLengths(
        prompt=len(row.prompt.ids),
        response=len(row.response),
        steering=len(row.steering),
        wrong=len(row.wrong),
        prefix=row.prompt.prefix,
        plain=len(row.plain.ids),
        prompted=0 if row.prompted is None else len(row.prompted.ids),
        own=len(own),
        negated=row.negated,
        texts=(tuple(row.steering), tuple(row.wrong)),
        contrasted=row.contrast > 0,
    )


def as_contrasted(rows: Sequence[RowLengths], loss: LossConfig) -> list[RowLengths]:
    """Return a step's rows with as many of them contrasted as the loss says, of all lengths."""
    count = math.ceil(loss.contrast_share * len(rows)) if loss.contrast else 0
    picked = {number * len(rows) // count for number in range(count)}
    return [row._replace(contrasted=number in picked) for number, row in enumerate(rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """All that a step's operations depend on besides lengths.

    Attributes:
        lm: what passes through the base LM cost.
        hypernet: the hypernetwork's configuration.
        sites: where it writes, ascending.
        loss: what is minimised.
        parts: that a step's rows are run in, one after the other.
        lead: tokens that begin a text: the BOS, if there is one.
        shares: whether one pass below the site does for both steering prompts of a row; so it is
            wherever `hypersteer.lm.upper_blocks` finds that it can be.
    """

    lm: LMFlops
    hypernet: HypernetConfig
    sites: tuple[Site, ...]
    loss: LossConfig
    parts: int = 1
    lead: int = 1
    shares: bool = True

    @classmethod
    def of(cls, config: TrainConfig, lm: Shaped) -> "StepShape":
        """Return the shape of a run's steps.

        Args:
            config: its settings, those of its start included.
            lm: its base LM, with or without weights; one without a tokenizer is taken to have a
                BOS.

        Raises:
            ConfigError: if the sites do not ascend.
            ModelError: if one is not in the base LM.
        """
        site = lm.site(config.site.layer, config.site.kind)
        return cls(
            lm=LMFlops.of(lm.model, lm.blocks),
            hypernet=config.hypernet,
            sites=tuple(sites_of(lm, config.hypernet, site)),
            loss=config.loss,
            parts=config.optim.accumulation,
            lead=1 if lm.chat is None else len(lm.chat.lead),
        )


def run_flops(shape: StepShape, steps: Iterable[Sequence[RowLengths]]) -> Flops:
    """Count the operations of a whole run's steps, given the rows of each; see `step_flops`."""
    return sum((step_flops(shape, rows) for rows in steps), Flops())


def step_flops(shape: StepShape, rows: Sequence[RowLengths]) -> Flops:
    """Count the operations of one optimizer step.

    The optimizer's own are left out, which has no matrix products.

    Args:
        shape: see there.
        rows: lengths of the rows of the step, in its order; of one process.
    """
    size = len(rows) // shape.parts
    parts = (rows[part * size : (part + 1) * size] for part in range(shape.parts))
    return sum((_part(shape, part) for part in parts), Flops())


def _part(shape: StepShape, rows: Sequence[RowLengths]) -> Flops:
    """Count the operations of the rows that run together, by objective."""
    loss = shape.loss
    if loss.objective == "reconstruction":
        return Flops(hypernet=_writing(shape, rows, 1), prior=_prior(shape, rows, 1))
    if loss.objective == "preference":
        twice = [*rows, *rows]
        return _steered(shape, twice, [r.wanted for r in rows] + [r.unwanted for r in rows])
    if loss.objective == "activations":
        stop = place(shape.sites[-1])
        found = _steered(shape, rows, [r.response for r in rows], stop=stop)
        return replace(found, teacher=_teacher(shape, rows, stop))
    both, single = _parted(rows, loss)
    found = Flops()
    for some, copies in ((both, 2), (single, 1)):
        if some:
            found += _steered(shape, some, [r.wanted for r in some], copies)
    if loss.objective == "distillation":
        found = replace(found, teacher=_teacher(shape, rows, shape.lm.top))
    if loss.diversity:  # products of all pairs of rows, forward and back to both
        pairs = TRAINED * MULTIPLY_ADD * len(rows) ** 2 * shape.lm.width
        found = replace(found, edits=found.edits + len(shape.sites) * pairs)
    return found


def _parted(
    rows: Sequence[RowLengths], loss: LossConfig
) -> tuple[Sequence[RowLengths], Sequence[RowLengths]]:
    """Return the rows that the contrastive term is measured on, and the others.

    Where not all are, one stands in for either kind that has none.
    """
    if not loss.contrast:
        return [], rows
    both = [row for row in rows if row.contrasted]
    single = [row for row in rows if not row.contrasted]
    if loss.contrast_share == 1 and not loss.negated:
        return both, single
    if not both:
        return single[:1], single[1:] or single[:1]
    return both, single or both[-1:]


def _steered(
    shape: StepShape,
    rows: Sequence[RowLengths],
    responses: Sequence[int],
    copies: int = 1,
    *,
    stop: int | None = None,
) -> Flops:
    """Count one forward pass under edits and back, of B rows under K steering prompts each.

    Args:
        shape: see there.
        rows: lengths of the B rows.
        responses: of the responses they are run with.
        copies: K.
        stop: place above which no block runs, nor the head; by default all run.
    """
    lm, lowest = shape.lm, shape.sites[0]
    length = width_of([r.prompt + n for r, n in zip(rows, responses, strict=True)])
    count, every = len(rows), copies * len(rows)
    first = place(lowest)
    # Up to here the copies of a row are one and the same.
    shared = 2 * (lowest.layer + (lowest.kind == "residual"))
    shared = shared if copies > 1 and shape.shares else 0
    last = lm.top if stop is None else stop
    tokens = copies * sum(responses) if stop is None else 0
    return Flops(
        base_lm_below=lm.forward(count, length, shared)
        + lm.forward(every, length, first, start=shared),
        base_lm_above=lm.forward(every, length, last, start=first)
        + lm.backward(every, length, last, start=first),
        head=2 * tokens * lm.head,
        hypernet=_writing(shape, rows, copies),
        edits=applying_flops(
            shape.hypernet, lm.width, len(shape.sites), every, length, _read(shape, rows, copies)
        ),
        prior=_prior(shape, rows, copies),
    )


def _teacher(shape: StepShape, rows: Sequence[RowLengths], stop: int) -> int:
    """Count the passes forward of the prompted base LM and, where it is wanted, the plain one."""
    lm, head = shape.lm, stop == shape.lm.top and shape.loss.objective == "distillation"
    plain = shape.loss.guidance or shape.loss.objective == "activations"
    found = 0
    for lengths in ([r.prompted for r in rows], [r.plain for r in rows] if plain else []):
        if lengths:
            answers = [r.wanted for r in rows]
            length = width_of([n + m for n, m in zip(lengths, answers, strict=True)])
            found += lm.forward(len(rows), length, stop) + head * sum(answers) * lm.head
    return found


def _texts(rows: Sequence[RowLengths], copies: int) -> list[tuple[Hashable, int]]:
    """Return which steering prompts are read, and their tokens, the right ones first."""
    right = [(r.texts[0], r.steering) for r in rows]
    return right if copies == 1 else [*right, *((r.texts[1], r.wrong) for r in rows)]


def _read(shape: StepShape, rows: Sequence[RowLengths], copies: int) -> int:
    """Return the length C that what the hypernetwork reads is padded to."""
    beside = [0] * len(rows)
    if shape.hypernet.variant == "in-context":
        beside = [r.prompt - r.prefix for r in rows]
    texts = _texts(rows, copies)
    return shape.lead + width_of([n + m for (_, n), m in zip(texts, beside * copies, strict=True)])


def _writing(shape: StepShape, rows: Sequence[RowLengths], copies: int) -> int:
    """Count what writing the edits of B rows and K steering prompts costs, and the way back."""
    read = _read(shape, rows, copies)
    states = max(r.prompt for r in rows) - min(r.prefix for r in rows)
    every, sites = copies * len(rows), len(shape.sites)
    return writing_flops(shape.hypernet, shape.lm, sites, every, read, states)


def _prior(shape: StepShape, rows: Sequence[RowLengths], copies: int) -> int:
    """Count the base LM's passes over distinct steering prompts, where their states are wanted."""
    if shape.hypernet.prior != "activation":
        return 0
    lengths = list(dict(_texts(rows, copies)).values())
    parts = [lengths[start : start + TOGETHER] for start in range(0, len(lengths), TOGETHER)]
    stop = place(shape.sites[0])
    return sum(shape.lm.forward(len(part), shape.lead + width_of(part), stop) for part in parts)
