"""How a condition is fitted: which direction, which score, and how the point is chosen."""

from dataclasses import dataclass, field
from typing import Literal

from hypersteer.config.evaluation import JudgeConfig
from hypersteer.config.reading import at_least, check_seed, settle
from hypersteer.config.synthesis import TeacherConfig
from hypersteer.errors import ConfigError

Scorer = Literal["cosine", "legacy"]
Pooling = Literal["turn", "prompt", "all", "last", "response"]
Contrast = Literal["whitened", "mean", "paired", "global", "difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionConfig:
    """How a condition is fitted."""

    method: Contrast = "whitened"
    """whitened or mean: difference of means; paired, global, difference: principal component."""
    scorer: Scorer = "cosine"
    """cosine (signed, with an intercept), or legacy: the score of CAST."""
    pooling: Pooling = "turn"
    """turn: mean over the user's last message; prompt: over the whole conversation, without the
    chat prefix; all: with it; last: its last token; response: mean over the answer so far, which
    texts to fit on then have too."""
    layers: tuple[int, ...] = ()
    """Layers to choose from; by default all."""
    max_layers: int = 1
    """Most layers joined: the condition fires if any of them does."""
    false_positives: float | None = None
    """Most off-topic prompts that may fire, as a share; by default the F1 decides."""
    folds: int = 5
    """Parts of the prompts; each is scored by what was learnt from the others, to choose by."""
    seed: int = 0
    """Seed of that split."""
    batch_tokens: int = 2048
    """Tokens run at once, padding included."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        if self.max_layers < 1:
            raise ConfigError(f"max_layers {self.max_layers} is below 1")
        if self.folds < 2:
            raise ConfigError(f"folds {self.folds} is below 2, so nothing would be held out; try 5")
        budget = self.false_positives
        if budget is not None and not 0 <= budget < 1:
            raise ConfigError(f"false_positives {budget} is not a share from 0 to 1; try 0.05")
        if self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens {self.batch_tokens} is not above 0; try 2048")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """The head that writes conditions from words, and how it is trained."""

    words_layers: tuple[int, ...] = (12, 16, 20)
    """Blocks whose mean states on the words of a condition are what the head reads."""
    layers: tuple[int, ...] = (8, 12, 16, 20)
    """Blocks that its conditions read; a score is the mean of theirs."""
    members: int = 4
    """Networks trained side by side, whose conditions are averaged."""
    hidden: int = 256
    """Width of the hidden layer of each."""
    dropout: float = 0.3
    """Share of its inputs and of its hidden layer that a training step drops."""
    read_dropout: float = 0.3
    """Share of a text's states that a training step leaves unread, anew for each text."""
    steps: int = 4500
    """Optimizer steps."""
    conditions: int = 48
    """Conditions of a step, each with all its texts."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW, after a tenth of the steps; then half a cosine."""
    weight_decay: float = 0.05
    """Of AdamW."""
    others: int = 8
    """Texts of far-off conditions that count as false in a step, for each topic and each matter of
    safety, which are rarely true; 0 for none."""
    kept: int = 400
    """Texts about prompts, and as many about answers, kept with the head to set budgets of false
    positives by; they are of conditions put aside, one in twenty, that it is not trained on."""
    seed: int = 0
    """Of weights, dropout and the order of conditions."""

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        for name in ("words_layers", "layers"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name at least one block")
        for name in ("others", "kept"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)} is below 0; give 0 for none")
        for name in ("members", "hidden", "steps", "conditions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is below 1")
        for name in ("dropout", "read_dropout"):
            if not 0 <= getattr(self, name) < 1:
                told = f"{name} {getattr(self, name)} is not a share from 0 to below 1; try 0.3"
                raise ConfigError(told)
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"learning_rate {self.learning_rate} is to be above 0, and weight_decay "
                f"{self.weight_decay} not below"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionTextsConfig:
    """Texts for conditions in words: who writes them, who judges them, and how many."""

    inside: int = 12
    """Texts of which a condition is true, for each."""
    outside: int = 12
    """Texts of which it is not; half of them are near misses."""
    attempts: int = 3
    """How often texts are asked for, at most, the first time included."""
    seed: int = 42
    """Of what the teacher samples, where it can be set."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        settle(self)
        check_seed(self)
        at_least(4, "", self, "inside", "outside")
        at_least(1, "", self, "attempts")
        if self.teacher.kind == "local":
            raise ConfigError(
                "teacher.kind 'local' is the base LM, too small to write texts for conditions; "
                "name another model"
            )
        if self.judge.kind not in ("auto", "local"):
            raise ConfigError(
                f"judge.kind '{self.judge.kind}' tells no probability of Yes; take local"
            )
