"""Checkpoints of a running training: written whole or not at all, resumed exactly."""

import errno
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hypersteer.checkpoint import Card, load_weights, publish, read_card, save_tensors, write_folder
from hypersteer.config import TrainConfig, to_dict
from hypersteer.errors import CheckpointError, ConfigError, SteeringError, TrainingError, one_line
from hypersteer.files import output_folder, read_json
from hypersteer.hypernet.network import Hypernet

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(slots=True)
class Progress:
    """How far a run is; together with the weights and the optimizer, all there is to resume.

    Attributes:
        step: optimizer steps taken.
        best: best validation figure so far (higher is better).
        best_step: where it was.
        stale: validations since then.
        baselines: validation figures of the unsteered and the prompted base LM.
        figures: newest validation figures.
        processes: number of processes that share each step's rows.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    baselines: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    processes: int = 1


class RunFolder:
    """The folder of a run: `checkpoints/step-N/`, `metrics.jsonl`, and the best checkpoint on top.

    Args:
        config: the run's settings.

    Raises:
        ConfigError: if the folder holds a run with other settings, or is a file.
        CheckpointError: if one of its checkpoints is damaged.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = output_folder(config.out, "out")
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self._config = config
        for folder in self._found():
            try:
                settings = self._recipe(read_card(folder).training)
            except CheckpointError as error:
                raise self._damaged(folder, error) from error
            if settings != self._recipe(to_dict(config)):
                raise ConfigError(
                    f"'{config.out}' holds a run with other settings; choose another 'out', "
                    "or delete that folder"
                )

    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        found = self._found()
        return found[-1] if found else None

    def save(
        self, hypernet: Hypernet, optimizer: torch.optim.Optimizer, card: Card, progress: Progress
    ) -> None:
        """Write a checkpoint and drop all but the newest few and the best.

        Raises:
            TrainingError: if the disk is full or not writable; older checkpoints stay as they are.
        """
        final = self.checkpoints / f"step-{progress.step:07d}"
        scratch = self.checkpoints / f".{final.name}.tmp"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "trainer").mkdir(parents=True)
            write_folder(scratch, hypernet, card)
            save_tensors(_optimizer_tensors(optimizer), scratch / "trainer/optimizer.safetensors")
            text = json.dumps({name: getattr(progress, name) for name in Progress.__slots__})
            (scratch / "trainer/progress.json").write_text(text, encoding="utf-8")
            scratch.rename(final)
            if progress.best_step in (0, progress.step):
                self._publish_best(progress)
            self._prune(progress)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise TrainingError(
                f"cannot write the checkpoint of step {progress.step} to '{self.checkpoints}': "
                f"{_reason(error)}; earlier checkpoints are intact; mend that and run the same "
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
        self, folder: Path, hypernet: Hypernet, optimizer: torch.optim.Optimizer, processes: int
    ) -> Progress:
        """Continue from a checkpoint: fill weights and optimizer, return the progress.

        Raises:
            CheckpointError: if a file is missing or corrupt.
            ConfigError: if the run was on another number of processes, whose steps have other rows.
        """
        try:
            load_weights(hypernet, folder / "model.safetensors")
            tensors = load_file(folder / "trainer/optimizer.safetensors")
            _fill_optimizer(optimizer, tensors)
            raw = read_json(folder / "trainer/progress.json")
            progress = Progress(**raw)
        except (SteeringError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self._damaged(folder, error) from error
        if progress.processes != processes:
            raise ConfigError(
                f"'{self.path}' was run on {progress.processes} processes, not {processes}; go on "
                "with as many, since optim.batch_size is per process"
            )
        return progress

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

    @staticmethod
    def _recipe(training: dict[str, Any]) -> dict[str, Any]:
        """What may not change between the parts of a run."""
        free = ("out", "keep", "tensorboard", "checkpoint_every", "patience")
        kept = {key: value for key, value in training.items() if key not in free}
        return {**kept, "base_lm": {**training["base_lm"], "device": None}}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as flat tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def describe_failure(error: BaseException, step: int, folder: RunFolder) -> SteeringError | None:
    """What to tell the user about an error in a run; None if it is not theirs to mend."""
    newest = folder.newest()
    kept = f"the checkpoint '{newest}' is intact" if newest else "no checkpoint was due yet"
    text = str(error)
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "not enough memory" in text)
    )
    if out_of_memory:
        return TrainingError(
            f"out of memory at step {step}; {kept}; raise optim.accumulation, or lower "
            "optim.batch_size or data.max_response_tokens"
        )
    if isinstance(error, RuntimeError) and "without overflow" in text:
        return TrainingError(
            f"a number is too large for float32 at step {step}; {kept}; lower optim.learning_rate "
            "or optim.weight_decay"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return TrainingError(
            f"cannot write to '{folder.path}' at step {step}: {_reason(error)}; {kept}; "
            "mend that and run the same command again"
        )
    return None


def _reason(error: OSError) -> str:
    full = error.errno in DISK_FULL or "No space left" in str(error)
    return "the disk is full" if full else one_line(error)
