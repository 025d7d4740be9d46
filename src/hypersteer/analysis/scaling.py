"""What a sweep over numbers of training concepts shows: points, fits, and operations until a loss.

Means are over concepts, with bootstrap intervals over concepts; a concept that several seeds
measure counts once, with its mean over them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hypersteer.stats import Interval, bootstrap, mean
from hypersteer.sweeps.measured import ByConcept, Point
from hypersteer.sweeps.run import Swept

LEAST_LINE, LEAST_DECAY = 3, 4
"""Points that a fit of two, and of three numbers needs to leave something over."""
FINE, ROUNDS = 400, 4
"""Rates that are tried in a round, and rounds, each between the neighbours of the best one."""


class Line(NamedTuple):
    """A fit `y = start + slope log2(n)`, with the share of the variance that it explains."""

    start: float
    slope: float
    r2: float

    def at(self, count: float) -> float:
        """Return y at n concepts."""
        return self.start + self.slope * math.log2(count)


class Decay(NamedTuple):
    """A fit `y = a + b exp(d n)` (paper, appendix A.3.2), with the share that it explains."""

    a: float
    b: float
    d: float
    r2: float

    def at(self, count: float) -> float:
        """Return y at n concepts."""
        return self.a + self.b * math.exp(self.d * count)


PAPER = Decay(87.7035, 1521.1495, -0.0034, 0.9976)
"""The paper's fit for cross attention on Gemma-2-2B: TFLOPs per concept (appendix A.3.2)."""
PAPER_REFT, PAPER_SPREAD = 666.27, 20.74
"""TFLOPs of a ReFT-r1 vector there, and how far they vary."""


def fit_line(counts: Sequence[float], values: Sequence[float]) -> Line | None:
    """Fit a line over the logarithm of the number of concepts; None for fewer than three points."""
    if len(counts) < LEAST_LINE:
        return None
    slope, start = np.polyfit(np.log2(counts), values, 1)
    predicted = start + slope * np.log2(counts)
    return Line(float(start), float(slope), explained(values, predicted))


def fit_decay(counts: Sequence[float], values: Sequence[float]) -> Decay | None:
    """Fit `a + b exp(d n)` with d below 0 by least squares; None for fewer than four points.

    For a given d the best a and b are those of a linear regression, so only d is searched: on a
    grid over all scales of the counts, which is made finer around the best of it.
    """
    if len(counts) < LEAST_DECAY:
        return None
    n, y = np.asarray(counts, float), np.asarray(values, float)
    low, high = math.log(0.05 / n.max()), math.log(20 / n.min())
    best = _decay(n, y, -math.exp(low))
    for _ in range(ROUNDS):
        rates = np.linspace(low, high, FINE)
        found = [_decay(n, y, -math.exp(rate)) for rate in rates]
        place = int(np.argmax([one.r2 for one in found]))
        best = found[place]
        low, high = rates[max(0, place - 1)], rates[min(FINE - 1, place + 1)]
    return best


def _decay(n: np.ndarray, y: np.ndarray, d: float) -> Decay:
    """Return the best fit with a given rate."""
    columns = np.stack([np.ones_like(n), np.exp(d * n)], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, y, rcond=None)
    return Decay(float(a), float(b), d, explained(y, columns @ np.array([a, b])))


def explained(values: Sequence[float] | np.ndarray, predicted: np.ndarray) -> float:
    """Return R2, the share of the variance that is explained; 1 where there is none."""
    y = np.asarray(values, float)
    whole = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / whole if whole > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A setting at a number of training concepts.

    Attributes:
        setting: its name.
        concepts: how many were trained on.
        values: mean with its interval, by measure: `held_out_loss`, `held_in_gap`,
            `held_out_score` and so on, where it was measured.
    """

    setting: str
    concepts: int
    values: Mapping[str, Interval]


def pooled(found: Iterable[ByConcept]) -> ByConcept:
    """Return the mean of each concept over the seeds that have it."""
    every: dict[str, list[float]] = {}
    for one in found:
        for id_, value in one.items():
            every.setdefault(id_, []).append(value)
    return {id_: mean(values) for id_, values in every.items()}


def measures_of(swept: Swept, setting: str, concepts: int | None) -> dict[str, ByConcept]:
    """Return what all seeds of a setting were measured at, by measure and concept.

    Args:
        swept: the sweep.
        setting: its name.
        concepts: how many were trained on; None where the sweep has no such numbers.
    """
    found: dict[str, list[ByConcept]] = {}
    for run, measured in zip(swept.runs, swept.measured, strict=True):
        if (run.setting.name, run.concepts) != (setting, concepts):
            continue
        for name, losses in measured.losses.items():
            found.setdefault(name, []).append(losses)
        scores = swept.scores.get(run.config.seed, {}) if run.judged else {}
        for (method, held), own in scores.items():
            if method == run.folder.name:
                found.setdefault(f"{held}_score", []).append(own)
    return {name: pooled(own) for name, own in found.items()}


def spots(swept: Swept) -> list[Spot]:
    """Return every setting at every number of concepts, in the order of the sweep."""
    counts = swept.config.concepts
    return [
        Spot(
            setting=setting.name,
            concepts=count,
            values={
                name: bootstrap(list(own.values()))
                for name, own in measures_of(swept, setting.name, count).items()
            },
        )
        for setting in swept.config.settings
        for count in counts
    ]


class Crossing(NamedTuple):
    """Where a training curve reaches a loss.

    Attributes:
        flops: of all steps until then.
        exact: whether it lies between two validations; else it is at the first one or before.
    """

    flops: float
    exact: bool


def crossing(curve: Sequence[Point], target: float) -> Crossing | None:
    """Return where the held-in loss first reaches a target, on a straight line between validations.

    None where it never does, or is not validated.
    """
    before: Point | None = None
    for point in curve:
        if point.held_in_loss is None:
            continue
        if point.held_in_loss <= target:
            if before is None or before.held_in_loss is None:
                return Crossing(point.flops, exact=False)
            fall = before.held_in_loss - point.held_in_loss
            share = (before.held_in_loss - target) / fall
            return Crossing(before.flops + share * (point.flops - before.flops), exact=True)
        before = point
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a setting spends on each concept until it is as good as ReFT-r1, in FLOPs.

    Attributes:
        setting: its name.
        concepts: how many were trained on.
        each: mean over the seeds that got there; of those that did not, what they spent in vain
            where none did.
        reached: seeds that got there.
        seeds: all.
        exact: whether all crossings lie between validations.
    """

    setting: str
    concepts: int
    each: float
    reached: int
    seeds: int
    exact: bool


def spending(swept: Swept) -> list[Spent]:
    """Return what every setting spends at every number of concepts, in the order of the sweep."""
    return [
        _spent(swept, setting.name, count)
        for setting in swept.config.settings
        for count in swept.config.concepts
    ]


def _spent(swept: Swept, setting: str, count: int) -> Spent:
    own = [
        (swept.references[run.config.seed].loss, measured)
        for run, measured in zip(swept.runs, swept.measured, strict=True)
        if (run.setting.name, run.concepts) == (setting, count)
    ]
    found = [crossing(measured.curve, target) for target, measured in own]
    there = [one for one in found if one is not None]
    flops = [one.flops for one in there] or [measured.flops for _, measured in own]
    return Spent(
        setting=setting,
        concepts=count,
        each=mean(flops) / count,
        reached=len(there),
        seeds=len(own),
        exact=all(one.exact for one in there),
    )
