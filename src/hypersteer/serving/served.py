"""What a server serves: checkpoints by name, with the base LMs and workers that they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hypersteer.checkpoint import BUNDLED, find_checkpoint
from hypersteer.conditions.condition import load_condition
from hypersteer.conditions.rules import rules
from hypersteer.config.reading import named_values
from hypersteer.config.serving import ServeConfig
from hypersteer.errors import ConfigError
from hypersteer.hypernet.card import read_card
from hypersteer.lm.base import BaseLM
from hypersteer.serving.apart import run_apart
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.plan import Known
from hypersteer.serving.stored import StoredEdits
from hypersteer.serving.worker import Worker
from hypersteer.steering import Steerer, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A checkpoint under a name.

    Attributes:
        name: as clients name it.
        steerer: who steers.
        worker: what runs its base LM.
    """

    name: str
    steerer: Steerer
    worker: Worker


def open_models(
    config: ServeConfig,
    metrics: Metrics,
    *,
    steerers: Mapping[str, Steerer] | None = None,
    lm: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> dict[str, Served]:
    """Load all checkpoints; those of one base LM share it and its worker.

    Args:
        config: what is served.
        metrics: what is counted.
        steerers: loaded ones by name, in place of those of the settings.
        lm: base LM to use in place of the checkpoints' own, where it is the same.
        device: where to load base LMs.
        dtype: of the base LMs.

    Raises:
        ConfigError: for a name that is given twice, or is no name.
        CheckpointError: if one cannot be loaded.
    """
    loaded = steerers if steerers is not None else run_apart(_load_all, config, lm, device, dtype)
    lms = {id(steerer.lm): steerer.lm for steerer in loaded.values()}
    workers = {key: Worker(lm, config, metrics) for key, lm in lms.items()}
    return {
        name: Served(name=name, steerer=steerer, worker=workers[id(steerer.lm)])
        for name, steerer in loaded.items()
    }


def _load_all(
    config: ServeConfig, lm: str | None, device: str | None, dtype: str | None
) -> dict[str, Steerer]:
    """Load checkpoints by name, the base LM of each only once."""
    from hypersteer.lm.load import load_lm

    lms: dict[str, BaseLM] = {}
    found: dict[str, Steerer] = {}
    for one in config.model:
        name, checkpoint = _named(one)
        card = read_card(find_checkpoint(checkpoint))
        wanted = lm or card.base_lm
        if wanted not in lms:
            revision = card.training.get("base_lm", {}).get("revision")
            lms[wanted] = load_lm(wanted, device=device, dtype=dtype, revision=revision)
        name = name or lms[wanted].name
        if name in found:
            raise ConfigError(f"two checkpoints are served as '{name}'; name them: NAME={one}")
        found[name] = load(checkpoint, lm=lms[wanted])
    return found


def _named(text: str) -> tuple[str, str]:
    """Return name and checkpoint of `NAME=CHECKPOINT`; no name for a checkpoint alone."""
    name, equals, checkpoint = text.partition("=")
    if not equals or Path(text).exists() or text == BUNDLED:
        return "", text
    if not name.strip() or not checkpoint.strip() or "@" in name or any(map(str.isspace, name)):
        raise ConfigError(
            f"--model '{text}' is not NAME=CHECKPOINT; a name has no space and no '@'"
        )
    return name.strip(), checkpoint.strip()


def known_of(config: ServeConfig) -> Known:
    """Read what requests may name; every rule is checked.

    Raises:
        SteeringError: for a file that cannot be read, or a rule that cannot be.
    """
    conditions = {
        name: load_condition(path)
        for name, path in named_values(config.condition, "--condition", "FILE").items()
    }
    steer = named_values(config.steer, "--steer", "TEXT")
    named = {
        name: rules(text, conditions=conditions, edits=steer)
        for name, text in named_values(config.rule, "--rule", "RULE").items()
    }
    return Known(
        conditions=conditions, rules=named, steer=steer, edits=StoredEdits(config.edits_folder)
    )
