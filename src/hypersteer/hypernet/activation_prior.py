"""A first guess at the steering vector: the base LM's own state of the steering prompt.

Adding the state of a text's last token at a site steers towards what the text is about (activation
addition, Turner et al. 2023, arXiv 2308.10248). It needs no training, so a hypernetwork that
starts there knows something of every concept, and learns what to change.

Shapes: R rows, D width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate

GAIN = 0.4
"""Size of the first guess in units of the site's typical state: visible, but not overpowering."""

TOGETHER = 64
"""Steering prompts that the base LM reads at once."""


class ActivationPrior(nn.Module):
    """Centred and normalised states of steering prompts, and what is added for them.

    Both maps are learnt. The first starts as the identity, the second at zero.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.guess = nn.Linear(width, width, bias=False)
        self.read = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.guess.weight)
        nn.init.zeros_(self.read.weight)

    def forward(
        self, concept_states: Float[Tensor, "R D"]
    ) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R D"]]:
        """Return the first guess in units of the site's scale, and what the head reads besides."""
        direction = F.rms_norm(concept_states.float() - self.centre, concept_states.shape[-1:])
        return GAIN * self.guess(direction), self.read(direction)


@torch.no_grad()
def read_concept_states(
    lm: BaseLM, site: Site, steering: Sequence[Sequence[int]]
) -> Float[Tensor, "R D"]:
    """Return the base LM's state at the site of the last token of each steering prompt, float32.

    To be called outside any forward pass of the base LM under edits.

    Args:
        lm: the base LM.
        site: where to read.
        steering: R steering prompts as ids; equal ones are read once.
    """
    distinct = list(dict.fromkeys(map(tuple, steering)))
    found: dict[tuple[int, ...], Tensor] = {}
    for start in range(0, len(distinct), TOGETHER):
        part = distinct[start : start + TOGETHER]
        batch = collate(
            [PromptIds([*lm.chat.lead, *ids], 0) for ids in part], pad_id=lm.chat.pad_id
        )
        batch = batch.to(lm.device)
        states = lm.states(batch, site)
        last = batch.spans.real.sum(1) - 1
        rows = states[torch.arange(len(part), device=states.device), last].float()
        found |= dict(zip(part, rows, strict=True))
    return torch.stack([found[tuple(ids)] for ids in steering])
