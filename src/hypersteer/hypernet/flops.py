"""Floating-point operations of a hypernetwork and of the edits that it writes, while it learns.

Counted as in `hypersteer.lm.flops`: all matrix products, forward and on the way back.

Shapes: R rows, C tokens read of a steering prompt, S states of a base prompt, T tokens of a row
that is edited, D width.
"""

from dataclasses import dataclass, fields

from hypersteer.config import HypernetConfig
from hypersteer.edits.per_token import NAME as PER_TOKEN
from hypersteer.edits.per_token import STEPS
from hypersteer.edits.registry import edit_kind
from hypersteer.edits.velocity import TIME_FEATURES
from hypersteer.hypernet.cross_attention import head_shape
from hypersteer.hypernet.fields import MLP_FACTOR
from hypersteer.hypernet.heads import Layout
from hypersteer.lm.flops import MULTIPLY_ADD, LMFlops

TRAINED = 3
"""Passes' worth of a product with a weight that is trained: forward, back to states, to itself."""
FIRST = 2
"""The same where what is multiplied needs no gradient."""
READS = {"low-rank": 1, "gated": 2}
"""Times that a kind of edit reads a state along its directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Operations by the part of a step that they are spent in.

    Attributes:
        base_lm_below: forward up to the lowest site, where nothing needs a gradient.
        base_lm_above: forward and back to states from there on, for every steering prompt.
        head: the vocabulary head on response tokens, likewise.
        hypernet: forward, and back to its weights.
        edits: applying what is written, and back.
        teacher: the base LM without edits, whose logits or states are learnt from.
        prior: the base LM reading steering prompts, for the activation prior.
    """

    base_lm_below: int = 0
    base_lm_above: int = 0
    head: int = 0
    hypernet: int = 0
    edits: int = 0
    teacher: int = 0
    prior: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, part.name) for part in fields(self))

    def __add__(self, other: "Flops") -> "Flops":
        """Return the sums of all parts."""
        names = [part.name for part in fields(self)]
        return Flops(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def __mul__(self, times: float) -> "Flops":
        """Return so many times as much."""
        names = [part.name for part in fields(self)]
        return Flops(**{name: round(times * getattr(self, name)) for name in names})


def writing_flops(
    config: HypernetConfig, lm: LMFlops, sites: int, rows: int, read: int, states: int
) -> int:
    """Count what writing the edits of R rows costs, forward and back to the weights.

    Args:
        config: of the hypernetwork.
        lm: what passes through the base LM cost, whose first blocks it has.
        sites: number of sites that are written at.
        rows: R.
        read: C.
        states: S; only the cross-attention variant reads them.
    """
    square = MULTIPLY_ADD * lm.width**2
    found = TRAINED * lm.forward(rows, read, 2 * config.blocks)
    if config.variant == "cross-attention":
        heads, key_heads, each = head_shape(config, lm.width, lm.heads)
        # Queries and output of what is read, keys and values of the states, and attention.
        maps = 2 * each * lm.width * (heads * read + key_heads * states)
        products = MULTIPLY_ADD * (maps + 2 * heads * each * read * states)
        found += TRAINED * config.blocks * rows * products
    if config.edit == PER_TOKEN:
        return found + TRAINED * sites * 2 * square * rows * read
    hidden = config.head_width or lm.width
    numbers = Layout(
        edit_kind(config.edit), lm.width, config.rank, sites, strength=config.learned_strength
    ).size
    found += TRAINED * MULTIPLY_ADD * rows * hidden * (lm.width + numbers)
    if config.prior == "activation":
        found += FIRST * 2 * square * rows
    return found


def applying_flops(
    config: HypernetConfig, width: int, sites: int, rows: int, length: int, read: int
) -> int:
    """Count what the edits at all sites do to R rows of T states, and the way back.

    Args:
        config: of the hypernetwork.
        width: D.
        sites: number of sites.
        rows: R.
        length: T.
        read: C, of what per-token edits attend to.
    """
    if config.edit == PER_TOKEN:
        return sites * _flowing(config, width, rows, length, read)
    # States need no gradient at the first site, and do above it.
    latents = READS.get(config.edit, 0) * (FIRST + TRAINED * (sites - 1))
    written = TRAINED * sites if config.edit in READS else 0
    return MULTIPLY_ADD * rows * length * width * config.rank * (latents + written)


def _flowing(config: HypernetConfig, width: int, rows: int, length: int, read: int) -> int:
    """Count the flow along a velocity field, and the way back."""
    square = MULTIPLY_ADD * width**2
    each = (2 + 3 * MLP_FACTOR) * square + 2 * MULTIPLY_ADD * width * read
    if config.self_attention:
        each += 4 * square + 2 * MULTIPLY_ADD * width * length
    time = rows * (FIRST * MULTIPLY_ADD * TIME_FEATURES * width + TRAINED * square)
    return STEPS * (TRAINED * rows * length * each + time)
