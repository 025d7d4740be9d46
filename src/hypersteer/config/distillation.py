"""Settings of self-distilled concept data. The string under each field is its help text."""

import math
from dataclasses import dataclass, field

from hypersteer.config.base_lm import LMConfig
from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.config.synthesis import FilterConfig
from hypersteer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedConfig:
    """Which answers the likelihood judge lets pass; scores run from 0 to 2."""

    min_concept: float = 0.8
    """Answers in which it sees less of the concept are dropped."""
    min_instruction: float = 0.8
    """Answers that answer the instruction less are dropped."""
    min_fluency: float = 1.0
    """Answers that read worse are dropped."""

    def __post_init__(self) -> None:
        settle(self, "judged.")
        for name in ("min_concept", "min_instruction", "min_fluency"):
            if not 0 <= getattr(self, name) <= 2:
                raise ConfigError(f"judged.{name} {getattr(self, name)} is not within 0 and 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig:
    """Concept data for which the prompted base LM is its own teacher."""

    out: str = "data/distilled"
    """Folder of the dataset, and of what is kept to go on after an interruption."""
    seed: int = 42
    """Everything random follows from it."""
    concepts: str = "bundled:wide"
    """List of concepts: .txt (one a line), .jsonl, .json (Neuronpedia export), or bundled data."""
    limit: int | None = None
    """Use this many concepts of the list at most."""
    instructions: str = "bundled"
    """Pool of base prompts: `bundled`, `hub`, or a .json or .jsonl file."""
    tried: int = 6
    """Answers tried per concept, each to an instruction of its own."""
    kept: int = 4
    """Answers kept per concept at most: those that the judge finds best."""
    guidance: float = 0.6
    """How far answers are pushed from those of the unprompted base LM; 0 only prompts it."""
    temperature: float = 0.7
    """Of the sampling."""
    response_tokens: int = 48
    """Most tokens of an answer."""
    batch_size: int = 96
    """Most answers generated together; each is two rows of the batch, with and without the
    concept."""
    base_lm: LMConfig = field(default_factory=LMConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    judged: JudgedConfig = field(default_factory=JudgedConfig)

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        at_least(1, "", self, "limit", "tried", "kept", "response_tokens", "batch_size")
        for name in ("guidance", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)} is not 0 or more")
        if self.kept > self.tried:
            raise ConfigError(f"kept {self.kept} is more than tried {self.tried}; try more answers")
