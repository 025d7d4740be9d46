"""Settings of the vLLM plug-in: the table `hypersteer` of vLLM's `--additional-config`."""

from dataclasses import dataclass

from hypersteer.config.reading import at_least, settle
from hypersteer.config.serving import ServeConfig
from hypersteer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """Who writes edits for the model that vLLM serves, and what requests may bring."""

    checkpoint: str = "bundled"
    """Checkpoint of the hypernetwork: a folder, a Hub id, or `bundled`."""
    lm: str | None = None
    """The base LM as the hypernetwork reads it; by default the model that vLLM serves."""
    edits: str | None = None
    """Folder of the stored edits; by default that of `hypersteer serve`."""
    layers: tuple[int, ...] = ()
    """Blocks at which stored edits may act, beside the hypernetwork's own sites."""
    kinds: tuple[str, ...] = ("vector",)
    """Kinds of stored edits that are taken, beside the hypernetwork's own."""
    rank: int | None = None
    """Most directions of an edit; by default as many as the hypernetwork writes."""
    max_parts: int = 2
    """Most parts that steer one request. Each has a table of its own."""
    max_steering_chars: int = 2000
    """Longest steering prompt."""
    kept_edits: int = 64
    """Generated edits that are kept for the next request with the same steering prompt."""
    rules: bool = False
    """Take rules. The blocks of the base LM that conditions read stay in memory for them."""
    condition: tuple[str, ...] = ()
    """Conditions that rules may name: NAME=FILE."""
    rule: tuple[str, ...] = ()
    """Rules that requests may name: NAME=RULE."""
    steer: tuple[str, ...] = ()
    """Steering prompts that rules may name: NAME=TEXT."""

    def __post_init__(self) -> None:
        settle(self)
        for name in ("condition", "rule", "steer"):
            if getattr(self, name) and not self.rules:
                raise ConfigError(
                    f"hypersteer.{name} is for rules, which are off; set hypersteer.rules to true"
                )
        at_least(1, "hypersteer.", self, "max_parts", "max_steering_chars", "rank")
        at_least(0, "hypersteer.", self, "kept_edits")

    @property
    def limits(self) -> ServeConfig:
        """The same limits as those of our own server."""
        return ServeConfig(
            edits=self.edits,
            condition=self.condition,
            rule=self.rule,
            steer=self.steer,
            max_parts=self.max_parts,
            max_steering_chars=self.max_steering_chars,
        )
