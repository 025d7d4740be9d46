"""What a dry run takes for granted. The string under each field is its help text."""

import math
from dataclasses import dataclass

from hypersteer.config.reading import at_least, settle
from hypersteer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What `train --dry-run` takes for granted; a run itself takes no notice of it.

    Lengths count where the data or the tokenizer are not at hand. The defaults are those of AxBench
    with Gemma's tokenizer, from mean numbers of characters at some 4.4 to a token: instructions of
    80 and a chat template, responses of 510 cut at 128 tokens, concepts of 61.
    """

    processes: int = 1
    """Processes, each on a device of its own, that share the work."""
    utilisation: float = 0.4
    """Share of a device's peak that products reach (MFU)."""
    prompt_tokens: int = 27
    """Mean tokens of a base prompt, chat template included."""
    prefix_tokens: int = 4
    """Those of them that the template puts before any user text."""
    response_tokens: int = 115
    """Mean tokens of a response."""
    steering_tokens: int = 14
    """Mean tokens of a steering prompt."""

    def __post_init__(self) -> None:
        settle(self, "plan.")
        at_least(1, "plan.", self, "processes", "prompt_tokens", "response_tokens")
        at_least(1, "plan.", self, "steering_tokens")
        at_least(0, "plan.", self, "prefix_tokens")
        if not (math.isfinite(self.utilisation) and 0 < self.utilisation <= 1):
            raise ConfigError(
                f"plan.utilisation {self.utilisation} is not a share above 0 and at most 1"
            )
        if self.prefix_tokens >= self.prompt_tokens:
            raise ConfigError(
                f"plan.prefix_tokens {self.prefix_tokens} leave nothing of plan.prompt_tokens "
                f"{self.prompt_tokens}"
            )
