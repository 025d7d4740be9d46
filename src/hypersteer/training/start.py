"""A run that begins with the weights of a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from hypersteer.checkpoint import find_checkpoint, load_weights
from hypersteer.config import HypernetConfig, SiteConfig, TrainConfig, differing, to_dict
from hypersteer.edits.sites import NamedScope
from hypersteer.errors import ConfigError
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.base import BaseLM


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
        folder: of the checkpoint.
        card: what it says about itself.
    """

    folder: Path
    card: Card

    def fill(self, hypernet: Hypernet, lm: BaseLM) -> None:
        """Fill a hypernetwork with the checkpoint's weights.

        Raises:
            CheckpointError: if the base LM is another one, or the weights do not fit.
        """
        lm.check_made_for(
            self.card.identity or self.card.fingerprint,
            f"'{self.folder}'",
            f"train on {self.card.base_lm}, or leave out start",
            "trained",
        )
        load_weights(hypernet, self.folder / "model.safetensors")


def started(config: TrainConfig) -> tuple[TrainConfig, Start | None]:
    """Return a run's settings, with those that its start decides, and the start.

    The checkpoint decides the base LM's name, the site and the hypernetwork; where settings say
    something else about these, and not only the defaults, that is an error.

    Raises:
        CheckpointError: if the start is no checkpoint.
        ConfigError: naming what does not agree with it.
    """
    if config.start is None:
        return config, None
    folder = find_checkpoint(config.start)
    card = read_card(folder)
    # A mask of positions is nobody's setting: runs have named scopes.
    scope = cast(NamedScope, card.scope)
    site = SiteConfig(layer=card.site.layer, kind=card.site.kind, scope=scope)
    for name, given, kept, default in (
        ("site", config.site, site, SiteConfig()),
        ("hypernet", config.hypernet, card.hypernet, HypernetConfig()),
    ):
        wanted, held = to_dict(given), to_dict(kept)
        own = set(differing(to_dict(default), wanted, {}))
        if clash := sorted(own & set(differing(held, wanted, {}))):
            raise ConfigError(
                f"{name}.{clash[0]} {wanted[clash[0]]!r} with start '{config.start}', whose own is "
                f"{held[clash[0]]!r}; leave it out"
            )
    base_lm = replace(config.base_lm, name=card.base_lm)
    if config.base_lm.name not in (type(config.base_lm)().name, card.base_lm):
        raise ConfigError(
            f"base_lm.name '{config.base_lm.name}' with start '{config.start}', which is for "
            f"'{card.base_lm}'; leave it out"
        )
    filled = replace(config, base_lm=base_lm, site=site, hypernet=card.hypernet)
    return filled, Start(folder, card)
