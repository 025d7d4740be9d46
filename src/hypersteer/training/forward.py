"""One forward pass of the base LM under one or more edits per row: the heart of a training step.

Blocks below the site run once per row and without gradient, since nothing below needs one. At the
site the hypernetwork reads the states and writes edits for each steering prompt; the blocks
above run on every copy; the vocabulary head runs on the tokens that predict the response only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersteer.config import HypernetConfig
from hypersteer.edits.kinds import Acts, act, new_memory
from hypersteer.edits.sites import Scope, Site
from hypersteer.engine.guidance import guided_logits
from hypersteer.hypernet.maker import read_steering, write_edits
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, TokenBatch, collate
from hypersteer.lm.hooks import ReadWrite, at_sites
from hypersteer.lm.likelihood import response_logits, response_losses
from hypersteer.lm.recomputing import recomputing
from hypersteer.lm.scopes import scope_mask
from hypersteer.lm.upper_blocks import repeated, shared_below, upper_blocks


@dataclass(frozen=True, slots=True)
class Steered:
    """What stays the same from step to step: who writes what, where, in which base LM.

    Attributes:
        lm: the base LM.
        network: the hypernetwork, or Accelerate's wrapper around it.
        config: the hypernetwork's configuration.
        sites: where it reads (the first) and writes, ascending.
        scope: which tokens its edits touch.
        recomputes: whether blocks above the lowest site run again in the backward pass.
    """

    lm: BaseLM
    network: nn.Module
    config: HypernetConfig
    sites: Sequence[Site]
    scope: Scope
    recomputes: bool = False

    def above(self, lm: BaseLM) -> BaseLM:
        """Return the base LM, or its upper blocks, as it runs above the lowest site.

        A block that an edit is written inside of keeps its activations.
        """
        if not self.recomputes:
            return lm
        inside = {site.layer for site in self.sites if site.kind != "residual"}
        above = range(self.sites[0].layer + 1, lm.depth)
        return recomputing(lm, set(above) - inside)

    @property
    def kinds(self) -> Sequence[Acts]:
        """How the edits at each site apply."""
        return self._own.kinds

    @property
    def excess(self) -> Float[Tensor, " D"]:
        """What states are divided by, so that no dimension outweighs the others."""
        return cast(Tensor, self._own.excess)

    @property
    def _own(self) -> Hypernet:
        """The hypernetwork, out of its distributed wrapper."""
        return cast(Hypernet, getattr(self.network, "module", self.network))


def steered_losses(
    setup: Steered,
    prompts: Sequence[PromptIds],
    responses: Sequence[list[int]],
    steering: Sequence[Sequence[list[int]]],
    teacher: Float[Tensor, "N V"] | None = None,
    strengths: Sequence[float] | None = None,
    changes: list[Tensor] | None = None,
) -> Float[Tensor, "K B"]:
    """Return each row's mean loss on its response under each of K steering prompts.

    Args:
        setup: the base LM and the hypernetwork.
        prompts: B base prompts.
        responses: B responses, as ids.
        steering: K lists of B steering prompts, as ids.
        teacher: logits to come close to, see `teacher_logits`; by default the loss is the
            cross-entropy of the response.
        strengths: of each row's edits; by default 1.
        changes: filled with what is added to the states at each site, the mean [K B, D] over each
            row's edited tokens.
    """

    def losses(lm: BaseLM, whole: TokenBatch) -> Tensor:
        return response_losses(lm, whole, len(steering), teacher)

    return _under_edits(setup, prompts, responses, steering, strengths, losses, changes)


def steered_states(
    setup: Steered,
    prompts: Sequence[PromptIds],
    responses: Sequence[list[int]],
    steering: Sequence[list[int]],
    strengths: Sequence[float] | None = None,
) -> Float[Tensor, "N D"]:
    """Return the edited states of all N response tokens at the last site; no block above it runs.

    Args: see `steered_losses`, of one steering prompt for each row.
    """

    def states(lm: BaseLM, whole: TokenBatch) -> Tensor:
        return lm.states(whole, setup.sites[-1])[whole.spans.response]

    return _under_edits(setup, prompts, responses, [steering], strengths, states)


def _under_edits(
    setup: Steered,
    prompts: Sequence[PromptIds],
    responses: Sequence[list[int]],
    steering: Sequence[Sequence[list[int]]],
    strengths: Sequence[float] | None,
    run: Callable[[BaseLM, TokenBatch], Tensor],
    changes: list[Tensor] | None = None,
) -> Tensor:
    """Return what `run` makes of the base LM, or its upper blocks, and K copies of the batch."""
    lm, lowest, copies = setup.lm, setup.sites[0], len(steering)
    batch = collate(prompts, responses, pad_id=lm.chat.pad_id).to(lm.device)
    mask = scope_mask([setup.scope] * len(prompts), batch.spans).repeat(copies, 1)
    real = batch.spans.real.repeat(copies, 1)
    flat = [ids for one in steering for ids in one]
    concept_states = read_steering(lm, setup.config, lowest, flat)
    each = [1.0] * len(prompts) if strengths is None else strengths
    strength = torch.tensor([*each] * copies, dtype=torch.float32, device=lm.device)
    made: list[dict[str, Tensor]] = []

    def at(number: int) -> ReadWrite:
        def write(hidden: Tensor) -> Tensor:
            if number == 0:
                base = hidden[: len(prompts)]
                made[:] = write_edits(
                    setup.network,
                    lm,
                    setup.config,
                    flat,
                    prompts,
                    base,
                    batch.spans,
                    concept_states,
                )
            kind = setup.kinds[number]
            memory = new_memory(kind)
            edited = act(kind, hidden, made[number], mask, strength, real, memory)
            if changes is not None:
                added = (edited.float() - hidden.float()) * mask[..., None]
                changes.append(added.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
            return edited

        return write

    acts = [(site, at(number)) for number, site in enumerate(setup.sites)]
    whole = repeated(batch, copies)
    upper = upper_blocks(lm, shared_below(lowest)) if copies > 1 else None
    if upper is None:
        above = setup.above(lm)
        with at_sites(above.blocks, acts):
            return run(above, whole)
    with torch.no_grad():
        states = lm.states(batch, upper.border)
    above = setup.above(upper.view)
    with upper.given(states.repeat(copies, 1, 1)), at_sites(above.blocks, acts):
        return run(above, whole)


def plain_losses(
    lm: BaseLM, prompts: Sequence[PromptIds], responses: Sequence[list[int]]
) -> Float[Tensor, " B"]:
    """Return each row's mean cross-entropy on its response without any edit."""
    batch = collate(prompts, responses, pad_id=lm.chat.pad_id).to(lm.device)
    return response_losses(lm, batch)[0]


@torch.no_grad()
def teacher_logits(
    lm: BaseLM,
    prompted: Sequence[PromptIds],
    prompts: Sequence[PromptIds],
    responses: Sequence[list[int]],
    guidance: float,
) -> Float[Tensor, "N V"]:
    """Return logits of the prompted base LM on all response tokens: distillation's target.

    Args:
        lm: the base LM.
        prompted: B prompts with the steering prompt in the user turn.
        prompts: B prompts without.
        responses: B responses, as ids.
        guidance: how far to push the prompted model from the unprompted one; see
            `hypersteer.engine.guidance`.
    """

    def logits(given: Sequence[PromptIds]) -> Tensor:
        batch = collate(given, responses, pad_id=lm.chat.pad_id).to(lm.device)
        return response_logits(lm, batch)[0]

    if not guidance:
        return logits(prompted)
    return guided_logits(logits(prompted), logits(prompts), guidance)


@torch.no_grad()
def teacher_states(
    setup: Steered,
    prompted: Sequence[PromptIds],
    prompts: Sequence[PromptIds],
    responses: Sequence[list[int]],
    guidance: float,
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Return states at the last site on all response tokens: of the prompted base LM, and plain.

    Args: see `teacher_logits`; `guidance` pushes the prompted states further along their
    difference from those of `prompts`.
    """
    lm, site = setup.lm, setup.sites[-1]

    def states(given: Sequence[PromptIds]) -> Tensor:
        batch = collate(given, responses, pad_id=lm.chat.pad_id).to(lm.device)
        return lm.states(batch, site)[batch.spans.response].float()

    told, plain = states(prompted), states(prompts)
    return told + guidance * (told - plain), plain
