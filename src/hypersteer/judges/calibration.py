"""Calibration of the likelihood judge: from signals to scores in [0, 2], kept as one JSON file.

Each dimension is a ridge logistic regression on a few standardised signals. All signals point
upwards (more is better) and no weight is negative, so a score never falls when a signal rises.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hypersteer.config import from_dict
from hypersteer.errors import ConfigError, SteeringError, nearest, one_line
from hypersteer.files import output_file, package_data, path_of, read_json, write_text
from hypersteer.judges.judge import DIMENSIONS

T = TypeVar("T")

FORMAT = 1
"""Part of every file: raise it whenever the meaning of a signal or of a key changes."""

BUNDLED = "likelihood_smollm2_135m.json"
RECIPE = "python experiments/judge_calibration.py --lm NAME --out FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Logistic regression of one dimension.

    Attributes:
        signals: names of the F signals it reads.
        mean: [F] of the calibration rows.
        std: [F] of the calibration rows.
        weights: [F] of the standardised signals, none negative.
        bias: of the logit.
    """

    signals: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def parts(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what each signal adds to the logit; 0 for a signal at the calibration mean."""
        rows = zip(self.signals, self.mean, self.std, self.weights, strict=True)
        return {name: w * (values[name] - m) / s for name, m, s, w in rows}

    def score(self, values: Mapping[str, float]) -> float:
        """Return the expected label times 2: a score in (0, 2)."""
        logit = self.bias + sum(self.parts(values).values())
        return float(1 + np.tanh(logit / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What signals are compared against; part of the calibration, since scores depend on it.

    Attributes:
        texts: everyday responses, whose states give the mean and the main directions.
        concepts: concepts that the concept match is contrasted with.
        instructions: likewise for the instruction match.
        layers: the two blocks whose states are compared.
        components: main directions of the background states that are taken out.
    """

    texts: tuple[str, ...]
    concepts: tuple[str, ...]
    instructions: tuple[str, ...]
    layers: tuple[int, ...]
    components: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All constants of a likelihood judge for one base LM.

    Attributes:
        base_lm: name of the base LM that it was fitted with.
        fingerprint: a short label of that base LM's weights.
        identity: tells that base LM from others; empty in files of earlier versions.
        data: what it was fitted on, in words.
        background: what signals are compared against.
        scales: one per dimension.
    """

    base_lm: str
    fingerprint: str
    data: str
    background: Background
    scales: dict[str, Scale]
    identity: str = ""

    @property
    def version(self) -> str:
        """Eight hex digits that change with any constant."""
        # Which base LM it is for is no constant; what earlier versions wrote keeps its number.
        constants = {name: value for name, value in asdict(self).items() if name != "identity"}
        text = json.dumps(constants, sort_keys=True)
        return hashlib.sha256(f"{FORMAT}{text}".encode()).hexdigest()[:8]

    def save(self, path: str | Path) -> None:
        """Write the file; a reader sees the old one or the whole new one.

        Raises:
            ConfigError: if it cannot be written.
        """
        save_constants(path, FORMAT, asdict(self))

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Calibration":
        """Read a calibration file; the bundled one, made for SmolLM2-135M-Instruct, by default.

        Raises:
            ConfigError: if there is no such file or it is no calibration of this format.
        """
        return load_constants(path, BUNDLED, cls._read, f"calibration of format {FORMAT}", RECIPE)

    @classmethod
    def _read(cls, entry: dict[str, Any]) -> "Calibration":
        if entry["format"] != FORMAT:
            raise ValueError(f"its format is {entry['format']!r}")
        named = {key: str(entry[key]) for key in ("base_lm", "fingerprint", "data")}
        if unknown := entry["scales"].keys() - set(DIMENSIONS):
            raise ValueError(f"scales has the unknown '{min(unknown)}'{nearest('', DIMENSIONS)}")
        scales = {
            name: from_dict(Scale, entry["scales"][name], f"scales.{name}") for name in DIMENSIONS
        }
        for name, scale in scales.items():
            check_scale(f"scales.{name}", scale)
        background = from_dict(Background, entry["background"], "background")
        if len(background.layers) != 2 or not background.texts:
            raise ValueError("background needs texts, and two layers")
        if not background.concepts or not background.instructions or background.components < 0:
            raise ValueError("background needs concepts, instructions, and 0 components or more")
        identity = str(entry.get("identity", ""))
        return cls(**named, background=background, scales=scales, identity=identity)


def save_constants(path: str | Path, version: int, constants: Mapping[str, Any]) -> None:
    """Write a calibration's file; a reader sees the old one or the whole new one.

    Args:
        path: the file.
        version: of the format.
        constants: of JSON types.

    Raises:
        ConfigError: if it cannot be written.
    """
    path = output_file(path, "the calibration")
    text = json.dumps({"format": version, **constants}, indent=1, ensure_ascii=False)
    try:
        write_text(path, f"{text}\n")
    except OSError as error:
        raise ConfigError(f"cannot write the calibration {path}: {one_line(error)}") from error


def load_constants(
    path: str | Path | None, bundled: str, read: Callable[[Any], T], what: str, recipe: str
) -> T:
    """Read a calibration's file.

    Args:
        path: the file; by default the bundled one.
        bundled: name of that.
        read: makes a calibration of the JSON value in it.
        what: it should be, for messages.
        recipe: the command that makes one.

    Raises:
        ConfigError: if there is no such file, or it is none of these.
    """
    source = package_data("judges", bundled) if path is None else path_of(path, "the calibration")
    try:
        return read(read_json(source))
    except OSError as error:
        raise ConfigError(
            f"cannot read the calibration {source}: {one_line(error)}; make one with {recipe}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, SteeringError) as error:
        raise ConfigError(
            f"{source} is no {what} ({one_line(error)}); make it anew with {recipe}"
        ) from error


def check_scale(name: str, scale: Scale, known: Sequence[str] = ()) -> None:
    """See that a scale can score: as many numbers as signals, all finite, no deviation of 0.

    Args:
        name: of the scale, for messages.
        scale: the scale.
        known: signals that it may read; any if it is empty.

    Raises:
        ValueError: naming the scale.
    """
    rows = (scale.mean, scale.std, scale.weights)
    if not scale.signals or any(len(row) != len(scale.signals) for row in rows):
        raise ValueError(f"{name} has not one mean, std and weight for each signal")
    if not np.isfinite([*scale.mean, *scale.std, *scale.weights, scale.bias]).all():
        raise ValueError(f"{name} holds NaN or infinite numbers")
    if min(scale.std) <= 0:
        raise ValueError(f"{name} has a std that is not above 0")
    if known and (unknown := set(scale.signals) - set(known)):
        raise ValueError(f"{name} reads the unknown signal '{min(unknown)}'")


def fit(
    signals: Mapping[str, Sequence[float]],
    labels: Sequence[float],
    weights: Sequence[float] | None = None,
    ridge: float = 1.0,
) -> Scale:
    """Fit the scale of one dimension by Newton's method.

    Where a weight would be negative, its signal is left out (weight 0) and the rest fitted anew.

    Args:
        signals: name -> N values.
        labels: N expected labels in [0, 1].
        weights: N weights of the rows; 1 by default.
        ridge: strength of the penalty on the standardised weights; the bias is free.

    Raises:
        ConfigError: if there is nothing to tell apart.
    """
    names = tuple(signals)
    values = np.stack([np.asarray(signals[name], float) for name in names], axis=1)
    target = np.asarray(labels, float)
    if not len(target) or target.min() == target.max():
        raise ConfigError("a calibration needs rows with high and with low labels")
    amount = np.ones(len(target)) if weights is None else np.asarray(weights, float)
    mean, std = values.mean(0), values.std(0)
    std[std == 0] = 1.0
    standard = (values - mean) / std
    kept = list(range(len(names)))
    while True:
        found = _logistic(standard[:, kept], target, amount, ridge)
        if not kept or found[:-1].min() >= 0:
            break
        kept.pop(int(found[:-1].argmin()))
    full = np.zeros(len(names))
    full[kept] = found[:-1]
    rounded = [tuple(float(f"{x:.6g}") for x in row) for row in (mean, std, full)]
    return Scale(
        signals=names,
        mean=rounded[0],
        std=rounded[1],
        weights=rounded[2],
        bias=float(f"{found[-1]:.6g}"),
    )


def _logistic(
    values: np.ndarray, target: np.ndarray, amount: np.ndarray, ridge: float, steps: int = 100
) -> np.ndarray:
    """Return weights and, last, the bias that minimise the penalised cross-entropy."""
    values = np.hstack([values, np.ones((len(values), 1))])
    penalty = np.full(values.shape[1], ridge)
    penalty[-1] = 1e-6
    found = np.zeros(values.shape[1])
    for _ in range(steps):
        chance = (1 + np.tanh(values @ found / 2)) / 2
        slope = values.T @ (amount * (chance - target)) + penalty * found
        curve = (values * (amount * chance * (1 - chance))[:, None]).T @ values + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        # A full Newton step may overshoot where the classes are far apart.
        found -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return found
