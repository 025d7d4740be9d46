"""One optimizer step: gradients of the rows' losses, part by part, AdamW, and the learning rate."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hypersteer.config import OptimConfig
from hypersteer.data.batches import TrainingRow, tokens_of
from hypersteer.hypernet.network import Hypernet
from hypersteer.training.objectives import StepLosses
from hypersteer.training.processes import Diverged, added
from hypersteer.training.sharding import gathered, shard, split_as, whole
from hypersteer.training.state import OptimizerState

BASE_RATE, BASE_BLOCKS = 8e-5, 20
"""The paper's rate for a hypernetwork of 20 blocks (ablation study)."""


def peak_rate(config: OptimConfig, blocks: int) -> float:
    """Return the configured rate, or the paper's rule for depth, 8e-5 * sqrt(20 / blocks)."""
    return config.learning_rate or BASE_RATE * math.sqrt(BASE_BLOCKS / blocks)


def learning_rate(config: OptimConfig, blocks: int, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then linear decay to 0."""
    peak, steps, warmup = peak_rate(config, blocks), config.steps, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * (steps - step) / max(1, steps - warmup)


class HypernetOptimizer:
    """AdamW on a hypernetwork, over all processes.

    Args:
        accelerator: devices, processes and precision.
        hypernet: what is trained, with the same weights in all processes.
        config: batch, rate and decay.
        blocks: depth of the hypernetwork, which the default rate follows.
        sharded: whether the processes split it (FSDP2), or each has it whole (DDP).

    Attributes:
        network: the hypernetwork, as Accelerate wraps it, or itself where it is split.
        adamw: the optimizer itself, whose state is kept in checkpoints.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        hypernet: Hypernet,
        config: OptimConfig,
        blocks: int,
        *,
        sharded: bool = False,
    ) -> None:
        self._accelerator, self._hypernet = accelerator, hypernet
        self._config, self._blocks = config, blocks
        hypernet.recomputes = config.gradient_checkpointing
        if sharded:
            shard(hypernet, accelerator.device.type, accelerator.num_processes)
        self.network: nn.Module = hypernet if sharded else accelerator.prepare_model(hypernet)
        self.adamw = torch.optim.AdamW(
            self.network.parameters(), lr=1.0, weight_decay=config.weight_decay
        )
        self._scaled = accelerator.prepare_optimizer(self.adamw)

    def fill(self, state: OptimizerState) -> None:
        """Continue with what a checkpoint holds of whole parameters; the processes do not meet."""
        parameters = list(self.network.parameters())
        own = {
            index: {name: split_as(value, parameters[index]) for name, value in values.items()}
            for index, values in state.items()
        }
        groups = self.adamw.state_dict()["param_groups"]
        self.adamw.load_state_dict({"state": own, "param_groups": groups})

    def gathered(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the whole weights by name, and the optimizer's state by `index.name`.

        On the CPU of the first process; the others get nothing. All processes meet.
        """
        keep = self._accelerator.is_main_process
        state = {
            f"{index}.{name}": torch.as_tensor(value)
            for index, values in self.adamw.state_dict()["state"].items()
            for name, value in values.items()
        }
        weights = dict(self._hypernet.state_dict())
        return gathered(weights, keep=keep), gathered(state, keep=keep)

    def step(
        self,
        number: int,
        rows: Sequence[TrainingRow],
        losses: Callable[[Sequence[TrainingRow]], StepLosses],
    ) -> tuple[dict[str, float], int]:
        """Take a step.

        Args:
            number: which step, counted from 0.
            rows: this process's rows.
            losses: the objective on some rows, under `network`.

        Returns:
            its metrics, and its tokens over all processes.

        Raises:
            Diverged: if a loss or the gradient is NaN or infinite; no weight has changed.
        """
        rate = learning_rate(self._config, self._blocks, number)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        sums = self._gradients(rows, losses)
        sums["tokens"] = torch.tensor(float(tokens_of(rows)), device=self._accelerator.device)
        values = self._finite(sums, rate)
        parameters = self.network.parameters()
        norm: Any = whole(self._accelerator.clip_grad_norm_(parameters, self._config.clip))
        # With fp16 arithmetic an overflow is routine: the gradient scaler skips the step.
        if self._accelerator.scaler is None and not math.isfinite(norm):
            raise Diverged(f"norm of the gradient is {float(norm)}", rate)
        self._scaled.step()
        self.adamw.zero_grad(set_to_none=True)
        self._hypernet.follow_mean(partial(added, self._accelerator))
        tokens = round(values.pop("tokens") * self._accelerator.num_processes)
        return {**values, "gradient_norm": float(norm), "learning_rate": rate}, tokens

    def _gradients(
        self,
        rows: Sequence[TrainingRow],
        losses: Callable[[Sequence[TrainingRow]], StepLosses],
    ) -> dict[str, Tensor]:
        """Run all parts of the rows forward and backward; return their mean losses by name."""
        parts, accelerator = self._config.accumulation, self._accelerator
        size = len(rows) // parts
        means: dict[str, Tensor] = {}
        for part in range(parts):
            with accelerator.autocast():
                found = losses(rows[part * size : (part + 1) * size])
            if part < parts - 1:
                with accelerator.no_sync(self.network):
                    accelerator.backward(found.total / parts)
            else:
                accelerator.backward(found.total / parts)
            for name, value in found.shown.items():
                means[name] = means.get(name, 0) + value.detach().float() / parts
        return means

    def _finite(self, sums: dict[str, Tensor], rate: float) -> dict[str, float]:
        """Return metrics averaged over the processes.

        Raises:
            Diverged: if one is NaN or infinite, before any weight has changed.
        """
        means = self._accelerator.reduce(torch.stack(list(sums.values())), "mean")
        values = dict(zip(sums, means.tolist(), strict=True))
        if not bool(torch.isfinite(means).all()):
            raise Diverged(f"loss is {values['loss']}", rate)
        return values
