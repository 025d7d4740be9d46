"""Judge the answers of a sweep's runs: one evaluation for all runs of a seed on the same data.

The concepts asked about are among those that all these runs were trained on, and those that none
was; so answers of the unsteered base LM and of rivals are made once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from hypersteer.config import EvaluateConfig
from hypersteer.config.sweeps import SweepConfig
from hypersteer.evaluation.metrics import concept_means
from hypersteer.evaluation.records import Held, Judged, from_table
from hypersteer.evaluation.run import WriteReport, run
from hypersteer.evaluation.selection import select
from hypersteer.lm.base import BaseLM
from hypersteer.methods.registry import UNSTEERED
from hypersteer.sweeps.measured import ByConcept
from hypersteer.sweeps.plan import Run, hashed

Scores = Mapping[tuple[str, Held], ByConcept]
"""(method, or name of a run's folder; held set) -> mean overall score by concept, 0 to 2."""


def judged_config(config: SweepConfig, runs: Sequence[Run]) -> EvaluateConfig:
    """Return the evaluation of some runs that share base LM, data and seed.

    Args:
        config: the sweep.
        runs: at least one; folders of checkpoints that are trained.
    """
    first = runs[0].config
    fewest = min((one.concepts for one in runs if one.concepts is not None), default=None)
    shared = first.data.max_concepts if fewest is None else (config.concepts or (fewest,))[0]
    data = replace(first.data, max_concepts=shared)
    wanted = EvaluateConfig(
        seed=first.seed,
        base_lm=first.base_lm,
        site=config.train.site,
        data=data,
        methods=(*config.rivals, *dict.fromkeys(one.config.out for one in runs)),
        settings={"reft-r1": config.reft} if "reft-r1" in config.rivals else {},
        protocol=config.protocol,
        judge=config.judge,
        compare_to=UNSTEERED,
    )
    key = hashed([str(one) for one in (wanted.seed, wanted.base_lm, wanted.site, data)])
    protocol = hashed(str(config.protocol))
    return replace(wanted, out=str(Path(config.runs) / f"judged-{key}-{protocol}"))


def judge_runs(
    config: SweepConfig, runs: Sequence[Run], lm: BaseLM, write_report: WriteReport
) -> Scores:
    """Answer and judge; what was answered and judged before is read.

    Args:
        config: the sweep.
        runs: trained runs that share base LM, data and seed.
        lm: their base LM.
        write_report: writes the evaluation's own report.
    """
    result = run(judged_config(config, runs), lm, write_report)
    rows: list[Judged] = from_table(pq.read_table(result.rows), Judged)
    found: dict[tuple[str, Held], ByConcept] = {}
    for choice in select(rows).choices:
        own = found.setdefault((choice.key.method, choice.key.held), {})
        own[str(choice.key.concept_id)] = concept_means(choice.rows).overall
    return found
