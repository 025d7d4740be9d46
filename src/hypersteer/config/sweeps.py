"""Settings of a sweep: many runs, trained and measured. The string under each field is its help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hypersteer.config.evaluation import JudgeConfig, ProtocolConfig
from hypersteer.config.reading import LARGEST_SEED, from_dict, settle, to_dict
from hypersteer.config.training import TrainConfig
from hypersteer.errors import ConfigError

Targets = Literal["none", "reft-r1", "diffmean"]
TO_BE_MADE = "made by the sweep"
"""Stands for the file of targets until the sweep knows its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingConfig:
    """One setting of a sweep: in what its runs differ from the run that all share."""

    name: str
    """As figures and tables call it."""
    group: str = ""
    """What is varied: settings of one group stand together in a table."""
    change: dict[str, Any] = field(default_factory=dict)
    """Fields of a training run that differ, in tables as `hypersteer train` has them."""
    targets: Targets = "none"
    """For the objective 'reconstruction': the method whose vectors are the targets."""
    judged: bool = False
    """Whether the answers of its runs are judged."""

    def __post_init__(self) -> None:
        settle(self, "settings.")
        if not self.name.strip():
            raise ConfigError("settings.name is empty; say what figures are to call the setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """A sweep: settings x numbers of concepts x seeds."""

    out: str = "runs/sweep"
    """Folder of the report, the figures and their numbers."""
    runs: str = "runs/sweep_runs"
    """Folder of the runs, which sweeps may share: a run of the same settings is trained once."""
    seeds: tuple[int, ...] = (42,)
    """Each setting is trained once with each."""
    concepts: tuple[int, ...] = ()
    """Each setting is trained on so many concepts, ascending; none: as `train.data` says."""
    judged_concepts: tuple[int, ...] = ()
    """Of these numbers, those at which all settings are judged."""
    settings: tuple[SettingConfig, ...] = ()
    """The settings. In a table of ablations the first is what the others are held against."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The run that all share. What is measured is the checkpoint of its last step."""
    reft: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters of ReFT-r1 that differ from its own."""
    rivals: tuple[str, ...] = ("prompting",)
    """Methods that are judged beside the runs, where any are judged."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """How answers are made, where runs are judged."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    seconds_per_row: float = 0.16
    """Guess of the time of a row in a training step, for the estimate before any run is there."""
    seconds_per_answer: float = 2.0
    """Guess of the time of an answer and its judging, likewise."""

    def __post_init__(self) -> None:
        settle(self)
        if not self.settings:
            raise ConfigError("settings is empty; give at least one [[settings]] with a name")
        _refuse_twice("settings.name", [one.name for one in self.settings])
        self._check_numbers()
        for one in self.settings:
            changed(self.train, one)

    def _check_numbers(self) -> None:
        if not self.seeds:
            raise ConfigError("seeds is empty; give at least one, such as [42]")
        _refuse_twice("seeds", self.seeds)
        for seed in self.seeds:
            if not 0 <= seed <= LARGEST_SEED:
                raise ConfigError(f"seeds holds {seed}, which is not within 0 and 2**63 - 1")
        if any(count < 1 for count in self.concepts):
            raise ConfigError(f"concepts holds {min(self.concepts)}; give numbers above 0")
        if list(self.concepts) != sorted(set(self.concepts)):
            raise ConfigError(f"concepts {list(self.concepts)} are not ascending, each once")
        if unknown := [count for count in self.judged_concepts if count not in self.concepts]:
            raise ConfigError(
                f"judged_concepts holds {unknown[0]}, which is none of concepts "
                f"{list(self.concepts)}"
            )
        validated = self.train.data.held_in_concepts
        if self.concepts and (validated or 0) > self.concepts[0]:
            raise ConfigError(
                f"train.data.held_in_concepts {validated} is more than the {self.concepts[0]} "
                "concepts of the smallest runs; lower it, so that all are measured on the same"
            )
        for name in ("seconds_per_row", "seconds_per_answer"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0 and finite")


def changed(train: TrainConfig, setting: SettingConfig) -> TrainConfig:
    """Return the settings of a run with what one setting changes in them.

    Raises:
        ConfigError: naming the setting, for a field that is unknown or cannot be so.
    """
    raw = to_dict(train)
    for key, value in setting.change.items():
        within = isinstance(value, dict) and isinstance(raw.get(key), dict)
        raw[key] = {**raw[key], **value} if within else value
    if setting.targets != "none" and isinstance(raw.get("loss"), dict):
        raw["loss"] = {**raw["loss"], "targets": TO_BE_MADE}
    where = f"settings '{setting.name}', change"
    try:
        return from_dict(TrainConfig, raw, where)
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(where) else f"{where}: {told}") from error


def _refuse_twice(name: str, values: Sequence[object]) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ConfigError(f"{name} '{twice[0]}' is there twice; give each once")
