"""What a step minimises, on some rows: one of the objectives, with or without contrast."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hypersteer.config import LossConfig
from hypersteer.data.batches import Row
from hypersteer.hypernet.network import read_steering, write_vectors
from hypersteer.training.forward import Steered, steered_losses, teacher_logits
from hypersteer.training.losses import contrastive, reconstruction


class StepLosses(NamedTuple):
    """Loss of (a part of) a step: what is minimised, and what is shown."""

    total: Tensor
    shown: dict[str, Tensor]


def step_losses(
    setup: Steered, loss: LossConfig, rows: Sequence[Row], targets: Tensor | None = None
) -> StepLosses:
    """The objective on some rows.

    Args:
        setup: the base LM and the hypernetwork.
        loss: which objective.
        rows: what it is measured on.
        targets: target vectors [N, D] by concept id, for the reconstruction objective.
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


def _reconstructed(setup: Steered, rows: Sequence[Row], targets: Tensor) -> StepLosses:
    texts, prompts = [row.steering for row in rows], [row.prompt for row in rows]
    own = read_steering(setup.lm, setup.config, setup.site, texts)
    written = write_vectors(setup.network, setup.lm, setup.config, texts, prompts, own=own)
    distance = reconstruction(written, targets[[row.concept_id for row in rows]].to(written))
    return StepLosses(distance, {"loss": distance})
