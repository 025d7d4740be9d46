"""Checkpoints of a running training: written whole or not at all, resumed exactly."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypersteer.checkpoint import load_weights, publish, save_tensors, write_folder
from hypersteer.config import TrainConfig, completed, differing, to_dict
from hypersteer.errors import CheckpointError, ConfigError, SteeringError, TrainingError, one_line
from hypersteer.files import finite, numbers, output_folder, read_json, to_json
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.network import Hypernet
from hypersteer.locks import Hold, hold
from hypersteer.training.processes import cannot_write, reason

MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
FREE = {
    "": ("out", "keep", "tensorboard", "checkpoint_every", "patience", "plan"),
    "base_lm": ("device",),
    "optim": ("gradient_checkpointing",),
}
"""Settings, by table, that may change between the parts of a run."""
STEPS = "optim.steps"
OptimizerState = dict[int, dict[str, Tensor]]
"""What the optimizer keeps of each parameter, by the parameter's number."""
STORED = {"metrics": "figures"}
"""Attributes of `Progress` that `progress.json` spells as earlier versions did."""


@dataclass(slots=True)
class Progress:
    """How far a run is; together with the weights and the optimizer, all there is to resume.

    Attributes:
        step: optimizer steps taken.
        best: best validation metric so far (higher is better).
        best_step: where it was.
        stale: validations since then.
        baselines: validation metrics of the unsteered and the prompted base LM.
        metrics: newest validation metrics.
        processes: number of processes that share each step's rows.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    baselines: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    processes: int = 1

    def validated(self, metrics: dict[str, float], key: str) -> None:
        """Take in the metrics of a validation, and whether they are the best so far.

        Args:
            metrics: those of the steered base LM at `step`.
            key: the metric that chooses; losses are better when they are lower.
        """
        self.metrics = metrics
        if key not in metrics:
            self.best_step = self.step
            return
        value = metrics[key] * (-1 if key.endswith("loss") else 1)
        if math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self.best_step, self.stale = value, self.step, 0
            return
        self.stale += 1
        if self.best is None:
            self.best_step = self.step  # no metric tells them apart: the newest


class RunFolder:
    """The folder of a run: `checkpoints/step-N/`, `metrics.jsonl`, and the best checkpoint on top.

    Args:
        config: the run's settings.
        extend: whether the run that is there resumes with another number of steps.

    Raises:
        ConfigError: if the folder holds a run with other settings, or is a file, or holds no run
            to extend, or one of as many steps already.
        CheckpointError: if one of its checkpoints is damaged.
    """

    def __init__(self, config: TrainConfig, *, extend: bool = False) -> None:
        self.path = run_path(config.out)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self._config = config
        self._extended = False
        card: Card | None = None
        for folder in self._found():
            try:
                card = read_card(folder)
            except CheckpointError as error:
                raise self._damaged(folder, error) from error
        if card is not None:
            self._check(card, extend=extend)
        elif extend:
            raise ConfigError(
                f"'{config.out}' holds no run to extend; leave out --extend (extend=True) to "
                "begin one, or give the 'out' of a run"
            )

    def _check(self, card: Card, *, extend: bool) -> None:
        """Compare the settings with those of the newest checkpoint."""
        kept = finite(completed(TrainConfig, card.training))
        wanted = finite(to_dict(self._config))
        names = differing(kept, wanted, FREE)
        if extend and STEPS in names:
            steps = self._config.optim.steps
            if steps <= card.step:
                raise ConfigError(
                    f"'{self._config.out}' has taken {card.step} steps; to extend it, give an "
                    f"{STEPS} above that, not {steps}"
                )
            names.remove(STEPS)
            self._extended = True
        if names:
            told = ", ".join(f"{n} {_of(kept, n)}, now {_of(wanted, n)}" for n in names)
            way_out = "choose another 'out', or delete that folder"
            if names == [STEPS]:
                way_out = f"add --extend (extend=True) to go on with it, {way_out}"
            raise ConfigError(
                f"'{self._config.out}' holds a run with other settings ({told}); {way_out}"
            )

    def newest(self) -> Path | None:
        """Return the newest checkpoint, if there is one."""
        found = self._found()
        return found[-1] if found else None

    def save(
        self,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        card: Card,
        progress: Progress,
    ) -> None:
        """Write a checkpoint and drop all but the newest few and the best.

        Args:
            weights: of the hypernetwork, by name.
            optimizer: its state, by `index.name`; see `HypernetOptimizer.gathered`.
            card: what the checkpoint says about itself.
            progress: how far the run is.

        Raises:
            TrainingError: if the disk is full or not writable; older checkpoints stay as they are.
        """
        final = self.checkpoints / f"step-{progress.step:07d}"
        scratch = self.checkpoints / f".{final.name}.tmp"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "trainer").mkdir(parents=True)
            write_folder(scratch, weights, card)
            save_tensors(optimizer, scratch / "trainer/optimizer.safetensors")
            text = to_json({STORED.get(k, k): getattr(progress, k) for k in Progress.__slots__})
            (scratch / "trainer/progress.json").write_text(text, encoding="utf-8")
            scratch.rename(final)
            if progress.best_step in (0, progress.step):
                self._publish_best(progress)
            self._prune(progress)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise TrainingError(
                f"cannot write the checkpoint of step {progress.step} to '{self.checkpoints}': "
                f"{reason(error)}; earlier checkpoints are intact; mend that and run the same "
                "command again"
            ) from error

    def settle(self, progress: Progress) -> None:
        """Finish what a killed run may have left half done after its newest checkpoint.

        Raises:
            OSError: if the folder cannot be written.
        """
        self._publish_best(progress)
        self._prune(progress)

    def load(
        self, folder: Path, hypernet: Hypernet, processes: int
    ) -> tuple[Progress, OptimizerState]:
        """Continue from a checkpoint: fill the weights, return the progress and the optimizer's.

        Raises:
            CheckpointError: if a file is missing or corrupt.
            ConfigError: if the run was on another number of processes, whose steps have other rows.
        """
        try:
            load_weights(hypernet, folder / "model.safetensors")
            tensors = load_file(folder / "trainer/optimizer.safetensors")
            state = _optimizer_state(tensors, hypernet)
            progress = _progress(read_json(folder / "trainer/progress.json"))
        except (SteeringError, OSError, SafetensorError, *MALFORMED) as error:
            raise self._damaged(folder, error) from error
        if progress.processes != processes:
            raise ConfigError(
                f"'{self.path}' was run on {progress.processes} processes, not {processes}; go on "
                "with as many, since optim.batch_size is per process"
            )
        if self._extended:
            progress.stale = 0
        return progress, state

    def _found(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*"))

    def _best(self, progress: Progress) -> Path:
        return self.checkpoints / f"step-{progress.best_step:07d}"

    def _publish_best(self, progress: Progress) -> None:
        """Make the run folder loadable as the best checkpoint; until one is known, the newest."""
        found, best = self._found(), self._best(progress)
        publish(best if best in found else found[-1], self.path)

    def _prune(self, progress: Progress) -> None:
        """Drop all but the newest few and the best, and what killed runs left half done."""
        for folder in self._found()[: -self._config.keep]:
            if folder != self._best(progress):
                # Under its own name, a half deleted folder would pass for a checkpoint.
                folder.rename(folder.with_name(f".{folder.name}.old"))
        for leftover in self.checkpoints.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _damaged(self, folder: Path, error: Exception) -> CheckpointError:
        found = self._found()
        way_out = "resume without it"
        if folder == found[-1]:
            way_out = "resume from the checkpoint before it" if found[1:] else "start anew"
        return CheckpointError(f"{one_line(error)}; delete '{folder}' to {way_out}")


def run_path(out: str) -> Path:
    """Return where a run is kept.

    Raises:
        ConfigError: if that is no path, a file, or lies where nothing can be written.
    """
    return output_folder(out, "out")


def hold_run(out: str) -> Hold:
    """Lock a run's folder for this process; to be released afterwards.

    Raises:
        ConfigError: if it is in use, or is a file.
        TrainingError: if it cannot be written.
    """
    path = run_path(out)
    try:
        return hold(path)
    except OSError as error:
        raise cannot_write(error, path, 1) from error


def _of(settings: dict[str, Any], name: str) -> str:
    """Return a setting by its dotted name, as a message shows it."""
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return one_line(json.dumps(value), limit=60)


def _progress(raw: dict[str, Any]) -> Progress:
    """Return progress as it was written; a best metric that is no number was none."""
    names = {stored: name for name, stored in STORED.items()}
    progress = Progress(**{names.get(key, key): value for key, value in raw.items()})
    progress.baselines, progress.metrics = numbers(progress.baselines), numbers(progress.metrics)
    if progress.best is not None and not math.isfinite(progress.best):
        progress.best = None
    return progress


def _optimizer_state(tensors: Mapping[str, Tensor], hypernet: Hypernet) -> OptimizerState:
    """Return the optimizer's state of each parameter from flat tensors.

    Raises:
        KeyError: for a parameter that is not there.
        ValueError: for tensors that are not of a parameter's shape.
    """
    parameters = dict(enumerate(hypernet.parameters()))
    state: OptimizerState = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        if value.ndim and value.shape != parameters[int(index)].shape:
            raise ValueError(f"{key} {list(value.shape)} is of no parameter's shape")
        state.setdefault(int(index), {})[name] = value
    return state
