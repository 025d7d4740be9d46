"""The training loop: batch -> base LM under edits -> loss -> step -> validate -> save."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hypersteer.checkpoint import Card
from hypersteer.config import TrainConfig, to_dict
from hypersteer.data.batches import ValidationRow
from hypersteer.edits import Site
from hypersteer.errors import TrainingError
from hypersteer.hypernet.network import Hypernet, new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.training import validate
from hypersteer.training.forward import Steered
from hypersteer.training.objectives import step_losses
from hypersteer.training.report import Reporter
from hypersteer.training.schedule import learning_rate
from hypersteer.training.setup import Rows, new_accelerator, prepare_rows, start_lm
from hypersteer.training.state import Progress, RunFolder, describe_failure


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


def train(config: TrainConfig, lm: BaseLM | None = None) -> TrainResult:
    """Train a hypernetwork; a run that was cut off goes on where its newest checkpoint stands.

    Under `accelerate launch` it runs on as many processes as that starts.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.

    Raises:
        ConfigError: for settings that do not fit the base LM or the data, or a folder in use.
        DataError: if the data cannot be read.
        TrainingError: for a NaN loss, a full disk, or too little memory.
    """
    folder = RunFolder(config)
    accelerator = new_accelerator(config)
    lm = lm or start_lm(config, accelerator)
    site = lm.site(config.site.layer, config.site.kind)
    rows = prepare_rows(config, lm, accelerator)
    hypernet = new_hypernet(lm, config.hypernet, site, config.seed, rows.concepts)
    return _Run(config, folder, accelerator, lm, hypernet, rows, site).go()


class _Run:
    """A run's moving parts."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        accelerator: Accelerator,
        lm: BaseLM,
        hypernet: Hypernet,
        rows: Rows,
        site: Site,
    ) -> None:
        self.config, self.folder, self.accelerator = config, folder, accelerator
        self.lm, self.hypernet, self.rows, self.site = lm, hypernet, rows, site
        self.network: nn.Module = accelerator.prepare_model(hypernet)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=1.0, weight_decay=config.optim.weight_decay
        )
        self.scaled = accelerator.prepare_optimizer(self.optimizer)
        newest, processes = folder.newest(), accelerator.num_processes
        self.progress = Progress(processes=processes)
        if newest:
            self.progress = folder.load(newest, hypernet, self.optimizer, processes)

    def go(self) -> TrainResult:
        """Train to the end.

        Raises:
            TrainingError: for what stops a run and is the user's to mend.
        """
        try:
            return self._run()
        except (RuntimeError, OSError, MemoryError) as error:
            told = describe_failure(error, self.progress.step + 1, self.folder)
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
        batch = self.rows.batches.batch(number)
        own = batch[self.accelerator.process_index :: self.accelerator.num_processes]
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
        values = self._finite(sums, number + 1)
        norm: Any = self.accelerator.clip_grad_norm_(self.network.parameters(), optim.clip)
        # With fp16 arithmetic an overflow is routine: the gradient scaler skips the step.
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise self._diverged(f"norm of the gradient is {float(norm)}", number + 1)
        self.scaled.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(row.prompt.ids) + len(row.response) for row in batch)
        return {**values, "gradient_norm": float(norm), "learning_rate": rate}, tokens

    def setup(self, network: nn.Module) -> Steered:
        """The base LM with a network that writes for it."""
        config = self.config
        return Steered(self.lm, network, config.hypernet, self.site, config.site.scope)

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
        if progress.best is None or figure > progress.best:
            progress.best, progress.best_step, progress.stale = figure, progress.step, 0
        else:
            progress.stale += 1

    def save(self) -> None:
        """Write a checkpoint (first process only; the others wait)."""
        if self.accelerator.is_main_process:
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
        self.accelerator.wait_for_everyone()

    def _mean(self, losses: validate.Losses, rows: Sequence[ValidationRow]) -> list[float]:
        with self.accelerator.autocast():
            return validate.mean_losses(
                losses,
                rows,
                batch_size=self.config.optim.batch_size,
                reduce=lambda x: self.accelerator.reduce(x.to(self.accelerator.device)).cpu(),
                share=(self.accelerator.process_index, self.accelerator.num_processes),
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
