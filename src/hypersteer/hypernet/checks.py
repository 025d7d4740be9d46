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
