"""What a step minimises, on some rows: one of the objectives, with or without contrast.

Shapes: B rows, P numbers of an edit, N concepts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from hypersteer.config import HypernetConfig, LossConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.edits.kinds import Params
from hypersteer.edits.registry import edit_kind
from hypersteer.errors import ConfigError, DataError, one_line
from hypersteer.files import is_file, path_of
from hypersteer.hypernet.maker import read_steering, write_edits
from hypersteer.training.forward import Steered, steered_losses, teacher_logits


class StepLosses(NamedTuple):
    """Loss of (a part of) a step: what is minimised, and what is shown."""

    total: Tensor
    shown: dict[str, Tensor]


def step_losses(
    setup: Steered, loss: LossConfig, rows: Sequence[TrainingRow], targets: Params | None = None
) -> StepLosses:
    """Return the losses of some rows.

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
        plain = [row.plain for row in rows]
        teacher = teacher_logits(setup.lm, prompted, plain, responses, loss.guidance)
    strengths = [row.strength for row in rows]
    per_row = steered_losses(setup, prompts, responses, steering, teacher, strengths)
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


def contrastive(
    right: Float[Tensor, " B"], wrong: Float[Tensor, " B"], beta: float
) -> Float[Tensor, ""]:
    """Return `mean softplus(-beta (CE_wrong - CE_right)) / beta`: the right prompt must win.

    Args:
        right: each row's mean cross-entropy under its own steering prompt, in nats.
        wrong: the same row's under another row's steering prompt.
        beta: sharpness, per nat.
    """
    return F.softplus(-beta * (wrong - right)).mean() / beta


def reconstruction(
    written: Float[Tensor, "B P"], targets: Float[Tensor, "B P"]
) -> Float[Tensor, ""]:
    """Return `mean (1 - cos(v, t) + |v - t|^2)` (paper, section 3, no-context variant).

    Args:
        written: the P numbers of each edit.
        targets: those it should have.
    """
    distance = (written - targets).pow(2).sum(-1)
    return (1 - F.cosine_similarity(written, targets, dim=-1) + distance).mean()


def read_targets(
    path: str | None, hypernet: HypernetConfig, width: int, count: int
) -> Params | None:
    """Read the targets of the reconstruction objective.

    Args:
        path: the safetensors file; None for other objectives.
        hypernet: the kind of edits, whose parameters the file must hold.
        width: of the base LM.
        count: concepts, ids counted from 0.

    Returns:
        parameters [N, ...] by concept id; None without a file.

    Raises:
        ConfigError: if the targets have other shapes, or the edits other sites.
        DataError: if the file cannot be read.
    """
    if path is None:
        return None
    if hypernet.more_layers:
        raise ConfigError("loss.targets are of one site; leave out hypernet.more_layers")
    file = path_of(path, "loss.targets")
    if not is_file(file):
        raise DataError(f"no targets at '{file}'; give a safetensors file with 'vectors' [N, D]")
    try:
        held = load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"'{file}' holds no readable 'vectors': {one_line(error)}") from error
    found = {}
    for name, shape in edit_kind(hypernet.edit).shapes(width, hypernet.rank).items():
        key = f"{name}s"  # one for each concept
        if key not in held:
            raise DataError(f"'{file}' holds no readable '{key}'; it has {sorted(held)}")
        value = held[key]
        if value.ndim != 1 + len(shape) or len(value) < count or value.shape[1:] != shape:
            raise ConfigError(f"'{file}': {key} {list(value.shape)} are not {[count, *shape]}")
        found[name] = value.float()
    return found
