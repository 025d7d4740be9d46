"""Frozen dataclasses for every run. TOML comes in; the resolved settings are kept as JSON.

The string under each field is its documentation and its `--help` text.
"""

import dataclasses
import json
import math
import os
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from platformdirs import user_cache_path

from hypersteer.errors import ConfigError, nearest, one_line

T = TypeVar("T")
Variant = Literal["cross-attention", "in-context", "no-context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LMConfig:
    """The base LM that is steered."""

    name: str = "smollm2-135m-instruct"
    """Alias, Hugging Face id, local folder, or .gguf file."""
    device: str | None = None
    """cpu, cuda, mps; by default the best there is."""
    dtype: str | None = None
    """float32, bfloat16, float16; by default float32 on a CPU, bfloat16 elsewhere."""
    quantization: str | None = None
    """8bit or 4bit weights through bitsandbytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """Where the edit is read and written."""

    layer: int | None = None
    """Decoder block, from 0; by default 40 % of the way up."""
    kind: Literal["residual", "attention", "mlp"] = "residual"
    """Block output, or a sub-layer's output before it joins the residual stream."""
    scope: Literal["all", "prompt", "response", "last_prompt"] = "all"
    """Which tokens the edit touches."""


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
    head_width: int | None = None
    """Hidden width of the MLP head; by default the width of the base LM."""

    def __post_init__(self) -> None:
        _at_least(1, "hypernet.", self, "blocks", "cross_heads", "head_width")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What to learn from."""

    source: tuple[str, ...] = ("bundled",)
    """Folders, `axbench:concept10/2b/l20`, `hub:owner/name`, or `bundled`; several are joined."""
    held_out_concepts: int | tuple[int, ...] = 4
    """How many concepts are never trained on, or exactly which ids."""
    held_in_prompts: int = 6
    """Base prompts of each training concept kept back for validation."""
    max_concepts: int | None = None
    """Use this many concepts at most."""
    max_examples_per_concept: int | None = None
    """Use this many training examples of a concept at most."""
    max_held_out_rows: int | None = 12
    """Validation rows of each held-out concept at most."""
    max_prompt_tokens: int = 256
    """Examples with longer prompts are left out."""
    max_response_tokens: int = 128
    """Responses are cut after this many tokens."""

    def __post_init__(self) -> None:
        _at_least(0, "data.", self, "held_in_prompts")
        _at_least(1, "data.", self, "max_concepts", "max_examples_per_concept")
        _at_least(1, "data.", self, "max_held_out_rows", "max_prompt_tokens", "max_response_tokens")
        if isinstance(self.held_out_concepts, int):
            _at_least(0, "data.", self, "held_out_concepts")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """What is minimised."""

    objective: Literal["language-modelling", "reconstruction"] = "language-modelling"
    """Cross-entropy of the response under the edit, or distance to given target vectors."""
    targets: str | None = None
    """For reconstruction: a safetensors file with one vector per concept id, `vectors` [N, D]."""
    contrast: float = 0.0
    """Weight lambda of the contrastive term: the right steering prompt must beat a wrong one."""
    contrast_beta: float = 5.0
    """Sharpness beta of the contrastive term, per nat of a row's mean cross-entropy."""

    def __post_init__(self) -> None:
        if not 0 <= self.contrast < math.inf or not 0 < self.contrast_beta < math.inf:
            raise ConfigError(
                f"loss.contrast {self.contrast} must be 0 or more and loss.contrast_beta "
                f"{self.contrast_beta} above 0, both finite"
            )
        if (self.objective == "reconstruction") != (self.targets is not None):
            raise ConfigError(
                f"loss.objective '{self.objective}' with loss.targets {self.targets!r}: "
                "reconstruction needs a targets file, and only it does"
            )


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
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Arithmetic of products; weights stay float32. auto: bf16 where the device has it natively."""

    def __post_init__(self) -> None:
        _at_least(1, "optim.", self, "steps", "batch_size", "accumulation")
        _at_least(0, "optim.", self, "warmup_steps")
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
    base_lm: LMConfig = field(default_factory=LMConfig)
    site: SiteConfig = field(default_factory=SiteConfig)
    hypernet: HypernetConfig = field(default_factory=HypernetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validate_every: int = 100
    """Steps between validations; the last step is always validated."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always makes one."""
    keep: int = 2
    """Newest checkpoints kept besides the best one."""
    best: Literal["held_out_gap", "held_in_gap", "held_out_loss", "held_in_loss"] = "held_out_gap"
    """Which validation figure chooses the best checkpoint."""
    patience: int | None = None
    """Stop after this many validations without a better figure."""
    tensorboard: bool = False
    """Also write metrics for TensorBoard (extra `tensorboard`)."""

    def __post_init__(self) -> None:
        _at_least(0, "", self, "seed")
        _at_least(1, "", self, "validate_every", "checkpoint_every", "keep", "patience")
        if self.loss.objective == "reconstruction" and self.hypernet.variant != "no-context":
            raise ConfigError(
                "reconstruction has one target per concept, so it needs hypernet.variant "
                f"'no-context', not '{self.hypernet.variant}'"
            )


def _at_least(least: int, table: str, config: Any, *names: str) -> None:
    """Refuse settings below `least`; None, where a setting may be None, is no limit."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ConfigError(f"{table}{name} {value} is below {least}")


def load_toml(path: str | Path, into: type[T]) -> T:
    """Read a run's settings from a TOML file; what it does not say keeps its default.

    Raises:
        ConfigError: if the file is missing or malformed, or a key is unknown or of a wrong type.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid TOML: {one_line(error)}") from error
    return from_dict(into, raw, where=str(path))


def from_dict(into: type[T], raw: dict[str, Any], where: str = "settings") -> T:
    """Build a configuration dataclass from nested dictionaries.

    Raises:
        ConfigError: naming the place, the key, and the nearest known one.
    """
    hints = get_type_hints(into)
    known = {f.name: f for f in dataclasses.fields(into)}  # type: ignore[arg-type]
    values = {}
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(key, known)}")
        values[key] = _checked(hints[key], value, f"{where}: {key}")
    return into(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` wants it."""
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is a table of settings, not {value!r}")
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(
                f"{where} = {value!r} is unknown{nearest(str(value), get_args(hint))}"
            )
        return value
    if origin in (Union, types.UnionType):
        return _one_of(hint, value, where)
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, (list, tuple)):
            return tuple(_checked(get_args(hint)[0], item, where) for item in items)
    elif _fits(hint, value):
        return float(value) if hint is float else value
    raise ConfigError(f"{where} = {value!r} is not {_name(hint)}")


def _one_of(hint: Any, value: Any, where: str) -> Any:
    for option in get_args(hint):
        try:
            return _checked(option, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where} = {value!r} is not {_name(hint)}")


def _fits(hint: type, value: Any) -> bool:
    """Whether a plain value has a plain type; an int does for a float, a bool for no number."""
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_name(get_args(hint)[0])}"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as nested dictionaries of JSON types; `from_dict` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def cache_folder() -> Path:
    """Where converted models and data are kept: the user's cache folder, or `HYPERSTEER_CACHE`."""
    override = os.environ.get("HYPERSTEER_CACHE")
    return Path(override).expanduser() if override else user_cache_path("hypersteer")
