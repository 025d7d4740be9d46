"""Settings of a training run. The string under each field is its help text."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hypersteer.config.base_lm import LMConfig, SiteConfig
from hypersteer.config.planning import PlanConfig
from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.errors import ConfigError

Variant = Literal["cross-attention", "in-context", "no-context"]
Objective = Literal[
    "language-modelling", "preference", "distillation", "activations", "reconstruction"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetConfig:
    """The hypernetwork."""

    variant: Variant = "cross-attention"
    """Reads the base LM's states too, or both prompts as text, or the steering prompt only."""
    blocks: int = 4
    """Number N of decoder blocks, copied from the base LM's first N."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Whether the blocks start from the base LM's weights."""
    cross_heads: int | None = None
    """Attention heads of each cross-attention module; by default as many as the base LM has."""
    cross_key_heads: int | None = None
    """Heads of its keys and values, which divide those; by default as many."""
    cross_head_width: int | None = None
    """Width of one of its heads; by default the width of the base LM over their number."""
    edit: str = "vector"
    """Kind of edit that is written: vector, low-rank, gated or per-token."""
    self_attention: bool = False
    """Of per-token edits: a state also reads those before it in its row (all of FLAS's block)."""
    rank: int = 4
    """Directions of an edit, where its kind has a rank."""
    more_layers: tuple[int, ...] = ()
    """Blocks above the site, ascending, each of which gets an edit of its own."""
    head_width: int | None = None
    """Hidden width of the MLP head; by default the width of the base LM."""
    learned_strength: bool = False
    """Write directions and their lengths apart, lengths at a faster rate (PrOSV, on site.scope
    'prompt_ends')."""
    prior: Literal["none", "activation"] = "none"
    """What vectors start from: nothing, or the base LM's own state of the steering prompt."""
    style: bool = False
    """Learn what all training answers share in a vector of its own, which is not used later."""

    def __post_init__(self) -> None:
        settle(self, "hypernet.")
        at_least(1, "hypernet.", self, "blocks", "cross_heads", "head_width", "rank")
        at_least(1, "hypernet.", self, "cross_key_heads", "cross_head_width")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What to learn from."""

    source: tuple[str, ...] = ("bundled",)
    """Folders, `axbench:concept10/2b/l20`, `hub:owner/name`, `bundled`, `bundled:wide`,
    `bundled:more`, `bundled:plain`; joined."""
    held_out_concepts: int | tuple[int, ...] | Literal["marked"] = "marked"
    """How many concepts are never trained on, which ids, or those that the data mark (else 4)."""
    held_in_prompts: int = 1
    """Base prompts of each training concept kept back for validation."""
    held_in_concepts: int | None = None
    """Keep back prompts of this many training concepts only, which runs on more concepts share; by
    default of all."""
    max_concepts: int | None = None
    """Use this many concepts at most."""
    max_examples_per_concept: int | None = None
    """Use this many training examples of a concept at most."""
    max_held_out_rows: int | None = 12
    """Validation rows of each held-out concept at most."""
    max_validation_rows: int | None = 96
    """Rows of a validation at most, held in and held out each, evenly from all concepts."""
    max_prompt_tokens: int = 256
    """Examples with longer prompts are left out, and those that do not fit the context window with
    a steering prompt beside the prompt, where that is read."""
    max_response_tokens: int = 128
    """Responses are cut after this many tokens."""

    def __post_init__(self) -> None:
        settle(self, "data.")
        at_least(0, "data.", self, "held_in_prompts")
        at_least(1, "data.", self, "held_in_concepts", "max_concepts", "max_examples_per_concept")
        at_least(1, "data.", self, "max_held_out_rows", "max_validation_rows")
        at_least(1, "data.", self, "max_prompt_tokens", "max_response_tokens")
        if isinstance(self.held_out_concepts, int):
            at_least(0, "data.", self, "held_out_concepts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """What is minimised."""

    objective: Objective = "language-modelling"
    """Cross-entropy of the response under the edit, preference of the response over the base LM's
    own answer (RePS), divergence from the prompted base LM on the response, distance to its
    activations at the last site (no block above it runs), or distance to given target vectors."""
    guidance: float = 0.0
    """With the prompted base LM as a teacher: how far it is pushed from the unprompted one."""
    targets: str | None = None
    """For reconstruction: a safetensors file with a row per concept id, `vectors` [N, D]; for other
    kinds of edits one tensor for each parameter, named in the plural."""
    weight: float = 1.0
    """Weight of the objective itself; 0 leaves the contrastive term alone."""
    contrast: float = 0.0
    """Weight lambda of the contrastive term: the right steering prompt must beat a wrong one."""
    contrast_beta: float = 5.0
    """Sharpness beta of the contrastive term, per nat of a row's mean cross-entropy."""
    contrast_share: float = 1.0
    """Share of a step's rows that the contrastive term is measured on: fewer cost less."""
    diversity: float = 0.0
    """Weight of FLAS's diversity term, in place of the contrastive one: edits of different concepts
    are to point in different directions."""
    strengths: tuple[float, float] = (1.0, 1.0)
    """Range that the strength of each row's edits is drawn from, anew in every step (RePS draws it,
    too): a wide one teaches edits that hold at more than one strength."""
    prompted: bool = False
    """Say the steering prompt in the base prompt as well, so that edits learn to act beside it;
    `generate`, `chat` and evaluations of the checkpoint then say it, too."""
    alone: float = 0.0
    """With prompted: share of a step's rows whose base prompt leaves the steering prompt out, so
    that the edits learn to act alone as well."""
    negated: float = 0.0
    """Share of a step's rows whose edits act at minus their strength, on prompts that leave the
    steering prompt out, for the base LM's own answer: so that negative strengths say less of it."""

    def __post_init__(self) -> None:
        settle(self, "loss.")
        self._check_ranges()
        self._check_rows()
        if not 0 <= self.guidance < math.inf:
            raise ConfigError(f"loss.guidance {self.guidance} is not 0 or more")
        if self.guidance and self.objective not in ("distillation", "activations"):
            raise ConfigError(
                f"loss.guidance {self.guidance} with loss.objective '{self.objective}': only "
                "distillation and activations have a teacher to guide"
            )
        if self.contrast and self.objective in ("preference", "activations"):
            raise ConfigError(
                f"loss.contrast {self.contrast} with loss.objective '{self.objective}', which "
                "takes no loss under a wrong steering prompt; leave it out"
            )
        if (self.objective == "reconstruction") != (self.targets is not None):
            raise ConfigError(
                f"loss.objective '{self.objective}' with loss.targets {self.targets!r}: "
                "reconstruction needs a targets file, and only it does"
            )

    def _check_ranges(self) -> None:
        if not 0 <= self.contrast < math.inf or not 0 < self.contrast_beta < math.inf:
            raise ConfigError(
                f"loss.contrast {self.contrast} must be 0 or more and loss.contrast_beta "
                f"{self.contrast_beta} above 0, both finite"
            )
        if not 0 < self.contrast_share <= 1:
            raise ConfigError(
                f"loss.contrast_share {self.contrast_share} must be above 0 and at most 1"
            )
        if not 0 <= self.weight < math.inf or not self.weight + self.contrast:
            raise ConfigError(
                f"loss.weight {self.weight} is not 0 or more, or 0 with no loss.contrast beside it"
            )
        unlike = self.contrast or self.objective not in ("language-modelling", "distillation")
        if not 0 <= self.diversity < math.inf or (self.diversity and unlike):
            raise ConfigError(
                f"loss.diversity {self.diversity} is not 0 or more, or stands beside loss.contrast "
                f"or loss.objective '{self.objective}', which tell concepts apart themselves"
            )
        low, high = self.strengths
        if not -math.inf < low <= high < math.inf or (low, high) == (0, 0):
            raise ConfigError(
                f"loss.strengths {[low, high]} is no range: give two finite numbers, the lower one "
                "first, that are not both 0"
            )

    def _check_rows(self) -> None:
        """Refuse ways to show rows that do not go with the rest."""
        low, high = self.strengths
        if self.objective == "reconstruction" and (low, high) != (1, 1):
            raise ConfigError(
                f"loss.strengths {[low, high]} with loss.objective 'reconstruction': its edits are "
                "held against targets and act on nothing; leave it out"
            )
        if self.objective == "reconstruction" and self.prompted:
            raise ConfigError(
                "loss.prompted with loss.objective 'reconstruction', which reads no base prompt; "
                "leave it out"
            )
        if not 0 <= self.alone <= 1 or (self.alone and not self.prompted):
            raise ConfigError(
                f"loss.alone {self.alone} is a share from 0 to 1 of rows that leave the steering "
                "prompt out where loss.prompted says it; set both, or leave it out"
            )
        unlearnt = self.objective not in ("language-modelling", "preference")
        if not 0 <= self.negated < 1 or (self.negated and (unlearnt or low <= 0)):
            raise ConfigError(
                f"loss.negated {self.negated} is a share from 0 to below 1, and needs answers to "
                "learn and loss.strengths above 0; leave it out, or set loss.objective to "
                "'language-modelling' or 'preference'"
            )

    @property
    def needs_own_answers(self) -> bool:
        """Whether the base LM's own answers are learnt from."""
        return bool(self.negated) or self.objective == "preference"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How it is minimised: AdamW with linear decay to 0."""

    steps: int = 300
    """Optimizer steps."""
    batch_size: int = 8
    """Rows per step and process, all accumulation steps together."""
    accumulation: int = 1
    """Equal parts that a step's rows are run in, one after the other, to save memory."""
    learning_rate: float | None = None
    """Peak rate; by default the paper's rule for depth, 8e-5 * sqrt(20 / blocks)."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    gradient_checkpointing: bool = False
    """Run the blocks above the site and those of the hypernetwork again in the backward pass,
    instead of keeping their activations: less memory, more time, the same weights."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Arithmetic of products; weights stay float32. auto: bf16 where the device has it natively."""

    def __post_init__(self) -> None:
        settle(self, "optim.")
        at_least(1, "optim.", self, "steps", "batch_size", "accumulation")
        at_least(0, "optim.", self, "warmup_steps")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"optim.accumulation {self.accumulation} does not divide optim.batch_size "
                f"{self.batch_size}"
            )
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ConfigError(f"optim.learning_rate {rate} is not a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optim.weight_decay {self.weight_decay} is not 0 or more")
        if not self.clip > 0:
            raise ConfigError(f"optim.clip {self.clip} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run."""

    out: str = "runs/train"
    """Folder for checkpoints and metrics."""
    seed: int = 42
    """Everything random follows from it."""
    start: str | None = None
    """Checkpoint whose weights training begins with: folder, Hub id, or `bundled`. It decides the
    base LM, the site and the hypernetwork as well."""
    base_lm: LMConfig = field(default_factory=LMConfig)
    site: SiteConfig = field(default_factory=SiteConfig)
    hypernet: HypernetConfig = field(default_factory=HypernetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    validate_every: int = 100
    """Steps between validations; the last step is always validated."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always makes one."""
    keep: int = 2
    """Newest checkpoints kept besides the best one."""
    best: Literal["held_out_gap", "held_in_gap", "held_out_loss", "held_in_loss", "last"] = (
        "held_out_gap"
    )
    """Which validation figure chooses the best checkpoint; last: the newest one is the best."""
    patience: int | None = None
    """Stop after this many validations without a better figure."""
    tensorboard: bool = False
    """Also write metrics for TensorBoard (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        at_least(1, "", self, "validate_every", "checkpoint_every", "keep", "patience")
        if self.loss.objective == "reconstruction" and self.hypernet.variant != "no-context":
            raise ConfigError(
                "reconstruction has one target per concept, so it needs hypernet.variant "
                f"'no-context', not '{self.hypernet.variant}'"
            )
