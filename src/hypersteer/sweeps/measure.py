"""Measure a trained run: losses concept by concept, the training curve, and what it cost."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from hypersteer.config import TrainConfig
from hypersteer.data.batches import ValidationRow, chunks
from hypersteer.errors import SteeringError
from hypersteer.files import path_of, read_lines
from hypersteer.lm.base import BaseLM
from hypersteer.steering import load
from hypersteer.sweeps.cost import flops_by_step
from hypersteer.sweeps.measured import ByConcept, Measured, Point
from hypersteer.training.devices import new_accelerator
from hypersteer.training.forward import Steered
from hypersteer.training.rows import Rows, prepare_rows
from hypersteer.training.validate import Losses, steered
from hypersteer.values import json_of

PLAIN = ("unsteered_", "prompted_")
"""What metrics of the base LM's own begin with."""


def rows_of(config: TrainConfig, lm: BaseLM) -> Rows:
    """Return the rows of a run, as training lays them out."""
    return prepare_rows(
        config.data,
        config.loss,
        lm,
        seed=config.seed,
        batch_size=config.optim.batch_size,
        together=config.hypernet.variant == "in-context",
    )


def measure_run(config: TrainConfig, lm: BaseLM, seconds: float) -> Measured:
    """Measure the checkpoint on top of a run's folder, which is that of its last step.

    Args:
        config: the run's settings, trained to the end.
        lm: its base LM.
        seconds: that training took.

    Raises:
        SteeringError: if the run is not there to the end.
    """
    steerer = load(config.out, lm=lm)
    card, hypernet = steerer.card, steerer.hypernet
    if card.step != config.optim.steps:
        raise SteeringError(
            f"'{config.out}' has taken {card.step} of {config.optim.steps} steps; run the same "
            "command again"
        )
    rows = rows_of(config, lm)
    hypernet.eval()
    setup = Steered(lm, hypernet, card.hypernet, hypernet.sites, card.scope)
    accelerator = new_accelerator(config.base_lm.device, config.optim.mixed_precision)
    losses: dict[str, ByConcept] = {}
    for name, own in rows.validation.items():
        taken = steered(setup, own)
        found = by_concept(taken, own, config.optim.batch_size, accelerator.autocast)
        losses[f"{name}_loss"] = {id_: right for id_, (right, _) in found.items()}
        losses[f"{name}_gap"] = {id_: wrong - right for id_, (right, wrong) in found.items()}
    flops = flops_by_step(config, lm, rows)
    return Measured(
        losses=losses,
        plain={name: value for name, value in card.metrics.items() if name.startswith(PLAIN)},
        curve=read_curve(config, flops),
        concepts=len(rows.concepts),
        parameters=sum(one.numel() for one in hypernet.parameters()),
        flops=flops[-1],
        rows=config.optim.steps * config.optim.batch_size,
        seconds=seconds,
    )


@torch.no_grad()
def by_concept(
    losses: Losses,
    rows: Sequence[ValidationRow],
    batch_size: int,
    precision: Callable[[], AbstractContextManager[object]],
) -> dict[str, list[float]]:
    """Return mean losses by concept: under the right steering prompt, and under a wrong one.

    Args:
        losses: what to measure, [K, B] for B rows.
        rows: validation rows.
        batch_size: rows of a forward pass.
        precision: the arithmetic of products, as in training.

    Returns:
        K means for each concept id, ids ascending.
    """
    found: dict[int, list[Tensor]] = {}
    for part in chunks(rows, batch_size):
        with precision():
            each = losses(part).double().cpu()
        for number, row in enumerate(part):
            found.setdefault(row.row.concept_id, []).append(each[:, number])
    return {str(id_): torch.stack(found[id_]).mean(0).tolist() for id_ in sorted(found)}


def read_curve(config: TrainConfig, flops: Sequence[float]) -> tuple[Point, ...]:
    """Return the validations of a run, from its `metrics.jsonl`.

    Args:
        config: the run's settings.
        flops: of all steps up to each.

    Raises:
        SteeringError: if the file is missing or damaged.
    """
    path = f"{config.out}/metrics.jsonl"
    try:
        lines = [json_of(line) for line in read_lines(path_of(path, "out")) if line]
        values = [line for line in lines if "learning_rate" not in line]
        return tuple(_point(line, flops) for line in values)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SteeringError(f"cannot read the metrics '{path}'; delete '{config.out}'") from error


def _point(line: Mapping[str, float], flops: Sequence[float]) -> Point:
    step = int(line["step"])
    held = {f"{one}_loss": line.get(f"{one}_loss") for one in ("held_in", "held_out")}
    return Point(step=step, flops=flops[step - 1], **held)
