"""Calibration of the local judge: one file with scales for several models.

How sure a model is of Yes depends on the model and the wording, and so does how likely it finds
whole text. The scales turn both into scores from 0 to 2 as readers gave them
(`experiments/judge_agreement.py` fits them).
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypersteer.config import from_dict
from hypersteer.errors import ConfigError, SteeringError, one_line
from hypersteer.files import output_file, package_data, path_of, read_json, write_text
from hypersteer.judges.calibration import Scale, check_scale
from hypersteer.lm.base import BaseLM

FORMAT = 1
BUNDLED = "local_calibration.json"
RECIPE = "python experiments/judge_agreement.py --fit FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScales:
    """Scales of a model that is asked.

    Attributes:
        model: its name.
        weights: last words of the names of askers with these weights: hashes or fingerprints.
        concept: from the log-odds of Yes, asked either way, to a score.
        instruction: likewise.
    """

    model: str
    weights: tuple[str, ...]
    concept: Scale
    instruction: Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class FluencyScale:
    """Scale of a model that measures fluency.

    Attributes:
        base_lm: its name.
        identity: tells it from others.
        plain_likelihood: mean log-likelihood per token that it gives plain answers (nats).
        plain_worst: the same of their least likely words.
        scale: from signals to a score.
    """

    base_lm: str
    identity: str
    plain_likelihood: float
    plain_worst: float
    scale: Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCalibration:
    """All scales.

    Attributes:
        data: what they were fitted on, in words.
        models: of models that are asked.
        fluency: of models that measure fluency.
    """

    data: str
    models: tuple[AskedScales, ...]
    fluency: tuple[FluencyScale, ...]

    @property
    def version(self) -> str:
        """Eight hex digits that change with any constant."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(f"{FORMAT}{text}".encode()).hexdigest()[:8]

    def asked(self, name: str) -> dict[str, Scale]:
        """Return the scales of an asker by dimension; none where it has not been calibrated."""
        last = name.split()[-1] if name.split() else ""
        for entry in self.models:
            if last in entry.weights:
                return {"concept": entry.concept, "instruction": entry.instruction}
        return {}

    def fluency_of(self, lm: BaseLM) -> FluencyScale:
        """Return the scale of a model that measures fluency.

        Raises:
            ConfigError: if there is none.
        """
        for entry in self.fluency:
            if not lm.difference(entry.identity, "the local judge's calibration"):
                return entry
        known = ", ".join(entry.base_lm for entry in self.fluency)
        raise ConfigError(
            f"judge.fluency_lm '{lm.name}' has no scale in the local judge's calibration; take one "
            f"of {known}, or fit one with {RECIPE} and give it as judge.calibration"
        )

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ConfigError: if it cannot be written.
        """
        path = output_file(path, "the calibration")
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        try:
            write_text(path, f"{text}\n")
        except OSError as error:
            raise ConfigError(f"cannot write the calibration {path}: {one_line(error)}") from error

    @classmethod
    def load(cls, path: str | Path | None = None) -> "LocalCalibration":
        """Read a calibration file; the bundled one by default.

        Raises:
            ConfigError: if there is no such file or it is no calibration of this format.
        """
        bundled = package_data("judges", BUNDLED)
        source = bundled if path is None else path_of(path, "the calibration")
        try:
            return cls._read(read_json(source))
        except OSError as error:
            raise ConfigError(
                f"cannot read the calibration {source}: {one_line(error)}; make one with {RECIPE}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, SteeringError) as error:
            raise ConfigError(
                f"{source} is no calibration of the local judge of format {FORMAT} "
                f"({one_line(error)}); make it anew with {RECIPE}"
            ) from error

    @classmethod
    def _read(cls, entry: dict[str, Any]) -> "LocalCalibration":
        if entry["format"] != FORMAT:
            raise ValueError(f"its format is {entry['format']!r}")
        given = {name: value for name, value in entry.items() if name != "format"}
        found = from_dict(cls, given, "calibration")
        for asked in found.models:
            for name in ("concept", "instruction"):
                known = (name, f"no_{name}")
                check_scale(f"{asked.model}.{name}", getattr(asked, name), known)
        for fluency in found.fluency:
            check_scale(fluency.base_lm, fluency.scale, SIGNALS)
            if not math.isfinite(fluency.plain_likelihood + fluency.plain_worst):
                raise ValueError(f"{fluency.base_lm} holds NaN or infinite numbers")
        return found


SIGNALS = ("likelihood", "worst", "whole_words", "novelty", "own_words")
"""What a scale of fluency may read (`hypersteer.judges.fluency`)."""


def probability(odds: float) -> float:
    """Return the probability that log-odds stand for."""
    return 0.5 * (1 + math.tanh(odds / 2))
