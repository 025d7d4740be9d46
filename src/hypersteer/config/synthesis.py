"""Settings of a synthesis of concept data. The string under each field is its help text."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hypersteer.config.base_lm import LMConfig
from hypersteer.config.evaluation import JudgeConfig
from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.errors import ConfigError

NO_LM = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Who writes the responses."""

    kind: Literal["endpoint", "local"] = "endpoint"
    """endpoint: a model behind an OpenAI-compatible server (also Ollama, vLLM), or one that is run
    on this machine, as `model` says; local: the base LM."""
    model: str = "gpt-4o-mini"
    """endpoint: name of the model, as the server knows it. Without base_url, an alias that
    `hypersteer models` lists with wheels, or a .gguf file, is run on this machine by llama.cpp."""
    base_url: str | None = None
    """endpoint: where the server is, most often ending in /v1; by default OpenAI's, or for a model
    on this machine none."""
    threads: int | None = None
    """on this machine: threads of the engine; by default one per core. Take fewer on a busy one."""
    examples: int | None = None
    """Worked examples shown before each request for a response, at most 3; by default all of them
    to a model on this machine, and none to others."""
    api_key_env: str = "OPENAI_API_KEY"
    """endpoint: environment variable that holds the key; a server of your own may need none."""
    temperature: float = 1.0
    """Of the sampling of responses; short decisions, such as a genre, are greedy."""
    max_tokens: int = 1024
    """endpoint: most tokens of a reply, thinking included; a reply that needs more is lost. On this
    machine at most 384, or three times response_tokens: a small model goes on in circles."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """endpoint: what the server calls that limit."""
    send_seed: bool = False
    """endpoint: send a seed with every request, for servers that take one."""
    timeout_s: float = 120.0
    """endpoint: longest wait for one reply of a server, in seconds."""
    concurrency: int | None = None
    """endpoint: most requests under way at once; by default 16, or 4 on this machine."""
    retries: int = 5
    """endpoint: how often a request is tried again after a failure that may pass."""
    backoff_s: float = 1.0
    """endpoint: wait before the first retry, in seconds; it doubles each time, up to a minute."""
    input_price: float | None = None
    """endpoint: dollars per million tokens sent; with both prices, costs are told."""
    output_price: float | None = None
    """endpoint: dollars per million tokens received."""
    batch_size: int = 16
    """local: responses generated together."""

    def __post_init__(self) -> None:
        settle(self, "teacher.")
        at_least(1, "teacher.", self, "max_tokens", "concurrency", "batch_size", "threads")
        at_least(0, "teacher.", self, "retries", "examples", "input_price", "output_price")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"teacher.temperature {self.temperature} is not 0 or more")
        if not 0 < self.timeout_s < math.inf or not 0 <= self.backoff_s < math.inf:
            raise ConfigError(
                f"teacher.timeout_s {self.timeout_s} must be above 0 and teacher.backoff_s "
                f"{self.backoff_s} 0 or more, both finite"
            )
        if (self.input_price is None) != (self.output_price is None):
            raise ConfigError(
                f"teacher.input_price {self.input_price} and teacher.output_price "
                f"{self.output_price}: set both or neither"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsConfig:
    """How many rows; the defaults are AxBench's."""

    train_positives: int = 72
    """Training responses that show the concept, per concept."""
    test_positives: int = 36
    """Test responses that show it, per concept."""
    test_negatives: int = 36
    """Test responses that keep away from it, per concept (15 % code, 15 % math, the rest text)."""
    hard_negatives: int = 10
    """Test responses that use a related word in an unrelated sense, per concept, at most."""
    pool_negatives: int = 72
    """Answers of the base LM itself that all concepts share, per genre."""

    def __post_init__(self) -> None:
        settle(self, "counts.")
        at_least(1, "counts.", self, "train_positives", "test_positives")
        at_least(0, "counts.", self, "test_negatives", "hard_negatives", "pool_negatives")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Which responses are dropped and asked for again."""

    min_words: int = 5
    """Shorter responses are dropped."""
    max_overlap: float = 0.7
    """Jaccard similarity of three-word shingles from which a response repeats an earlier one."""
    max_echo: float = 0.5
    """Share of the concept's own words from which a response merely echoes it."""
    attempts: int = 3
    """How often a response is asked for, at most, the first time included."""

    def __post_init__(self) -> None:
        settle(self, "filters.")
        at_least(0, "filters.", self, "min_words")
        at_least(1, "filters.", self, "attempts")
        for name in ("max_overlap", "max_echo"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"filters.{name} {getattr(self, name)} is not within 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedConfig:
    """Which answers the judge lets pass; scores run from 0 to 2."""

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
class SynthesisConfig:
    """A synthesis of concept data."""

    out: str = "data/concepts"
    """Folder of the dataset, and of what is kept to go on after an interruption."""
    seed: int = 42
    """Everything random follows from it."""
    concepts: str | None = None
    """List of concepts: .txt (one a line), .jsonl, or .json (feature export of Neuronpedia)."""
    limit: int | None = None
    """Use this many concepts of the list at most."""
    theme: str | None = None
    """Instead of a list: let the teacher invent concepts for this theme."""
    invent: int = 20
    """How many concepts to invent."""
    instructions: str = "hub"
    """Pool of base prompts: `hub` (those of AxBench), `bundled`, or a .json or .jsonl file."""
    response_tokens: int = 128
    """Responses are cut to this many tokens of the base LM; without one, to this many words."""
    base_lm: LMConfig = field(default_factory=LMConfig)
    """Its tokens are counted and it answers the shared negatives; name `none` does without."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    counts: CountsConfig = field(default_factory=CountsConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    judging: Literal["auto", "on", "off"] = "auto"
    """Whether a judge must see the concept in a positive, an answer, and good prose; what it drops
    is asked for again. auto: on where a model on this machine is the teacher, and there is a base
    LM; a strong teacher is trusted, as in AxBench."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    judged: JudgedConfig = field(default_factory=JudgedConfig)
    share: bool = False
    """Do the work in the folder together with other processes that are told so, on any machines
    that see the folder; those of `accelerate launch` and torchrun do without being told."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        at_least(1, "", self, "limit", "invent", "response_tokens")
        if self.base_lm.name == NO_LM:
            self._without_lm()

    def _without_lm(self) -> None:
        if self.teacher.kind == "local":
            raise ConfigError(
                "teacher.kind 'local' is the base LM, but base_lm.name is 'none'; name one"
            )
        if self.judging == "on":
            raise ConfigError(
                "judging 'on' needs a base LM, whose answers the judge knows, but base_lm.name is "
                "'none'; name one, or leave judging at auto"
            )
        if self.counts.pool_negatives:
            raise ConfigError(
                "base_lm.name 'none' leaves nobody to answer the shared negatives; name a base LM, "
                "or set counts.pool_negatives 0"
            )

    def check_source(self) -> None:
        """See that there is one source of concepts.

        Raises:
            ConfigError: if there is none, or two.
        """
        if (self.concepts is None) == (self.theme is None):
            raise ConfigError(
                f"concepts {self.concepts!r} and theme {self.theme!r}: give one of them, a list "
                "of concepts or a theme to invent them for"
            )
        if self.theme is not None and not self.theme.strip():
            raise ConfigError("theme is empty; say what the concepts should be about")


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
    checkpoint: str | None = None
    """Steer by this checkpoint, instead of pushing: folder, Hub id, or `bundled`."""
    strengths: tuple[float, ...] = (1.0,)
    """With a checkpoint: strengths that a concept's answers are tried at, in turn."""
    prompted: bool = True
    """With a checkpoint: whether prompts say the steering prompt as well."""
    temperature: float = 0.7
    """Of the sampling."""
    repetition_penalty: float = 1.0
    """Above 1 weakens tokens that the prompt or the answer holds already."""
    response_tokens: int = 48
    """Most tokens of an answer."""
    batch_size: int = 96
    """Most answers generated together; each is two rows of the batch, with and without the
    concept."""
    base_lm: LMConfig = field(default_factory=LMConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    judged: JudgedConfig = field(default_factory=JudgedConfig)
    share: bool = False
    """Do the work in the folder together with other processes that are told so, on any machines
    that see the folder; those of `accelerate launch` and torchrun do without being told."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        at_least(1, "", self, "limit", "tried", "kept", "response_tokens", "batch_size")
        for name in ("guidance", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)} is not 0 or more")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(
                f"repetition_penalty {self.repetition_penalty} is not above 0; 1 is no penalty"
            )
        if not self.strengths or not all(map(math.isfinite, self.strengths)):
            raise ConfigError(f"strengths {list(self.strengths)} must be finite numbers")
        if self.checkpoint is None and (self.strengths != (1.0,) or not self.prompted):
            raise ConfigError(
                "strengths and prompted are about a checkpoint's edits, but checkpoint is not set"
            )
        if self.kept > self.tried:
            raise ConfigError(f"kept {self.kept} is more than tried {self.tried}; try more answers")
