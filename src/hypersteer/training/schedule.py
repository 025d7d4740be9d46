"""The learning rate as a pure function of the step."""

import math

from hypersteer.config import TrainConfig

BASE_RATE, BASE_BLOCKS = 8e-5, 20
"""The paper's rate for a hypernetwork of 20 blocks (ablation study)."""


def peak_rate(config: TrainConfig) -> float:
    """The configured rate, or the paper's rule for depth, 8e-5 * sqrt(20 / blocks)."""
    given = config.optim.learning_rate
    return given or BASE_RATE * math.sqrt(BASE_BLOCKS / config.hypernet.blocks)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of a step, counted from 0: linear warm-up, then linear decay to 0."""
    steps, warmup = config.optim.steps, config.optim.warmup_steps
    if step < warmup:
        return peak_rate(config) * (step + 1) / (warmup + 1)
    return peak_rate(config) * (steps - step) / max(1, steps - warmup)
