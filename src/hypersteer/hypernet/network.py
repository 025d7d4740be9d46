"""The hypernetwork: steering prompt and context in, steering vector out (paper, section 3).

One class serves the three variants, which differ in what is read:

- `no-context`: the steering prompt;
- `in-context`: the steering prompt and the base prompt, read together as text;
- `cross-attention`: the steering prompt, and the base LM's states at the site on the base prompt.

Shapes: R rows, C tokens read, T base tokens, D width.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.config import HypernetConfig
from hypersteer.edits import Site
from hypersteer.errors import ConfigError
from hypersteer.hypernet.cross_attention import CrossAttention, attending, default_heads
from hypersteer.hypernet.prior import ActivationPrior, own_states
from hypersteer.hypernet.trunk import build_trunk, trunk_blocks
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate
from hypersteer.lm.units import dimension_scales, excess, robust_scale

STYLE_RATE = 10.0
"""Factor on the style vector: it learns so much faster than the edits, and gets there first."""

MEAN_RATE = 0.02
"""How fast the running mean of the vectors follows that of a step: over some 50 steps."""

MASSIVE = 4.0
"""Dimensions that are more times as large as the typical one are scaled down to that before they
are read, since two massive ones would be all that a normalised state shows."""

WIDTH_PER_HEAD = 64
"""For base LMs without attention heads of their own."""

HEAVY_TAIL = 2.25
"""Root mean square of hidden states without massive dimensions, in units of their typical size, as
in SmolLM2: tails are heavier than a normal distribution's. The unit of vectors has that factor."""

HEAD_INIT = 0.05
"""Factor on the default initialisation of the head's last layer: first edits are small."""

CALIBRATION = "The quick tests of a morning: read a page, boil two eggs, and call an old friend."
"""Any ordinary text; its hidden states give the unit in which vectors are written."""

USUAL = (
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
    """Maps what it reads to one steering vector per row.

    Weights are float32. The token embeddings are the base LM's, frozen and not part of it.

    Args:
        lm: the base LM; its first blocks are copied, itself it stays outside.
        config: variant and sizes.
        site: where states are read and the vector is written.
        scale: unit of the written vectors, kept with the weights.

    Raises:
        ConfigError: if the sizes do not fit the base LM.
    """

    def __init__(
        self, lm: BaseLM, config: HypernetConfig, site: Site, *, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.config = config
        self.site = site
        self.trunk = build_trunk(lm, config.blocks, pretrained=config.init == "pretrained")
        self.cross = nn.ModuleList()
        if config.variant == "cross-attention":
            text_config = lm.model.config.get_text_config()
            wanted = getattr(text_config, "num_attention_heads", None)
            wanted = wanted or max(1, lm.width // WIDTH_PER_HEAD)
            heads = config.cross_heads or default_heads(lm.width, wanted)
            if lm.width % heads:
                raise ConfigError(f"hypernet.cross_heads {heads} does not divide width {lm.width}")
            self.cross.extend(CrossAttention(lm.width, heads) for _ in range(config.blocks))
        hidden = config.head_width or lm.width
        self.head = nn.Sequential(
            nn.Linear(lm.width, hidden), nn.GELU(), nn.Linear(hidden, lm.width)
        )
        with torch.no_grad():
            for parameter in self.head[-1].parameters():
                parameter.mul_(HEAD_INIT)
        self.prior = ActivationPrior(lm.width) if config.prior == "activation" else None
        # What all answers of the training data share is not steering: a vector of its own learns
        # it, is there in training only, and the edits are kept at mean zero.
        self.style = nn.Parameter(torch.zeros(lm.width)) if config.style else None
        if config.style:
            self.register_buffer("mean", torch.zeros(lm.width))
        # No buffer: DistributedDataParallel would overwrite one with that of the first process.
        self._written: Tensor | None = None
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("excess", torch.ones(lm.width))
        self._takes_positions = "position_ids" in inspect.signature(self.trunk.forward).parameters
        self.to(lm.device)

    def forward(
        self,
        embeds: Float[Tensor, "R C D"],
        mask: Bool[Tensor, "R C"],
        states: Float[Tensor, "R T D"] | None = None,
        readable: Bool[Tensor, "R T"] | None = None,
        own: Float[Tensor, "R D"] | None = None,
    ) -> Float[Tensor, "R D"]:
        """Steering vectors.

        Args:
            embeds: the base LM's embeddings of what is read, padded on the right.
            mask: which of them are real.
            states: the base LM's hidden states at the site (cross-attention variant only).
            readable: which states may be read: those of the base prompt.
            own: the base LM's states of the steering prompts (with the activation prior only).
        """
        inputs: dict = {"inputs_embeds": embeds.float(), "attention_mask": mask.long()}
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        with ExitStack() as stack:
            if len(self.cross):
                assert states is not None
                assert readable is not None
                states = states.float() / self.excess
                for block, cross in zip(trunk_blocks(self.trunk), self.cross, strict=True):
                    stack.enter_context(
                        attending(block, cast(CrossAttention, cross), states, readable)
                    )
            hidden = self.trunk(**inputs, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
        if self.prior is None:
            vectors = self.head(last)
        else:
            assert own is not None
            guess, beside = self.prior(own.float() / self.excess)
            vectors = guess + self.head(last + beside)
        if self.style is not None:
            vectors = self._without_style(vectors, self.style)
        return (vectors * self.scale).float()

    def _without_style(self, vectors: Tensor, style: Tensor) -> Tensor:
        """Vectors less their running mean; in training, with the style vector in its place."""
        if not self.training:
            return vectors - self.mean
        raw = vectors.detach().float()
        summed = torch.cat([raw.sum(0), raw.new_tensor([len(raw)])])
        self._written = summed if self._written is None else self._written + summed
        return vectors - self.mean + STYLE_RATE * style

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
    lm: BaseLM, config: HypernetConfig, site: Site, seed: int, texts: Sequence[str] = USUAL
) -> Hypernet:
    """An untrained hypernetwork; the same seed gives the same weights.

    Args:
        lm: the base LM.
        config: variant and sizes.
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
    cast(Tensor, hypernet.excess).copy_(excess(dimension_scales(hidden), MASSIVE))
    if hypernet.prior is not None:
        centre = own_states(lm, site, [lm.chat.text(text) for text in texts]).mean(0)
        hypernet.prior.centre.copy_(centre / hypernet.excess)
    return hypernet


def read_steering(
    lm: BaseLM, config: HypernetConfig, site: Site, steering: Sequence[Sequence[int]]
) -> Float[Tensor, "R D"] | None:
    """What `write_vectors` wants as `own`: None without the activation prior."""
    return own_states(lm, site, steering) if config.prior == "activation" else None


def write_vectors(
    network: nn.Module,
    lm: BaseLM,
    config: HypernetConfig,
    steering: Sequence[Sequence[int]],
    prompts: Sequence[PromptIds],
    hidden: Float[Tensor, "B T D"] | None = None,
    spans: Spans | None = None,
    own: Float[Tensor, "R D"] | None = None,
) -> Float[Tensor, "R D"]:
    """Run a hypernetwork on R steering prompts for B base prompts, in one pass.

    Args:
        network: the hypernetwork, or a distributed wrapper around it.
        lm: the base LM.
        config: the hypernetwork's configuration.
        steering: R lists of token ids; R is a multiple of B, and row r belongs to base row r mod B.
        prompts: B base prompts.
        hidden: the base LM's states at the site; only the cross-attention variant needs them.
        spans: what each base token is; needed with `hidden`.
        own: what `read_steering` gives for these steering prompts.
    """
    copies = len(steering) // len(prompts)
    if config.variant == "in-context":
        steering = [
            [*ids, *prompt.ids[prompt.prefix :]]
            for ids, prompt in zip(steering, [*prompts] * copies, strict=True)
        ]
    bos = lm.tokenizer.bos_token_id
    lead = [] if bos is None else [bos]
    read = collate([PromptIds([*lead, *ids], 0) for ids in steering], pad_id=lm.chat.pad_id)
    read = read.to(lm.device)
    embeds = lm.embed(read.ids)
    if config.variant != "cross-attention":
        return network(embeds, read.spans.real, own=own)
    assert hidden is not None
    assert spans is not None
    # Response tokens and outer padding are cut off before anything is computed on them.
    columns = spans.prompt.any(0).nonzero().squeeze(1)
    window = slice(int(columns[0]), int(columns[-1]) + 1)
    states = hidden[:, window].detach().repeat(copies, 1, 1)
    return network(embeds, read.spans.real, states, spans.prompt[:, window].repeat(copies, 1), own)


@torch.no_grad()
def _typical_states(lm: BaseLM, site: Site) -> Float[Tensor, "N D"]:
    """Hidden states at a site, whose size is the unit of what is written there."""
    batch = collate([lm.chat.prompt(CALIBRATION)], pad_id=lm.chat.pad_id).to(lm.device)
    return lm.states(batch, site)[batch.spans.prompt]
