"""What a sweep has to do, and about how long it takes: a guess before, measured times afterwards.

Time is counted in training rows. Forward passes cost a part of one; what a pass costs depends on
the processor, so the time of a row is a setting, until runs of the sweep are there to tell it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypersteer.config.sweeps import SweepConfig
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as
from hypersteer.sweeps.measured import NAME, Measured, read_kept
from hypersteer.sweeps.plan import Run, reference_file
from hypersteer.sweeps.reference import reft_of

VALIDATED, PLAIN, MADE, TAUGHT = 0.7, 1.3, 0.1, 0.5
"""Training rows that a row costs: validated under two steering prompts, read by the base LM as it
is and prompted, in reconstruction, which runs no base LM, and in ReFT-r1, which keeps the states
below its site."""
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run as the plan shows it.

    Attributes:
        run: the run.
        state: `done`, `begun` or `to do`; `shared` where a run before it is the same.
        seconds: that it took, or may take; 0 where it is done or shared.
    """

    run: Run
    state: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is to do.

    Attributes:
        tasks: the runs, in their order.
        answers: answers to make and judge, those of earlier parts of the sweep among them.
        judging: seconds that these may take.
        teaching: seconds that ReFT-r1 may take, where it is not there yet.
        per_row: seconds of a training row that all this is counted with.
        known: finished runs that tell that time; 0 if it is the setting's.
    """

    tasks: list[Task]
    answers: int
    judging: float
    teaching: float
    per_row: float
    known: int

    @property
    def seconds(self) -> float:
        """All that is left."""
        return sum(task.seconds for task in self.tasks) + self.judging + self.teaching

    def after(self, number: int) -> str:
        """Return how long a run and all that follows may take, in words."""
        left = sum(task.seconds for task in self.tasks[number:]) + self.judging + self.teaching
        return f"about {duration(left)} left"


def estimate(config: SweepConfig, runs: Sequence[Run], *, compared: bool) -> Estimate:
    """Return what is to do.

    Args:
        config: the sweep.
        runs: all of its runs.
        compared: whether ReFT-r1 is measured beside them.

    Raises:
        DataError: if the data cannot be read.
        SteeringError: if a file of an earlier sweep is damaged.
    """
    found = [read_kept(run.folder / NAME, Measured) for run in runs]
    timed = [
        (one.seconds, units(run))
        for run, one in zip(runs, found, strict=True)
        if isinstance(one, Measured) and one.seconds > 0
    ]
    rows = sum(unit for _, unit in timed)
    per_row = sum(spent for spent, _ in timed) / rows if rows else config.seconds_per_row
    tasks, seen = [], set()
    for run, one in zip(runs, found, strict=True):
        state = _state(run, done=one is not None, before=run.folder in seen)
        seen.add(run.folder)
        free = state in ("done", "shared")
        tasks.append(Task(run=run, state=state, seconds=0.0 if free else units(run) * per_row))
    answers = _answers(config, runs)
    return Estimate(
        tasks=tasks,
        answers=answers,
        judging=answers * config.seconds_per_answer,
        teaching=per_row * _taught(config, runs, compared=compared),
        per_row=per_row,
        known=len(timed),
    )


def _state(run: Run, *, done: bool, before: bool) -> str:
    if before:
        return "shared"
    if done:
        return "done"
    return "begun" if any((run.folder / "checkpoints").glob("step-*")) else "to do"


def units(run: Run) -> float:
    """Return how many training rows a run costs, its validations and its measuring included."""
    config = run.config
    step = MADE if config.loss.objective == "reconstruction" else 1.0
    validated = 2 * (config.data.max_validation_rows or 0)
    times = -(-config.optim.steps // config.validate_every) + 1
    trained = step * config.optim.steps * config.optim.batch_size
    return trained + validated * (PLAIN + VALIDATED * times)


def _taught(config: SweepConfig, runs: Sequence[Run], *, compared: bool) -> float:
    """Return how many training rows ReFT-r1 costs, where what it learns is not there yet."""
    epochs = reft_of(config.reft).epochs
    left = {
        run.config.loss.targets: run
        for run in runs
        if run.setting.targets == "reft-r1" and not Path(str(run.config.loss.targets)).exists()
    }
    rows = sum(_positives(run, validated=False) for run in left.values())
    if compared:
        firsts = [next(run for run in runs if run.config.seed == seed) for seed in config.seeds]
        missing = [one for one in firsts if not reference_file(config, one).exists()]
        rows += sum(_positives(run, validated=True) for run in missing)
    return TAUGHT * epochs * 2 * rows  # as many rows that do not show a concept as that do


def _positives(run: Run, *, validated: bool) -> float:
    """Return the training rows of a run's concepts, or of those that it validates."""
    config = run.config
    split = split_as(load_concepts(config.data.source), config.data, config.seed)
    known = len(split.train_concepts)
    wanted = min(known, config.data.held_in_concepts or known) if validated else known
    return len(split.train) / known * wanted


def _answers(config: SweepConfig, runs: Sequence[Run]) -> int:
    """Count the answers that are judged: of runs, rivals, and the unsteered base LM."""
    protocol = config.protocol
    asked = protocol.prompts * (protocol.held_in_concepts + protocol.held_out_concepts)
    total = 0
    for seed in config.seeds:
        judged = {run.folder for run in runs if run.judged and run.config.seed == seed}
        if judged:
            total += asked * (len(judged) * len(protocol.strengths) + len(config.rivals) + 1)
    return total


def duration(seconds: float) -> str:
    """Return a length of time in words: whole minutes, hours and minutes above two hours."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    return f"{int(seconds // HOUR)} h {seconds % HOUR / MINUTE:.0f} min"
