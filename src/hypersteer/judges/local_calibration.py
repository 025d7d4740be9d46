"""Calibration of the local judge: one file with scales for several models.

How sure a model is of Yes depends on the model and the wording, and so do states and how likely
whole text is to a model. The scales turn both into scores from 0 to 2 as readers gave them
(`experiments/judge_agreement.py` fits them).
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypersteer.config import from_dict
from hypersteer.errors import ConfigError
from hypersteer.judges.calibration import Scale, check_scale, load_constants, save_constants
from hypersteer.lm.base import BaseLM

FORMAT = 2
BUNDLED = "local_calibration.json"
RECIPE = "python experiments/judge_agreement.py --fit FILE"
WHOLENESS = ("likelihood", "whole_words", "coherence", "novelty", "own_words")
"""What is known of fluency without asking."""
SIGNALS = {
    "concept": ("concept", "match", "deep_match", "gain"),
    "instruction": ("instruction",),
    "fluency": ("fluency", *WHOLENESS),
}
"""What the scale of a dimension may read: the log-odds of Yes to its question under its own name,
states and gains (`hypersteer.judges.lm_signals`), and wholeness (`hypersteer.judges.fluency`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScales:
    """Scales of what is asked for, of one pair of models.

    Attributes:
        model: name of the model that is asked.
        weights: last words of the names of askers with its weights: hashes or fingerprints.
        concept: from the log-odds of Yes, and the measuring model's signals, to a score.
        instruction: likewise.
        fluency: likewise, with signals of wholeness.
    """

    model: str
    weights: tuple[str, ...]
    concept: Scale
    instruction: Scale
    fluency: Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredScales:
    """Scales of a model that measures.

    Attributes:
        base_lm: its name.
        identity: tells it from others.
        layers: the two blocks whose states are compared.
        plain_likelihood: mean log-likelihood per token that it gives plain answers (nats).
        fluency: from signals to a score, where the model that is asked has no scale.
        asked: scales together with models that are asked.
    """

    base_lm: str
    identity: str
    layers: tuple[int, ...]
    plain_likelihood: float
    fluency: Scale
    asked: tuple[AskedScales, ...]

    def of_asker(self, name: str) -> AskedScales | None:
        """Return the scales together with an asker; None where it has not been calibrated."""
        last = name.split()[-1] if name.split() else ""
        return next((entry for entry in self.asked if last in entry.weights), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCalibration:
    """All scales.

    Attributes:
        data: what they were fitted on, in words.
        measuring: scales of each model that measures.
    """

    data: str
    measuring: tuple[MeasuredScales, ...]

    @property
    def version(self) -> str:
        """Eight hex digits that change with any constant."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(f"{FORMAT}{text}".encode()).hexdigest()[:8]

    def of(self, lm: BaseLM) -> MeasuredScales:
        """Return the scales of a model that measures.

        Raises:
            ConfigError: if there are none.
        """
        for entry in self.measuring:
            if not lm.difference(entry.identity, "the local judge's calibration"):
                return entry
        known = ", ".join(entry.base_lm for entry in self.measuring)
        raise ConfigError(
            f"judge.fluency_lm '{lm.name}' has no scale in the local judge's calibration; take one "
            f"of {known}, or fit one with {RECIPE} and give it as judge.calibration"
        )

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ConfigError: if it cannot be written.
        """
        save_constants(path, FORMAT, asdict(self))

    @classmethod
    def load(cls, path: str | Path | None = None) -> "LocalCalibration":
        """Read a calibration file; the bundled one by default.

        Raises:
            ConfigError: if there is no such file or it is no calibration of this format.
        """
        what = f"calibration of the local judge of format {FORMAT}"
        return load_constants(path, BUNDLED, cls._read, what, RECIPE)

    @classmethod
    def _read(cls, stored: dict[str, Any]) -> "LocalCalibration":
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']!r}")
        given = {name: value for name, value in stored.items() if name != "format"}
        found = from_dict(cls, given, "calibration")
        for entry in found.measuring:
            check_scale(f"{entry.base_lm}.fluency", entry.fluency, WHOLENESS)
            for asked in entry.asked:
                for name in SIGNALS:
                    check_scale(f"{asked.model}.{name}", getattr(asked, name), SIGNALS[name])
            if len(entry.layers) != 2:
                raise ValueError(f"{entry.base_lm} needs two layers")
            if not math.isfinite(entry.plain_likelihood):
                raise ValueError(f"{entry.base_lm} holds NaN or infinite numbers")
        return found


def probability(odds: float) -> float:
    """Return the probability that log-odds stand for."""
    return 0.5 * (1 + math.tanh(odds / 2))
