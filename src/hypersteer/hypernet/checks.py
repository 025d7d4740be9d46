"""Settings of a hypernetwork that do not go together, told before anything is made."""

from hypersteer.config import HypernetConfig
from hypersteer.edits.per_token import NAME as PER_TOKEN
from hypersteer.errors import ConfigError


def check_config(config: HypernetConfig) -> None:
    """Refuse what does not go with the kind of edit.

    Raises:
        ConfigError: naming the setting.
    """
    if config.prior != "none" and config.edit != "vector":
        raise ConfigError(
            f"hypernet.prior '{config.prior}' starts from a vector, but hypernet.edit is "
            f"'{config.edit}'; set the prior to 'none', or the edit to 'vector'"
        )
    if (config.style or config.learned_strength) and config.edit == PER_TOKEN:
        raise ConfigError(
            "hypernet.style and hypernet.learned_strength are about written numbers, but "
            f"hypernet.edit '{PER_TOKEN}' writes none; leave them out"
        )
    if config.learned_strength and (config.style or config.prior != "none"):
        raise ConfigError(
            "hypernet.learned_strength makes lengths of its own, so what hypernet.prior and "
            "hypernet.style add has none; leave out one of them"
        )
    shaped = config.cross_key_heads is not None or config.cross_head_width is not None
    if shaped and (config.variant != "cross-attention" or config.edit == PER_TOKEN):
        raise ConfigError(
            "hypernet.cross_key_heads and hypernet.cross_head_width are about the cross-attention "
            f"of vectors and their like, but hypernet.variant is '{config.variant}' and "
            f"hypernet.edit '{config.edit}'; leave them out"
        )
    if config.self_attention and config.edit != PER_TOKEN:
        raise ConfigError(
            f"hypernet.self_attention is a part of '{PER_TOKEN}' edits, but hypernet.edit is "
            f"'{config.edit}'; leave it out, or set the edit to '{PER_TOKEN}'"
        )


def check_pairs(width: int, heads: int, config: HypernetConfig) -> None:
    """Refuse heads of self-attention whose numbers do not make pairs, which positions turn.

    Raises:
        ConfigError: naming both numbers.
    """
    if config.self_attention and width // heads % 2:
        raise ConfigError(
            f"hypernet.self_attention turns pairs of numbers, but {heads} heads of width {width} "
            f"have {width // heads} each; set hypernet.cross_heads so that it is even"
        )
