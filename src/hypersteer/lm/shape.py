"""What follows from a model's configuration alone, whether its weights are there or not."""

from transformers import PreTrainedModel

from hypersteer.edits.sites import Site
from hypersteer.lm.blocks import check_site

DEFAULT_HEIGHT = 0.4
"""How far up the blocks a site is by default."""
WINDOW_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""How configurations call the context window, the commonest first."""


def window_of(model: PreTrainedModel) -> int:
    """Return a model's context window; 2^31 where nothing limits it."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in WINDOW_NAMES)
    return int(next((size for size in named if size), 2**31))


def site_in(depth: int, layer: int | None, kind: str) -> Site:
    """Return a site of a model of so many blocks, checked; by default 40 % of the way up.

    Raises:
        ModelError: if the layer is out of range.
    """
    layer = round(DEFAULT_HEIGHT * depth) if layer is None else layer
    return check_site(Site(layer, kind), depth)  # type: ignore[arg-type]
