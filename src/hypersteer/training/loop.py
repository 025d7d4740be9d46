"""The training loop: start, then batch -> base LM under edits -> loss -> step, validate, save."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from hypersteer.config import TrainConfig, to_dict
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.recomputing import recomputing
from hypersteer.training.devices import new_accelerator, start_lm
from hypersteer.training.forward import Steered
from hypersteer.training.objectives import read_targets, step_losses
from hypersteer.training.own_answers import OwnAnswers, make_own_answers, read_own_answers
from hypersteer.training.processes import (
    Diverged,
    agree,
    describe_failure,
    same_newest,
    share_of,
)
from hypersteer.training.report import Reporter
from hypersteer.training.rows import prepare_rows
from hypersteer.training.sharding import sharding_asked
from hypersteer.training.start import started
from hypersteer.training.state import OptimizerState, Progress, RunFolder, hold_run
from hypersteer.training.step import HypernetOptimizer
from hypersteer.training.validate import Validation

OWN_BATCH = 64
"""Prompts that the base LM answers together, where its own answers are learnt from."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        folder: loadable checkpoint: the best one.
        step: optimizer steps taken.
        best_step: the step of the best checkpoint.
        metrics: validation metrics at the last step, the base LM's own among them.
    """

    folder: Path
    step: int
    best_step: int
    metrics: dict[str, float]


def train(config: TrainConfig, lm: BaseLM | None = None, *, extend: bool = False) -> TrainResult:
    """Train a hypernetwork; a run that was cut off resumes from its newest checkpoint.

    Under `accelerate launch` it runs on as many processes as that starts.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.
        extend: resume the run in the folder, finished or not, though `optim.steps` is another
            number. The learning rate of the steps that are left is that of a run of so many steps
            from the beginning, metrics are appended, and patience starts anew.

    Raises:
        ConfigError: for settings that do not fit the base LM or the data, or a folder in use.
        CheckpointError: if a checkpoint is damaged, or not all processes find the same ones.
        DataError: if the data cannot be read.
        TrainingError: for a NaN loss, a full disk, or too little memory, or if another process of
            the run cannot continue.
    """
    accelerator = new_accelerator(config.base_lm.device, config.optim.mixed_precision)
    with ExitStack() as held:
        if accelerator.is_main_process:
            agree(accelerator, lambda: held.enter_context(hold_run(config.out)))
        else:
            agree(accelerator, lambda: None)
        return _Run(config, accelerator, lm, extend=extend).go()


class _Run:
    """A run's moving parts."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, lm: BaseLM | None, *, extend: bool
    ) -> None:
        self.config, self.accelerator = config, accelerator
        agree(accelerator, lambda: self._open(lm, extend=extend))
        config = self.config
        self.own = self._own_answers()
        newest = same_newest(accelerator, self.folder.path, self.folder.newest())
        self.progress, state = agree(accelerator, lambda: self._progress(newest))
        sharded = accelerator.num_processes > 1 and sharding_asked()
        self.optimizer = HypernetOptimizer(
            accelerator, self.hypernet, config.optim, config.hypernet.blocks, sharded=sharded
        )
        self.optimizer.fill(state)
        sites, scope = self.hypernet.sites, config.site.scope
        steered = partial(Steered, self.lm, config=config.hypernet, sites=sites, scope=scope)
        recomputes = config.optim.gradient_checkpointing
        self.trained = steered(network=self.optimizer.network, recomputes=recomputes)
        self.validated = steered(network=self.hypernet)
        self.validation = Validation(accelerator, self.rows.validation, config.optim.batch_size)

    def _open(self, lm: BaseLM | None, *, extend: bool) -> None:
        """Open what the run needs; the processes do not meet in it."""
        self.config, self.start = started(self.config)
        config = self.config
        self.folder = RunFolder(config, extend=extend)
        self.lm = lm or start_lm(config.base_lm, self.accelerator)
        self.site = self.lm.site(config.site.layer, config.site.kind)
        if config.optim.gradient_checkpointing:
            recomputing(self.lm, ())  # so that a base LM with which it cannot be is told here
        self.rows = prepare_rows(
            config.data,
            config.loss,
            self.lm,
            seed=config.seed,
            batch_size=config.optim.batch_size,
            share=share_of(self.accelerator),
            together=config.hypernet.variant == "in-context",
        )
        largest = max(concept.id for concept in self.rows.data.concepts)
        self.targets = read_targets(
            config.loss.targets, config.hypernet, self.lm.width, largest + 1
        )
        self.hypernet = new_hypernet(
            self.lm, config.hypernet, self.site, config.seed, self.rows.concepts
        )
        if self.start is not None:
            self.start.fill(self.hypernet, self.lm)

    def _own_answers(self) -> OwnAnswers | None:
        """Return the base LM's own answers, where they are learnt from; the first process asks."""
        loss, folder = self.config.loss, self.folder.path
        if not loss.needs_own_answers:
            return None

        def make() -> None:
            make_own_answers(
                self.lm,
                self.rows.batches.each(),
                folder,
                tokens=self.config.data.max_response_tokens,
                batch_size=OWN_BATCH,
                likelihoods=loss.objective == "preference",
            )

        agree(self.accelerator, make if self.accelerator.is_main_process else lambda: None)
        return agree(self.accelerator, lambda: read_own_answers(folder))

    def _progress(self, newest: str | None) -> tuple[Progress, OptimizerState]:
        """Return how far the run is, and the optimizer's state; fill the weights."""
        processes = self.accelerator.num_processes
        if newest is None:
            return Progress(processes=processes), {}
        return self.folder.load(self.folder.checkpoints / newest, self.hypernet, processes)

    def go(self) -> TrainResult:
        """Train to the end.

        Raises:
            TrainingError: for what stops a run and is the user's to mend.
        """
        try:
            return self._run()
        except (Diverged, RuntimeError, OSError, MemoryError) as error:
            told = describe_failure(error, self.progress.step + 1, self.folder.path)
            if told is None:
                raise
            raise told from error

    def _run(self) -> TrainResult:
        config, progress = self.config, self.progress
        if progress.step and self.accelerator.is_main_process:
            self.folder.settle(progress)
        reporter = Reporter(
            self.folder.metrics,
            config.optim.steps,
            progress.step,
            active=self.accelerator.is_main_process,
            tensorboard=config.tensorboard,
        )
        with reporter:
            reporter.say(self.rows.summary)
            if progress.step:
                reporter.say(f"resuming from step {progress.step}")
            if not progress.baselines:
                if self.rows.validation:
                    reporter.say("reading the unsteered and the prompted losses")
                progress.baselines = self.validation.baselines(self.validated)
            self._steps(reporter)
        metrics = {**progress.baselines, **progress.metrics}
        return TrainResult(self.folder.path, progress.step, progress.best_step, metrics)

    def _steps(self, reporter: Reporter) -> None:
        config, progress = self.config, self.progress
        while progress.step < config.optim.steps and not self.out_of_patience:
            values, tokens = self.step(progress.step)
            progress.step += 1
            reporter.step(progress.step, values, tokens)
            last = progress.step == config.optim.steps
            if last or progress.step % config.validate_every == 0:
                self.measure()
                reporter.validation(progress.step, progress.metrics, progress.baselines)
            improved = progress.step == progress.best_step
            due = progress.step % config.checkpoint_every == 0
            if last or due or improved or self.out_of_patience:
                self.save()

    @property
    def out_of_patience(self) -> bool:
        """Whether validations have stopped getting better."""
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    def step(self, number: int) -> tuple[dict[str, float], int]:
        """Take an optimizer step; return its metrics and its tokens over all processes."""
        rows = self.rows.batches.batch(number, share_of(self.accelerator))
        losses = partial(
            step_losses, self.trained, self.config.loss, targets=self.targets, own=self.own
        )
        return self.optimizer.step(number, rows, losses)

    def measure(self) -> None:
        """Validate the steered base LM."""
        self.hypernet.eval()
        metrics = self.validation.steered(self.validated)
        self.hypernet.train()
        self.progress.validated(metrics, self.config.best)

    def save(self) -> None:
        """Write a checkpoint (first process only; the others give it their slices, and wait)."""
        weights, state = self.optimizer.gathered()
        main = self.accelerator.is_main_process
        agree(self.accelerator, partial(self._write, weights, state) if main else lambda: None)

    def _write(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        # What the start has seen is seen.
        before = () if self.start is None else self.start.card.concepts
        seen = dict.fromkeys((*before, *self.rows.concepts))
        card = Card(
            base_lm=self.config.base_lm.name,
            fingerprint=self.lm.fingerprint,
            identity=str(self.lm.identity),
            site=self.site,
            scope=self.config.site.scope,
            hypernet=self.config.hypernet,
            training=to_dict(self.config),
            step=self.progress.step,
            metrics={**self.progress.baselines, **self.progress.metrics},
            concepts=tuple(seen),
            held_out=tuple(text for text in self.rows.held_out if text not in seen),
        )
        self.folder.save(weights, state, card, self.progress)
