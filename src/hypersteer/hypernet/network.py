"""The hypernetwork: steering prompt and context in, parameters of edits out (paper, section 3).

One class serves the three variants, which differ in what is read:

- `no-context`: the steering prompt;
- `in-context`: the steering prompt and the base prompt, read together as text;
- `cross-attention`: the steering prompt, and the base LM's states at the site on the base prompt.

Shapes: R rows, C tokens read, T base tokens, D width.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.config import HypernetConfig
from hypersteer.edits.kinds import Acts
from hypersteer.edits.per_token import NAME as PER_TOKEN
from hypersteer.edits.registry import edit_kind
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.hypernet.activation_prior import ActivationPrior, read_concept_states
from hypersteer.hypernet.checks import check_config, check_pairs
from hypersteer.hypernet.cross_attention import (
    CrossAttention,
    HeadShape,
    attending,
    head_shape,
)
from hypersteer.hypernet.fields import Fields
from hypersteer.hypernet.heads import Layout, new_head
from hypersteer.hypernet.trunk import build_trunk, recomputing_trunk, trunk_blocks
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate
from hypersteer.lm.skeleton import Shaped
from hypersteer.lm.units import dimension_scales, excess, robust_scale

STYLE_RATE = 10.0
"""Factor on the style vector: it learns so much faster than the edits, and gets there first."""

MEAN_RATE = 0.02
"""How fast the running mean of the vectors follows that of a step: over some 50 steps."""

MASSIVE = 4.0
"""Dimensions that are more times as large as the typical one are scaled down to that before they
are read, since two massive ones would be all that a normalised state shows."""

HEAVY_TAIL = 2.25
"""Root mean square of hidden states without massive dimensions, in units of their typical size, as
in SmolLM2: tails are heavier than a normal distribution's. The unit of vectors has that factor."""

CALIBRATION = "The quick tests of a morning: read a page, boil two eggs, and call an old friend."
"""Any ordinary text; its hidden states give the unit in which vectors are written."""

CENTRE_PROMPTS = (
    "talk like a pirate",
    "mention the weather",
    "references to music and songs",
    "be cheerful and warm",
    "use short sentences",
    "answer as a doctor",
    "words about money and trade",
    "write it as a poem",
)
"""Steering prompts of several kinds; the mean of their states is what they have in common."""


class Hypernet(nn.Module):
    """Maps what it reads to one edit per row and site; the paper's network writes one vector.

    Weights are float32. The token embeddings are the base LM's, frozen and not part of it.

    Attributes:
        sites: where edits are written; states are read at the first.
        kinds: how the edits at each site apply.
        recomputes: whether its blocks run again in the backward pass, which saves memory.

    Args:
        lm: the base LM; its first blocks are copied, itself it stays outside. Of one without
            weights the hypernetwork has none either (in a context of torch's meta device).
        config: variant, kind of edit, and sizes.
        site: where states are read and edits written; `config.more_layers` adds sites above it.
        scale: unit of what is written, kept with the weights.

    Raises:
        ConfigError: if the sizes do not fit the base LM, or the kind of edit is unknown.
    """

    def __init__(
        self, lm: Shaped, config: HypernetConfig, site: Site, *, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.config = config
        self.sites = sites_of(lm, config, site)
        self.recomputes = False
        check_config(config)
        self.trunk = build_trunk(lm, config.blocks, pretrained=config.init == "pretrained")
        self.cross = _cross_attention(lm, config)
        self.fields: Fields | None = None
        self.kinds: list[Acts]
        # Parameters are made in the order in which optimizers of kept runs know them.
        if config.edit == PER_TOKEN:
            heads, own = _heads(lm, config).heads, config.self_attention
            check_pairs(lm.width, heads, config)
            self.fields = Fields(lm.width, heads, len(self.sites), self_attention=own)
            self.kinds = list(self.fields.kinds(self._sizes))
        else:
            kind = edit_kind(config.edit)
            self.kinds = [kind] * len(self.sites)
            strength = config.learned_strength
            sizes = (lm.width, config.rank, len(self.sites))
            self.layout = Layout(kind, *sizes, strength=strength)
            self.head = new_head(lm.width, config.head_width or lm.width, self.layout.size)
        self.prior = ActivationPrior(lm.width) if config.prior == "activation" else None
        # What all answers of the training data share is not steering: a vector of its own learns
        # it, is there in training only, and the edits are kept at mean zero.
        self.style = nn.Parameter(torch.zeros(self.layout.size)) if config.style else None
        if config.style:
            self.register_buffer("mean", torch.zeros(self.layout.size))
        # No buffer: DistributedDataParallel would overwrite one with that of the first process.
        self._written: Tensor | None = None
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("excess", torch.ones(lm.width))
        self._takes_positions = "position_ids" in inspect.signature(self.trunk.forward).parameters
        self.to(lm.device)

    def _sizes(self) -> Float[Tensor, " D"]:
        """Return the size of each dimension of the states, which edits are written in units of."""
        return cast(Tensor, self.scale) * cast(Tensor, self.excess)

    def forward(
        self,
        embeds: Float[Tensor, "R C D"],
        mask: Bool[Tensor, "R C"],
        states: Float[Tensor, "R T D"] | None = None,
        readable: Bool[Tensor, "R T"] | None = None,
        concept_states: Float[Tensor, "R D"] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Return parameters [R, ...] of the edits at each site.

        Args:
            embeds: the base LM's embeddings of what is read, padded on the right.
            mask: which of them are real.
            states: the base LM's hidden states at the first site (cross-attention variant only).
            readable: which states may be read: those of the base prompt.
            concept_states: the base LM's states of the steering prompts (with the activation prior
                only).
        """
        inputs: dict = {"inputs_embeds": embeds.float(), "attention_mask": mask.long()}
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        within = self._within(states, readable)
        with ExitStack() as stack:
            if self.recomputes and torch.is_grad_enabled():
                trunk = recomputing_trunk(self.trunk, within)
            else:
                trunk = self.trunk
                for context in within:
                    stack.enter_context(context())
            hidden = trunk(**inputs, use_cache=False).last_hidden_state
        if self.fields is not None:
            return self.fields(hidden, mask)
        last = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
        if self.prior is None:
            numbers = self.head(last)
        else:
            assert concept_states is not None
            guess, beside = self.prior(concept_states.float() / self.excess)
            numbers = guess.repeat(1, self.layout.sites) + self.head(last + beside)
        if self.style is not None:
            numbers = self._without_style(numbers, self.style)
        return self.layout.split(numbers, cast(Tensor, self.scale), cast(Tensor, self.excess))

    def train(self, mode: bool = True) -> "Hypernet":
        """Set the mode; the trunk's never, whose dropout and routers would draw at random."""
        super().train(mode).get_submodule("trunk").eval()
        return self

    def _within(
        self, states: Tensor | None, readable: Tensor | None
    ) -> list[Callable[[], AbstractContextManager[None]]]:
        """Return what makes the context of each block: cross-attention, where there is any."""
        if not len(self.cross):
            return [nullcontext] * self.config.blocks
        assert states is not None
        assert readable is not None
        read = states.float() / self.excess
        return [
            partial(attending, block, cast(CrossAttention, cross), read, readable)
            for block, cross in zip(trunk_blocks(self.trunk), self.cross, strict=True)
        ]

    def _without_style(self, numbers: Tensor, style: Tensor) -> Tensor:
        """Return numbers less their running mean; in training, with the style in its place."""
        if not self.training:
            return numbers - self.mean
        raw = numbers.detach().float()
        summed = torch.cat([raw.sum(0), raw.new_tensor([len(raw)])])
        self._written = summed if self._written is None else self._written + summed
        return numbers - self.mean + STYLE_RATE * style

    def follow_mean(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Move the running mean towards the mean of all vectors written in training since last.

        To be called once in every optimizer step, so that the mean follows whole steps, whatever
        parts and processes their rows are spread over. Without `style` there is nothing to do.

        Args:
            reduce: adds a tensor over all processes.
        """
        written, self._written = self._written, None
        if written is None:
            return
        summed = reduce(written)
        with torch.no_grad():
            self.mean.lerp_(summed[:-1] / summed[-1], MEAN_RATE)


def new_hypernet(
    lm: BaseLM,
    config: HypernetConfig,
    site: Site,
    seed: int,
    texts: Sequence[str] = CENTRE_PROMPTS,
) -> Hypernet:
    """Return an untrained hypernetwork; the same seed gives the same weights.

    Args:
        lm: the base LM.
        config: variant, kind of edit, and sizes.
        site: where it reads and writes.
        seed: of its random weights.
        texts: steering prompts whose mean state the activation prior takes as its centre.

    Raises:
        ConfigError: if the sizes do not fit the base LM.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = _typical_states(lm, site)
        hypernet = Hypernet(lm, config, site, scale=HEAVY_TAIL * robust_scale(hidden))
    hypernet.get_buffer("excess").copy_(excess(dimension_scales(hidden), MASSIVE))
    if hypernet.prior is not None:
        steering = [lm.chat.text(text) for text in texts]
        centre = read_concept_states(lm, site, steering).mean(0)
        hypernet.prior.get_buffer("centre").copy_(centre / hypernet.excess)
    return hypernet


def sites_of(lm: Shaped, config: HypernetConfig, site: Site) -> list[Site]:
    """Return where a hypernetwork writes: the site whose states it reads, and others above it.

    Raises:
        ConfigError: if one is not above the last.
        ModelError: if one is not in the base LM.
    """
    sites = [lm.site(site.layer, site.kind)]
    for layer in config.more_layers:
        sites.append(lm.site(layer, site.kind))
        if sites[-1] <= sites[-2]:
            raise ConfigError(
                f"hypernet.more_layers {list(config.more_layers)} must ascend from above layer "
                f"{sites[0].layer}, where states are read"
            )
    return sites


def _cross_attention(lm: Shaped, config: HypernetConfig) -> nn.ModuleList:
    """Cross-attention for every block of the trunk, in the variant that has it.

    Raises:
        ConfigError: if numbers of heads and widths do not divide each other.
    """
    if config.variant != "cross-attention":
        return nn.ModuleList()
    shape = _heads(lm, config)
    return nn.ModuleList(CrossAttention(lm.width, *shape) for _ in range(config.blocks))


def _heads(lm: Shaped, config: HypernetConfig) -> HeadShape:
    """Return the heads of modules of our own, by default as many as the base LM has.

    Raises:
        ConfigError: if numbers of heads and widths do not divide each other.
    """
    known = getattr(lm.model.config.get_text_config(), "num_attention_heads", None)
    return head_shape(config, lm.width, known)


@torch.no_grad()
def _typical_states(lm: BaseLM, site: Site) -> Float[Tensor, "N D"]:
    """Hidden states at a site, whose size is the unit of what is written there."""
    batch = collate([lm.chat.prompt(CALIBRATION)], pad_id=lm.chat.pad_id).to(lm.device)
    return lm.states(batch, site)[batch.spans.prompt]
