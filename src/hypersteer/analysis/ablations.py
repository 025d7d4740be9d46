"""What a sweep over settings shows: each setting's measures, and how they differ from the first's.

Means are over concepts, with bootstrap intervals over concepts; differences are taken concept by
concept, which leaves out what makes one concept harder than another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hypersteer.analysis.scaling import measures_of
from hypersteer.evaluation.metrics import paired
from hypersteer.stats import Interval, bootstrap, mean
from hypersteer.sweeps.measured import ByConcept
from hypersteer.sweeps.run import Swept
from hypersteer.training.step import peak_rate

MEASURES = (
    "held_in_loss",
    "held_in_gap",
    "held_out_loss",
    "held_out_gap",
    "held_in_score",
    "held_out_score",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """A setting, measured.

    Attributes:
        name: of the setting.
        group: what it varies.
        values: mean over concepts by measure, where it was measured.
        differences: the setting's less the first setting's, likewise; empty for the first.
        by_seed: mean over concepts by measure, of each seed.
        parameters: of the hypernetwork.
        rate: peak learning rate.
        flops: of a training run, mean over seeds.
    """

    name: str
    group: str
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    by_seed: Mapping[str, list[float]]
    parameters: int
    rate: float
    flops: float

    @property
    def spread(self) -> Mapping[str, float]:
        """How far apart the seeds' means are, by measure."""
        return {name: max(own) - min(own) for name, own in self.by_seed.items()}


def ablations(swept: Swept) -> list[Ablation]:
    """Return all settings of a sweep, measured, in its order."""
    found: list[Ablation] = []
    base: dict[str, ByConcept] = {}
    for number, setting in enumerate(swept.config.settings):
        counts = swept.config.concepts or (None,)
        own = measures_of(swept, setting.name, counts[-1])
        base = base or own
        runs = [
            (run, measured)
            for run, measured in zip(swept.runs, swept.measured, strict=True)
            if (run.setting.name, run.concepts) == (setting.name, counts[-1])
        ]
        first, measured = runs[0]
        by_seed: dict[str, list[float]] = {}
        for _, one in runs:
            for name, losses in one.losses.items():
                by_seed.setdefault(name, []).append(mean(losses.values()))
        found.append(
            Ablation(
                name=setting.name,
                group=setting.group,
                values={name: bootstrap(list(of.values())) for name, of in own.items()},
                differences={} if number == 0 else _differences(own, base),
                by_seed=by_seed,
                parameters=measured.parameters,
                rate=peak_rate(first.config.optim, first.config.hypernet.blocks),
                flops=mean(one.flops for _, one in runs),
            )
        )
    return found


def _differences(
    own: Mapping[str, ByConcept], base: Mapping[str, ByConcept]
) -> dict[str, Interval]:
    """Return the differences of the measures that both have, on the concepts that both have."""
    return {
        name: paired(_numbered(own[name]), _numbered(base[name]))
        for name in own
        if name in base and not own[name].keys().isdisjoint(base[name])
    }


def _numbered(found: ByConcept) -> dict[int, float]:
    return {int(id_): value for id_, value in found.items()}
