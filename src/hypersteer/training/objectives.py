"""What a step minimises, on some rows: one of the objectives, with or without contrast."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypersteer.config import LossConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.edits.kinds import Params
from hypersteer.hypernet.maker import read_steering, write_edits
from hypersteer.training.forward import Steered, steered_losses, teacher_logits
from hypersteer.training.losses import contrastive, reconstruction


class StepLosses(NamedTuple):
    """Loss of (a part of) a step: what is minimised, and what is shown."""

    total: Tensor
    shown: dict[str, Tensor]


def step_losses(
    setup: Steered, loss: LossConfig, rows: Sequence[TrainingRow], targets: Params | None = None
) -> StepLosses:
    """The objective on some rows.

    Args:
        setup: the base LM and the hypernetwork.
        loss: which objective.
        rows: what it is measured on.
        targets: parameters [N, ...] by concept id, for the reconstruction objective.
    """
    if loss.objective == "reconstruction":
        assert targets is not None
        return _reconstructed(setup, rows, targets)
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    steering = [[row.steering for row in rows]]
    if loss.contrast:
        steering.append([row.wrong for row in rows])
    teacher = None
    if loss.objective == "distillation":
        prompted = [row.prompted for row in rows if row.prompted is not None]
        teacher = teacher_logits(setup.lm, prompted, prompts, responses, loss.guidance)
    per_row = steered_losses(setup, prompts, responses, steering, teacher)
    mean = per_row[0].mean()
    if not loss.contrast:
        return StepLosses(loss.weight * mean, {"loss": mean})
    term = contrastive(per_row[0], per_row[1], loss.contrast_beta)
    gap = per_row[1].mean() - mean
    shown = {"loss": mean, "contrastive": term, "training_gap": gap}
    return StepLosses(loss.weight * mean + loss.contrast * term, shown)


def _reconstructed(setup: Steered, rows: Sequence[TrainingRow], targets: Params) -> StepLosses:
    texts, prompts = [row.steering for row in rows], [row.prompt for row in rows]
    states = read_steering(setup.lm, setup.config, setup.sites[0], texts)
    (written,) = write_edits(
        setup.network, setup.lm, setup.config, texts, prompts, concept_states=states
    )
    wanted = [row.concept_id for row in rows]
    numbers = [
        (value.flatten(1), targets[name][wanted].to(value).flatten(1))
        for name, value in written.items()
    ]
    distance = reconstruction(*(torch.cat(side, 1) for side in zip(*numbers, strict=True)))
    return StepLosses(distance, {"loss": distance})
