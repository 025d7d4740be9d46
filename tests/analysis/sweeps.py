"""Sweeps that nobody ran: measures of the form that runs have, drawn from a seed."""

import math

import numpy as np

from hypersteer.config import from_dict
from hypersteer.config.sweeps import SweepConfig, changed
from hypersteer.sweeps.measured import Measured, Point, Reference
from hypersteer.sweeps.plan import Run
from hypersteer.sweeps.run import Swept

REFT = 3.5
"""Held-in loss of the rival."""
HELD_IN, HELD_OUT = ("1", "2"), ("10", "11", "12")


def made_up(settings, concepts, seeds):
    """A sweep; the first setting reaches the rival's loss, the second never does."""
    raw = {
        "settings": [{"name": name} for name in settings],
        "concepts": concepts,
        "judged_concepts": concepts[-1:],
        "seeds": seeds,
    }
    config = from_dict(SweepConfig, raw)
    runs = [
        Run(
            setting,
            count,
            from_dict(
                type(config.train),
                {"out": f"runs/{setting.name}-{count}-{seed}", "seed": seed},
            ),
            count in config.judged_concepts,
        )
        for count in (concepts or [None])
        for seed in seeds
        for setting in config.settings
    ]
    assert changed(config.train, config.settings[0]) == config.train
    random = np.random.default_rng(0)
    measured = [measures(run, settings.index(run.setting.name), random) for run in runs]
    return Swept(
        config=config,
        runs=runs,
        measured=measured,
        references={
            seed: Reference(
                losses={"1": REFT},
                forms={"as trained": REFT, "strength 1": 4.0},
                form="as trained",
                flops=5e12,
                seconds=1.0,
            )
            for seed in seeds
        },
        scores={
            seed: {
                (run.folder.name, held): {id_: float(random.uniform(0, 2)) for id_ in ids}
                for run in runs
                if run.judged and run.config.seed == seed
                for held, ids in (("held_in", HELD_IN), ("held_out", HELD_OUT))
            }
            for seed in seeds
            if concepts
        },
    )


def measures(run, number, random):
    """What a run was measured at: better with more concepts, worse in later settings."""
    base = 4.2 - 0.05 * math.log2(run.concepts or 8) + 0.1 * number

    def values(ids, middle):
        return {id_: float(middle + random.normal(0, 0.05)) for id_ in ids}

    curve = tuple(
        Point(
            step=step,
            held_in_loss=(3.9 if number else 3.4) + 0.5 * math.exp(-step / 8),
            held_out_loss=base,
            flops=1e12 * step,
        )
        for step in (5, 10, 20, 40)
    )
    return Measured(
        losses={
            "held_in_loss": values(HELD_IN, base - 0.2),
            "held_in_gap": values(HELD_IN, 0.3),
            "held_out_loss": values(HELD_OUT, base),
            "held_out_gap": values(HELD_OUT, 0.2),
        },
        plain={"prompted_held_in_loss": 4.0, "prompted_held_out_loss": 4.1},
        curve=curve,
        concepts=run.concepts or 8,
        parameters=1000,
        flops=4e13,
        rows=640,
        seconds=60.0,
    )
