"""Settings of the adapters for evaluation harnesses: who answers, and what steers the answers."""

from dataclasses import dataclass

from hypersteer.config.reading import settle
from hypersteer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredConfig:
    """Who answers a harness, and what steers all of its requests."""

    checkpoint: str | None = None
    """Checkpoint of the hypernetwork: a folder, a Hub id, or `bundled`, which is taken where
    neither this nor `base` is given."""
    base: str | None = None
    """Base LM: an alias, a Hub id, a folder or a `.gguf` file. Without a checkpoint it answers
    alone, or under `edit`; with one it is used in place of the checkpoint's own name for it."""
    steer: str | None = None
    """Steering prompt."""
    edit: str | None = None
    """File of an edit, in place of a steering prompt."""
    strength: float = 1.0
    """Multiplies the edit; 0 is the base LM as it is, negative steers away."""
    scope: str | None = None
    """Tokens that a steering prompt's edit touches; by default as in training."""
    prompted: bool | None = None
    """Whether prompts say the steering prompt as well; by default as in training."""
    device: str | None = None
    """Where to load the base LM; by default the best device there is."""
    dtype: str | None = None
    """Of the base LM; by default float32 on a CPU, bfloat16 elsewhere."""

    def __post_init__(self) -> None:
        settle(self)
        if self.steer is not None and self.edit is not None:
            raise ConfigError("both steer and edit are given; give one of them")
        if self.base is not None and self.checkpoint is None:
            needy = [n for n in ("steer", "scope", "prompted") if getattr(self, n) is not None]
            if needy:
                raise ConfigError(
                    f"{needy[0]} goes with a checkpoint, and base = '{self.base}' is given alone; "
                    "give checkpoint, or an edit"
                )
