"""Settings of an evaluation. The string under each field is its help text."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from hypersteer.config.base_lm import LMConfig, SiteConfig
from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.config.training import DataConfig
from hypersteer.errors import ConfigError

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0)
"""AxBench's fourteen."""
MIN_PROMPTS = 2
"""One half chooses the strength, the other is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolConfig:
    """What is asked, how strongly it is steered, and how it is answered (AxBench's protocol)."""

    held_in_concepts: int = 500
    """How many of the training concepts, at most."""
    held_out_concepts: int = 500
    """How many of the held-out concepts, at most."""
    instructions: str = "bundled"
    """Pool of instructions: `bundled`, `alpaca-eval`, or a .json or .jsonl file of them."""
    prompts: int = 10
    """Instructions per concept, fixed by its id; the first half chooses among several strengths."""
    strengths: tuple[float, ...] = STRENGTHS
    """Every method with a strength answers at each of these."""
    max_new_tokens: int = 128
    """Most tokens of an answer."""
    temperature: float = 1.0
    """Of sampling; 0 is greedy."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that add up to this probability."""
    repetition_penalty: float = 1.0
    """Above 1 weakens tokens that prompt or answer hold already; small models go round in circles
    without, greedily above all."""
    batch_size: int = 72
    """Most answers generated together, over prompts and strengths; a smaller one takes less memory
    and more time, and changes no answer."""
    gap_rows: int = 6
    """Rows per concept that the concept gap is measured on; 0 leaves it out."""
    detection: bool = True
    """Whether methods that can also detect concepts are measured at that, where data allow."""
    skill_items: int = 240
    """Small tasks with exact answers that every method does at the chosen strengths, of 240; fewer
    are spread over their kinds, 0 leaves out the measure "skill kept"."""
    refusal_requests: int = 60
    """Harmless requests that models refuse, asked likewise, of 60; 0 leaves out refusals."""

    def __post_init__(self) -> None:
        settle(self, "protocol.")
        at_least(0, "protocol.", self, "held_in_concepts", "held_out_concepts", "gap_rows")
        at_least(0, "protocol.", self, "skill_items", "refusal_requests")
        at_least(1, "protocol.", self, "max_new_tokens", "batch_size")
        several = len(self.strengths) > 1
        at_least(MIN_PROMPTS if several else 1, "protocol.", self, "prompts")
        if not self.strengths or not all(map(math.isfinite, self.strengths)):
            raise ConfigError(f"protocol.strengths {self.strengths} must be finite numbers")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"protocol.temperature {self.temperature} must be 0 or more and finite, and "
                f"protocol.top_p {self.top_p} above 0 and at most 1"
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(
                f"protocol.repetition_penalty {self.repetition_penalty} is not above 0 and finite"
            )
        if len(set(self.strengths)) != len(self.strengths):
            raise ConfigError(f"protocol.strengths {self.strengths} names one of them twice")
        if not self.held_in_concepts and not self.held_out_concepts:
            raise ConfigError(
                "protocol.held_in_concepts and protocol.held_out_concepts are both 0, so nothing "
                "is left to evaluate; raise one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """Who scores the answers."""

    kind: Literal["auto", "local", "likelihood", "llm"] = "auto"
    """local: an independent model's probabilities of Yes, and likelihoods; likelihood: the base
    LM's own, offline; llm: an LM behind an OpenAI-compatible endpoint, in words. auto: local where
    its model and engine are at hand (hypersteer models), else likelihood."""
    model: str | None = None
    """local: an alias of `hypersteer models`, a .gguf file, a Hugging Face id or folder, or with
    base_url a model of that server; by default qwen2.5-coder-1.5b-instruct. llm: which model
    judges; by default gpt-4o-mini."""
    fluency_lm: str | None = None
    """local: which model's likelihoods measure fluency; by default smollm2-135m-instruct, or
    qwen2.5-coder-0.5b-instruct where that is what is steered."""
    threads: int | None = None
    """local: threads of the engine; by default one per core. Take fewer on a busy machine."""
    calibration: str | None = None
    """local, likelihood: file of a calibration; by default the bundled one."""
    base_url: str | None = None
    """llm, local: address of an endpoint; by default OpenAI's, or for local an engine of ours."""
    api_key_env: str = "OPENAI_API_KEY"
    """llm, local with base_url: environment variable that holds the key."""
    temperature: float = 0.0
    """llm: of the judge's sampling."""
    concurrency: int = 16
    """llm, local with base_url: calls under way at a time."""
    input_price: float | None = None
    """llm: dollars per million tokens read, to tell the cost."""
    output_price: float | None = None
    """llm: dollars per million tokens written, to tell the cost."""

    def __post_init__(self) -> None:
        settle(self, "judge.")
        at_least(1, "judge.", self, "concurrency", "threads")
        at_least(0, "judge.", self, "temperature", "input_price", "output_price")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """An evaluation."""

    out: str = "runs/evaluate"
    """Folder for rows and reports."""
    seed: int = 42
    """Everything random follows from it; also splits concepts, as in training."""
    base_lm: LMConfig = field(default_factory=LMConfig)
    site: SiteConfig = field(default_factory=SiteConfig)
    """Where baselines act; a checkpoint brings its own."""
    data: DataConfig = field(default_factory=DataConfig)
    methods: tuple[str, ...] = ("prompting", "reft-r1", "diffmean", "random")
    """Names of methods, folders or Hub ids of checkpoints, or `bundled` for the one that ships.
    Methods: prompting, prompting-system, prompting-few-shot, prompting-rewritten, reft-r1, loreft,
    lora, sft, ssv, diffmean, pca, lat, probe, mass-mean, caa, actadd, iti, sae, sae-a, random; they
    only detect: ig, ixg, bag-of-words. prompting+NAME is prompting and an edit at once."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Hyperparameters that differ from a method's own, in a table `settings.METHOD`."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    compare_to: str = "prompting"
    """Method that win rates are counted against."""
    share: bool = False
    """Do the work in the folder together with other processes that are told so, on any machines
    that see the folder; those of `accelerate launch` and torchrun do without being told."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        if not self.methods:
            raise ConfigError("methods is empty; name at least one, such as 'prompting'")
        twice = [name for name in self.methods if self.methods.count(name) > 1]
        if twice:
            raise ConfigError(f"methods names '{twice[0]}' twice")
