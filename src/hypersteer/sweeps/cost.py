"""What the steps of a run cost, in floating-point operations, from its rows alone."""

from itertools import accumulate
from pathlib import Path

from hypersteer.config import TrainConfig
from hypersteer.hypernet.step_flops import StepShape, row_lengths, step_flops
from hypersteer.lm.base import BaseLM
from hypersteer.training.own_answers import read_own_answers
from hypersteer.training.rows import Rows


def flops_by_step(config: TrainConfig, lm: BaseLM, rows: Rows) -> list[float]:
    """Return the operations of all steps up to each, the first one's first.

    Which rows a step has follows from the settings alone, so nothing has to run. Validation, and
    what is made before the first step, are left out.

    Args:
        config: the run's settings.
        lm: its base LM.
        rows: its rows.
    """
    shape = StepShape.of(config, lm)
    own = read_own_answers(Path(config.out)) if config.loss.needs_own_answers else None
    steps = (
        [row_lengths(row, own.answer(row) if own else ()) for row in rows.batches.batch(step)]
        for step in range(config.optim.steps)
    )
    return list(accumulate(float(step_flops(shape, one).total) for one in steps))
