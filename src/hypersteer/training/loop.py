"""The training loop: batch -> base LM under edits -> loss -> step -> validate -> save."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hypersteer.config import TrainConfig, to_dict
from hypersteer.data.batches import ValidationRow, tokens_of
from hypersteer.errors import TrainingError
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.training import validate
from hypersteer.training.failures import describe_failure
from hypersteer.training.forward import Steered
from hypersteer.training.objectives import step_losses
from hypersteer.training.processes import added, agree, same_newest, share_of
from hypersteer.training.report import Reporter
from hypersteer.training.schedule import learning_rate
from hypersteer.training.setup import new_accelerator, prepare_rows, start_lm
from hypersteer.training.state import Progress, RunFolder, hold_run


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run leaves.

    Attributes:
        folder: loadable checkpoint: the best one.
        step: optimizer steps taken.
        best_step: the step of the best checkpoint.
        figures: validation figures at the last step, the base LM's own among them.
    """

    folder: Path
    step: int
    best_step: int
    figures: dict[str, float]


def train(config: TrainConfig, lm: BaseLM | None = None, *, extend: bool = False) -> TrainResult:
    """Train a hypernetwork; a run that was cut off goes on where its newest checkpoint stands.

    Under `accelerate launch` it runs on as many processes as that starts.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.
        extend: go on with the run in the folder, finished or not, though `optim.steps` is another
            number. The learning rate of the steps that are left is that of a run of so many steps
            from the beginning, metrics go on, and patience starts anew.

    Raises:
        ConfigError: for settings that do not fit the base LM or the data, or a folder in use.
        CheckpointError: if a checkpoint is damaged, or not all processes find the same ones.
        DataError: if the data cannot be read.
        TrainingError: for a NaN loss, a full disk, or too little memory, or if another process of
            the run cannot go on.
    """
    accelerator = new_accelerator(config)
    with ExitStack() as held:
        if accelerator.is_main_process:
            agree(accelerator, lambda: held.enter_context(hold_run(config)))
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
        self.network: nn.Module = accelerator.prepare_model(self.hypernet)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=1.0, weight_decay=config.optim.weight_decay
        )
        self.scaled = accelerator.prepare_optimizer(self.optimizer)
        newest = same_newest(accelerator, self.folder)
        self.progress = agree(accelerator, lambda: self._progress(newest))

    def _open(self, lm: BaseLM | None, *, extend: bool) -> None:
        """Open what the run needs; the processes do not meet in it."""
        config, accelerator = self.config, self.accelerator
        self.folder = RunFolder(config, extend=extend)
        self.lm = lm or start_lm(config, accelerator)
        self.site = self.lm.site(config.site.layer, config.site.kind)
        self.rows = prepare_rows(config, self.lm, accelerator)
        self.hypernet = new_hypernet(
            self.lm, config.hypernet, self.site, config.seed, self.rows.concepts
        )

    def _progress(self, newest: str | None) -> Progress:
        """How far the run is, its weights and optimizer filled."""
        processes = self.accelerator.num_processes
        if newest is None:
            return Progress(processes=processes)
        folder = self.folder.checkpoints / newest
        return self.folder.load(folder, self.hypernet, self.optimizer, processes)

    def go(self) -> TrainResult:
        """Train to the end.

        Raises:
            TrainingError: for what stops a run and is the user's to mend.
        """
        try:
            return self._run()
        except (RuntimeError, OSError, MemoryError) as error:
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
                reporter.say(f"going on from step {progress.step}")
            if not progress.baselines:
                progress.baselines = self.measure_baselines()
            self._steps(reporter)
        figures = {**progress.baselines, **progress.figures}
        return TrainResult(self.folder.path, progress.step, progress.best_step, figures)

    def _steps(self, reporter: Reporter) -> None:
        config, progress = self.config, self.progress
        while progress.step < config.optim.steps and not self.out_of_patience:
            values, tokens = self.step(progress.step)
            progress.step += 1
            reporter.step(progress.step, values, tokens)
            last = progress.step == config.optim.steps
            if last or progress.step % config.validate_every == 0:
                self.measure()
                reporter.validation(progress.step, progress.figures, progress.baselines)
            improved = progress.step == progress.best_step
            due = progress.step % config.checkpoint_every == 0
            if last or due or improved or self.out_of_patience:
                self.save()

    @property
    def out_of_patience(self) -> bool:
        """Whether validations have stopped getting better."""
        return self.config.patience is not None and self.progress.stale >= self.config.patience

    def step(self, number: int) -> tuple[dict[str, float], int]:
        """One optimizer step; its metrics and its tokens over all processes."""
        optim = self.config.optim
        rate = learning_rate(self.config, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        own = self.rows.batches.batch(number, share_of(self.accelerator))
        size = len(own) // optim.accumulation
        sums: dict[str, Tensor] = {}
        for part in range(optim.accumulation):
            rows = own[part * size : (part + 1) * size]
            with self.accelerator.autocast():
                losses = step_losses(
                    self.setup(self.network), self.config.loss, rows, self.rows.targets
                )
            if part < optim.accumulation - 1:
                with self.accelerator.no_sync(self.network):
                    self.accelerator.backward(losses.total / optim.accumulation)
            else:
                self.accelerator.backward(losses.total / optim.accumulation)
            for name, value in losses.shown.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / optim.accumulation
        device = self.accelerator.device
        sums["tokens"] = torch.tensor(float(tokens_of(own)), device=device)
        values = self._finite(sums, number + 1)
        norm: Any = self.accelerator.clip_grad_norm_(self.network.parameters(), optim.clip)
        # With fp16 arithmetic an overflow is routine: the gradient scaler skips the step.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._diverged(f"norm of the gradient is {float(norm)}", number + 1)
        self.scaled.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.hypernet.follow_mean(partial(added, self.accelerator))
        tokens = round(values.pop("tokens") * self.accelerator.num_processes)
        return {**values, "gradient_norm": float(norm), "learning_rate": rate}, tokens

    def setup(self, network: nn.Module) -> Steered:
        """The base LM with a network that writes for it."""
        config = self.config
        return Steered(self.lm, network, config.hypernet, self.hypernet.sites, config.site.scope)

    def measure_baselines(self) -> dict[str, float]:
        """Validation figures of the unsteered and the prompted base LM."""
        setup = self.setup(self.hypernet)
        found = {}
        for name, rows in self.rows.validation.items():
            found |= validate.figures(
                name, self._mean(validate.unsteered(setup), rows), "unsteered_"
            )
            found |= validate.figures(name, self._mean(validate.prompted(setup), rows), "prompted_")
        return found

    def measure(self) -> None:
        """Validation figures of the steered base LM, and whether they are the best so far."""
        progress, setup = self.progress, self.setup(self.hypernet)
        progress.figures = {}
        self.hypernet.eval()
        for name, rows in self.rows.validation.items():
            progress.figures |= validate.figures(name, self._mean(validate.steered(setup), rows))
        self.hypernet.train()
        key = self.config.best
        if key not in progress.figures:
            progress.best_step = progress.step
            return
        figure = progress.figures[key] * (-1 if key.endswith("loss") else 1)
        if math.isfinite(figure) and (progress.best is None or figure > progress.best):
            progress.best, progress.best_step, progress.stale = figure, progress.step, 0
            return
        progress.stale += 1
        if progress.best is None:
            progress.best_step = progress.step  # no figure tells them apart: the newest

    def save(self) -> None:
        """Write a checkpoint (first process only; the others wait)."""
        main = self.accelerator.is_main_process
        agree(self.accelerator, self._write if main else lambda: None)

    def _write(self) -> None:
        card = Card(
            base_lm=self.config.base_lm.name,
            fingerprint=self.lm.fingerprint,
            identity=str(self.lm.identity),
            site=self.site,
            scope=self.config.site.scope,
            hypernet=self.config.hypernet,
            training=to_dict(self.config),
            step=self.progress.step,
            metrics={**self.progress.baselines, **self.progress.figures},
            concepts=self.rows.concepts,
            held_out=self.rows.held_out,
        )
        self.folder.save(self.hypernet, self.optimizer, card, self.progress)

    def _mean(self, losses: validate.Losses, rows: Sequence[ValidationRow]) -> list[float]:
        with self.accelerator.autocast():
            return validate.mean_losses(
                losses,
                rows,
                batch_size=self.config.optim.batch_size,
                reduce=partial(added, self.accelerator),
                share=share_of(self.accelerator),
            )

    def _finite(self, sums: dict[str, Tensor], step: int) -> dict[str, float]:
        """Metrics averaged over the processes.

        Raises:
            TrainingError: if one is NaN or infinite, before any weight has changed.
        """
        names = list(sums)
        means = self.accelerator.reduce(torch.stack([sums[name] for name in names]), "mean")
        values = dict(zip(names, means.tolist(), strict=True))
        if not bool(torch.isfinite(means).all()):
            raise self._diverged(f"loss is {values['loss']}", step)
        return values

    def _diverged(self, what: str, step: int) -> TrainingError:
        newest = self.folder.newest()
        kept = f"the checkpoint '{newest}' is intact" if newest else "nothing was saved yet"
        rate = learning_rate(self.config, step - 1)
        return TrainingError(
            f"the {what} at step {step}; {kept}; lower optim.learning_rate (now {rate:.2g}) "
            "or optim.clip"
        )
