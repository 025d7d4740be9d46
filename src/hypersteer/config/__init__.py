"""Frozen dataclasses for every run. TOML comes in; the resolved settings are kept as JSON."""

from hypersteer.config.base_lm import LMConfig, SiteConfig
from hypersteer.config.evaluation import EvaluateConfig, JudgeConfig, ProtocolConfig
from hypersteer.config.planning import PlanConfig
from hypersteer.config.reading import (
    check_choices,
    completed,
    differing,
    from_dict,
    load_toml,
    to_dict,
    without,
)
from hypersteer.config.training import (
    DataConfig,
    HypernetConfig,
    LossConfig,
    OptimConfig,
    TrainConfig,
    Variant,
)

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "HypernetConfig",
    "JudgeConfig",
    "LMConfig",
    "LossConfig",
    "OptimConfig",
    "PlanConfig",
    "ProtocolConfig",
    "SiteConfig",
    "TrainConfig",
    "Variant",
    "check_choices",
    "completed",
    "differing",
    "from_dict",
    "load_toml",
    "to_dict",
    "without",
]
