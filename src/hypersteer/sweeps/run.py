"""Go through a sweep: train what is not trained, measure what is not measured, judge, and go on.

Everything that is finished lies in the folder of runs, so a sweep that was killed goes on with the
same command; a run that was cut off resumes from its newest checkpoint.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hypersteer.config.sweeps import SweepConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.evaluation.run import WriteReport
from hypersteer.files import reason
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm
from hypersteer.locks import hold
from hypersteer.progress import ProgressBar
from hypersteer.sweeps.estimate import Estimate, estimate
from hypersteer.sweeps.judging import Scores, judge_runs
from hypersteer.sweeps.measure import measure_run
from hypersteer.sweeps.measured import NAME, Measured, Reference, keep, read_kept
from hypersteer.sweeps.plan import Run, plan_runs, reference_file
from hypersteer.sweeps.reference import make_targets, measure_reference, reft_of
from hypersteer.training.loop import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A sweep that has been gone through.

    Attributes:
        config: its settings.
        runs: all runs, in the order of the plan.
        measured: what each was measured at, in the same order.
        references: ReFT-r1 by seed; empty where nobody asked.
        scores: of the judged runs by seed; empty where none are judged.
    """

    config: SweepConfig
    runs: Sequence[Run]
    measured: Sequence[Measured]
    references: dict[int, Reference]
    scores: dict[int, Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep that is planned and checked, with no model loaded yet.

    Attributes:
        config: its settings.
        runs: all runs.
        compared: whether ReFT-r1 is measured beside them.
        expected: what is to do, and how long it may take.
    """

    config: SweepConfig
    runs: Sequence[Run]
    compared: bool
    expected: Estimate


def plan_sweep(config: SweepConfig, *, compared: bool) -> Sweep:
    """Plan a sweep; no model work.

    Args:
        config: its settings.
        compared: whether to measure ReFT-r1 as well.

    Raises:
        ConfigError: for settings that cannot be.
        DataError: if the data cannot be read.
        SteeringError: if a file of an earlier sweep is damaged.
    """
    reft_of(config.reft)
    if compared and not config.concepts:
        raise ConfigError(
            "concepts is empty; a scaling sweep needs several numbers, such as [16, 64, 256]"
        )
    if compared and config.train.data.held_in_concepts is None:
        raise ConfigError(
            "train.data.held_in_concepts is not set, so runs on more concepts would be validated "
            f"on others; set it to at most {config.concepts[0]}, the concepts of the smallest runs"
        )
    runs = plan_runs(config)
    expected = estimate(config, runs, compared=compared)
    return Sweep(config=config, runs=runs, compared=compared, expected=expected)


def go(sweep: Sweep, write_report: WriteReport) -> Swept:
    """Do what is left of a sweep.

    Args:
        sweep: from `plan_sweep`.
        write_report: writes the report of an evaluation; see `hypersteer.report.evaluate`.

    Raises:
        ConfigError: if the folder of runs is in use.
        SteeringError: for whatever stops a run, or files that cannot be written.
    """
    pool = Path(sweep.config.runs)
    try:
        held = hold(pool)
    except OSError as error:
        raise SteeringError(f"cannot write to '{pool}': {reason(error)}") from error
    with held:
        return _Going(sweep, write_report).go()


class _Going:
    """The moving parts of a sweep."""

    def __init__(self, sweep: Sweep, write_report: WriteReport) -> None:
        self.sweep, self.config, self.write_report = sweep, sweep.config, write_report
        self.console = Console(stderr=True)
        self._lm: tuple[object, BaseLM] | None = None

    def go(self) -> Swept:
        """Train and measure run by run, then measure the reference, then judge."""
        expected = self.sweep.expected
        measured = []
        with ProgressBar("sweep", len(self.sweep.runs), console=self.console) as bar:
            for number, run in enumerate(self.sweep.runs):
                if not (run.folder / NAME).exists():
                    left = expected.after(number)
                    told = f"run {number + 1} of {len(self.sweep.runs)}: {run.told}; {left}"
                    self.console.print(told, markup=False, highlight=False, soft_wrap=True)
                measured.append(self._measured(run))
                bar.advance(1)
        references = {}
        if self.sweep.compared:
            references = {seed: self._reference(seed) for seed in self.config.seeds}
        scores = {seed: found for seed in self.config.seeds if (found := self._judged(seed))}
        return Swept(
            config=self.config,
            runs=self.sweep.runs,
            measured=measured,
            references=references,
            scores=scores,
        )

    def lm(self, run: Run) -> BaseLM:
        """Return the base LM of a run, loaded once for all runs that share it."""
        wanted = run.config.base_lm
        if self._lm is None or self._lm[0] != wanted:
            self._lm = wanted, open_lm(wanted)
        return self._lm[1]

    def _measured(self, run: Run) -> Measured:
        """Train a run and measure it, or read what it was measured at."""
        path = run.folder / NAME
        found = read_kept(path, Measured)
        if isinstance(found, Measured):
            return found
        lm, started = self.lm(run), time.monotonic()
        if run.setting.targets != "none":
            make_targets(run.setting.targets, lm, run.config, self.config.reft)
        train(run.config, lm)
        measured = measure_run(run.config, lm, time.monotonic() - started)
        keep(path, measured)
        # What only resuming needs is most of a run's size; its last checkpoint lies on top.
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        return measured

    def _reference(self, seed: int) -> Reference:
        """Measure ReFT-r1 on the concepts that the runs of a seed validate, or read it."""
        run = next(one for one in self.sweep.runs if one.config.seed == seed)
        path = reference_file(self.config, run)
        found = read_kept(path, Reference)
        if isinstance(found, Reference):
            return found
        reference = measure_reference(run.config, self.lm(run), self.config.reft)
        keep(path, reference)
        return reference

    def _judged(self, seed: int) -> Scores:
        runs = [one for one in self.sweep.runs if one.judged and one.config.seed == seed]
        if not runs:
            return {}
        return judge_runs(self.config, runs, self.lm(runs[0]), self.write_report)
