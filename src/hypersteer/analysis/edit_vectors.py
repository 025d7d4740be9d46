"""Edits as rows of numbers, whatever their kind: what each writes at every site.

A steering vector is what it writes. Other kinds write something else on every state; they are
summarised by their mean write, what they add to ordinary hidden states on average over tokens. The
states are those of a few base prompts in the unsteered model, the same for all edits, so that two
summaries differ by the edits alone.

Shapes: N edits, R of them at a time, S sites, P ordinary prompts, T their tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersteer.analysis.subject import reads_prompts
from hypersteer.edits.kinds import Acts, Params, act, new_memory
from hypersteer.edits.sites import Site
from hypersteer.hypernet.maker import EditMaker
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import Spans, collate, length_batches
from hypersteer.lm.hooks import capture
from hypersteer.lm.units import token_norms
from hypersteer.progress import ProgressBar
from hypersteer.steering import Steerer

TOGETHER = 32
"""Edits that are made at once."""
ORDINARY = 4
"""Base prompts whose hidden states stand for all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditVectors:
    """What edits write.

    Attributes:
        writes: what each adds at each site, float32 on the CPU.
        sizes: typical length of the states at each site, see `lm.units.token_norms`.
        concept: which of the concepts each edit is for.
        prompt: which of the base prompts; 0 where edits do not depend on it.
        sites: where the edits act.
        exact: whether they are steering vectors, and no summaries.
    """

    writes: Float[Tensor, "N S D"]
    sizes: Float[Tensor, " S"]
    concept: Int[Tensor, " N"]
    prompt: Int[Tensor, " N"]
    sites: list[Site]
    exact: bool

    def lengths(self) -> Float[Tensor, "N S"]:
        """Return the length of each write in typical lengths of the states there."""
        return self.writes.norm(dim=-1) / self.sizes

    def rows(self) -> Float[Tensor, "N F"]:
        """Return the writes of all sites in one row, each in units of the states there."""
        return (self.writes / self.sizes[:, None]).flatten(1)


@torch.no_grad()
def edit_vectors(
    steerer: Steerer, concepts: Sequence[str], prompts: Sequence[str], text: str = "making edits"
) -> EditVectors:
    """Make the edits of every concept for every base prompt, and measure what they write.

    Args:
        steerer: the checkpoint.
        concepts: steering prompts.
        prompts: base prompts; the first few are the ordinary ones as well. Where edits do not
            depend on them, each concept has one edit.
        text: what the progress bar says.

    Raises:
        SteeringError: for what does not fit the context window.
    """
    lm, hypernet = steerer.lm, steerer.hypernet
    maker = EditMaker(lm, hypernet, steerer.card)
    said = [lm.chat.prompt(prompt) for prompt in prompts]
    used = said if reads_prompts(steerer.card) else said[:1]
    for prompt in used:
        lm.check_length(len(prompt.ids), "a base prompt")
        for concept in concepts:
            maker.check(concept, prompt)
    pairs = [(c, p) for c in range(len(concepts)) for p in range(len(used))]
    ground = _Ground(lm, hypernet.sites, prompts[:ORDINARY])
    writes = torch.empty(len(pairs), len(hypernet.sites), lm.width)
    steering = [len(lm.chat.text(concept)) for concept in concepts]
    lengths = [steering[c] + len(used[p].ids) for c, p in pairs]
    exact = True
    with ProgressBar(text, len(pairs), transient=True) as bar:
        for part in length_batches(lengths, rows=TOGETHER):
            own = [pairs[place] for place in part]
            made = maker.params([concepts[c] for c, _ in own], [used[p] for _, p in own])
            for number, (kind, params) in enumerate(zip(hypernet.kinds, made, strict=True)):
                exact = exact and "vector" in params
                writes[part, number] = ground.write(number, kind, params)
            bar.advance(len(part))
    index = torch.tensor(pairs)
    return EditVectors(
        writes=writes,
        sizes=ground.sizes,
        concept=index[:, 0],
        prompt=index[:, 1],
        sites=list(hypernet.sites),
        exact=exact,
    )


class _Ground:
    """Hidden states of ordinary prompts at some sites, and what edits add to them."""

    def __init__(self, lm: BaseLM, sites: Sequence[Site], prompts: Sequence[str]) -> None:
        rows = [lm.chat.prompt(prompt) for prompt in prompts]
        batch = collate(rows, pad_id=lm.chat.pad_id).to(lm.device)
        with capture(lm.blocks, sites, stop=True) as states:
            lm.forward(batch)
        self._spans: Spans = batch.spans
        self._states = [states[site].float() for site in sites]
        typical = [token_norms(hidden[batch.spans.prompt]).median() for hidden in self._states]
        self.sizes: Float[Tensor, " S"] = torch.stack(typical).cpu().clamp(min=1e-12)

    def write(self, number: int, kind: Acts, params: Params) -> Float[Tensor, "R D"]:
        """Return what each of R edits writes at a site, on average over the prompts' tokens."""
        if "vector" in params:
            return params["vector"].float().cpu()
        hidden, own = self._states[number], self._spans.prompt
        count = len(next(iter(params.values())))
        copies = len(hidden)
        given = {name: value.repeat_interleave(copies, 0) for name, value in params.items()}
        states = hidden.repeat(count, 1, 1)
        mask, real = own.repeat(count, 1), self._spans.real.repeat(count, 1)
        ones = torch.ones(len(states), device=states.device)
        added = act(kind, states, given, mask, ones, real, new_memory(kind)) - states
        sums = (added * mask[..., None]).unflatten(0, (count, copies)).sum((1, 2))
        return (sums / own.sum()).cpu()
