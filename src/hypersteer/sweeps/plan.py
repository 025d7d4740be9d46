"""Which runs a sweep has: settings x numbers of concepts x seeds, each in a folder of its own.

A run's folder is named by a hash of its settings, so sweeps that share a folder of runs share the
runs, and a setting that occurs twice in a sweep is trained once.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hypersteer.config import LMConfig, TrainConfig, to_dict
from hypersteer.config.sweeps import SettingConfig, SweepConfig, changed
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.files import output_folder, to_json
from hypersteer.hypernet.network import Hypernet
from hypersteer.lm.skeleton import Skeleton, open_skeleton
from hypersteer.training.state import FREE

DIGITS = 12
"""Of a hash in the name of a folder: 48 bits."""


class Run(NamedTuple):
    """One run of a sweep.

    Attributes:
        setting: what it is an instance of.
        concepts: how many it is trained on; None where the settings say it.
        config: its resolved settings; `out` is its folder.
        judged: whether its answers are judged.
    """

    setting: SettingConfig
    concepts: int | None
    config: TrainConfig
    judged: bool

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return Path(self.config.out)

    @property
    def told(self) -> str:
        """Name of the run in messages."""
        count = "" if self.concepts is None else f", {self.concepts:,} concepts"
        return f"{self.setting.name}{count}, seed {self.config.seed}"


def plan_runs(config: SweepConfig) -> list[Run]:
    """Return all runs of a sweep, settings within seeds within numbers of concepts.

    The small ones come first, so that a sweep that is cut off has the beginning of every line.

    Raises:
        ConfigError: if the data have too few concepts, a setting's hypernetwork cannot be, or the
            folder of runs cannot be written.
        ModelError: if a setting's base LM or its site cannot be had.
        DataError: if the data cannot be read.
    """
    pool = output_folder(config.runs, "runs")
    _check_concepts(config)
    _check_hypernets(config)
    return [
        _run(config, setting, count, seed, pool)
        for count in (config.concepts or (None,))
        for seed in config.seeds
        for setting in config.settings
    ]


def _run(
    config: SweepConfig, setting: SettingConfig, count: int | None, seed: int, pool: Path
) -> Run:
    """Return one run, its settings resolved."""
    # The newest checkpoint is measured: nothing is chosen on the rows that are reported.
    train = replace(changed(config.train, setting), seed=seed, best="last", keep=1)
    if count is not None:
        train = replace(train, data=replace(train.data, max_concepts=count))
    if setting.targets != "none":
        made = pool / f"{setting.targets}-{vectors_key(train, config.reft)}.safetensors"
        train = replace(train, loss=replace(train.loss, targets=str(made)))
    judged = setting.judged or count in config.judged_concepts
    out = str(pool / run_key(train))
    return Run(setting, count, replace(train, out=out), judged)


def run_key(config: TrainConfig) -> str:
    """Return what names a run: a hash of all its settings that decide what it learns."""
    raw = to_dict(config)
    for table, names in FREE.items():
        for name in names:
            (raw[table] if table else raw).pop(name)
    return hashed(raw)


def vectors_key(config: TrainConfig, reft: dict[str, Any]) -> str:
    """Return a hash of all that vectors depend on that are learnt from a run's training rows."""
    raw = to_dict(config)
    return hashed([raw["base_lm"], raw["site"], raw["data"], raw["seed"], reft])


def reference_file(config: SweepConfig, run: Run) -> Path:
    """Return where ReFT-r1 is kept as it was measured on what a run validates."""
    return Path(config.runs) / f"reference-{vectors_key(run.config, config.reft)}.json"


def hashed(value: Any) -> str:
    """Return a short hash of a value of JSON types."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:DIGITS]


def _check_concepts(config: SweepConfig) -> None:
    """Refuse more training concepts than the data have."""
    if not config.concepts:
        return
    data = load_concepts(config.train.data.source)
    wanted = replace(config.train.data, max_concepts=None)
    found = len(split_as(data, wanted, config.seeds[0]).train_concepts)
    if config.concepts[-1] > found:
        raise ConfigError(
            f"concepts holds {config.concepts[-1]}, and {data.name} has {found} to train on; lower "
            "it, or add to train.data.source"
        )


def _check_hypernets(config: SweepConfig) -> None:
    """Refuse settings whose hypernetwork cannot be, before the runs ahead of them take hours."""
    known: dict[LMConfig, Skeleton] = {}
    for setting in config.settings:
        train = changed(config.train, setting)
        if train.start is not None:  # a checkpoint's hypernetwork exists
            continue
        if train.base_lm not in known:
            known[train.base_lm] = open_skeleton(train.base_lm, torch.float32)
        lm = known[train.base_lm]
        try:
            with torch.device("meta"):
                Hypernet(lm, train.hypernet, lm.site(train.site.layer, train.site.kind))
        except SteeringError as error:
            raise type(error)(f"setting '{setting.name}': {error}") from error
