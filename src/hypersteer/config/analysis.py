"""Settings of an analysis. The string under each field is its help text."""

import math
from dataclasses import dataclass

from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.errors import ConfigError

PARTS = ("geometry", "attention", "perplexity", "lens", "effect")
"""What can be looked at."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
MOST_EDITS = 4000
"""Edits that are laid out in two dimensions at once: t-SNE of more takes many minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisConfig:
    """What is looked at, and where the figures go."""

    against: str | None = None
    """A second checkpoint, whose edits are shown beside those of the first (geometry)."""
    data: tuple[str, ...] = ("bundled",)
    """Where concepts and base prompts come from, as `hypersteer train` takes them."""
    concepts: int | None = None
    """How many concepts; by default 10 where edits depend on the base prompt, else 500."""
    prompts: int = 25
    """Base prompts that each concept's edit is made for, where edits depend on them."""
    steer: tuple[str, ...] = ()
    """Steering prompts to look at one by one; by default three that were never trained on."""
    answers: int = 64
    """Answers of each source whose perplexity is measured."""
    max_new_tokens: int = 48
    """Most tokens of an answer."""
    strengths: tuple[float, ...] = STRENGTHS
    """Strengths at which the effect is measured."""
    seed: int = 0
    """Chooses concepts, base prompts and answers, and lays out t-SNE."""
    out: str = "runs/analysis"
    """Folder of the report, the figures and their numbers."""

    def __post_init__(self) -> None:
        settle(self)
        at_least(2, "", self, "concepts", "answers", "max_new_tokens")
        at_least(1, "", self, "prompts")
        check_seed(self)
        if not self.data:
            raise ConfigError("data is empty; name a source of concepts, such as bundled")
        self._check_strengths()

    def _check_strengths(self) -> None:
        if not self.strengths:
            raise ConfigError("strengths is empty; give some, such as 0.5 1 2")
        for strength in self.strengths:
            if not (math.isfinite(strength) and strength > 0):
                raise ConfigError(f"strengths holds {strength:g}; give numbers above 0")
        if len(set(self.strengths)) < len(self.strengths):
            raise ConfigError("strengths holds a number twice; give each once")
