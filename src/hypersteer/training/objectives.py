"""What a step minimises, on some rows: one of the objectives, with or without contrast.

Shapes: B rows, N concepts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypersteer.config import HypernetConfig, LossConfig
from hypersteer.data.batches import TrainingRow
from hypersteer.edits.kinds import Params
from hypersteer.edits.registry import edit_kind
from hypersteer.errors import ConfigError, DataError, one_line
from hypersteer.files import is_file, path_of
from hypersteer.hypernet.maker import read_steering, write_edits
from hypersteer.training.forward import (
    Steered,
    steered_losses,
    steered_states,
    teacher_logits,
    teacher_states,
)
from hypersteer.training.losses import (
    contrastive,
    matching,
    preference,
    reconstruction,
    similarity,
)
from hypersteer.training.own_answers import OwnAnswers


class StepLosses(NamedTuple):
    """Loss of (a part of) a step: what is minimised, and what is shown."""

    total: Tensor
    shown: dict[str, Tensor]


def step_losses(
    setup: Steered,
    loss: LossConfig,
    rows: Sequence[TrainingRow],
    targets: Params | None = None,
    own: OwnAnswers | None = None,
) -> StepLosses:
    """Return the losses of some rows.

    Args:
        setup: the base LM and the hypernetwork.
        loss: which objective.
        rows: what it is measured on.
        targets: parameters [N, ...] by concept id, for the reconstruction objective.
        own: what the base LM answers itself, for the preference objective and negated rows.
    """
    if loss.objective == "reconstruction":
        assert targets is not None
        return _reconstructed(setup, rows, targets)
    if loss.objective == "preference":
        assert own is not None
        return _preferred(setup, loss, rows, own)
    if loss.objective == "activations":
        return _matched(setup, loss, rows)
    rows = _contrasted_first(rows, loss)
    responses = [_wanted(row, own) for row in rows]
    teacher = None
    if loss.objective == "distillation":
        prompted = [row.prompted for row in rows if row.prompted is not None]
        plain = [row.plain for row in rows]
        teacher = teacher_logits(setup.lm, prompted, plain, responses, loss.guidance)
    if not loss.contrast:
        changes: list[Tensor] | None = [] if loss.diversity else None
        mean = _steered(setup, rows, responses, teacher=teacher, changes=changes)[0].mean()
        if changes is None:
            return StepLosses(loss.weight * mean, {"loss": mean})
        concepts = torch.tensor([row.concept_id for row in rows], device=mean.device)
        term = torch.stack([similarity(one, concepts) for one in changes]).mean()
        total = loss.weight * mean + loss.diversity * term
        return StepLosses(total, {"loss": mean, "similarity": term})
    right, wrong = _contrasted(setup, loss, rows, responses, teacher)
    mean = right[: len(rows)].mean() + 0.0 * right[len(rows) :].sum()
    beside = right[: len(wrong)]
    weights = torch.tensor([row.contrast / len(rows) for row in rows[: len(wrong)]]).to(wrong)
    term = contrastive(beside, wrong, weights, loss.contrast_beta)
    gap = (weights * (wrong - beside)).sum()
    shown = {"loss": mean, "contrastive": term, "training_gap": gap}
    return StepLosses(loss.weight * mean + loss.contrast * term, shown)


def _wanted(row: TrainingRow, own: OwnAnswers | None) -> list[int]:
    """Return the response that a row is to become likely: a negated one wants the plain answer."""
    if not row.negated:
        return row.response
    assert own is not None
    return own.answer(row)


def _steered(
    setup: Steered,
    rows: Sequence[TrainingRow],
    responses: Sequence[list[int]],
    *wrong: Sequence[list[int]],
    teacher: Tensor | None = None,
    changes: list[Tensor] | None = None,
) -> Float[Tensor, "K B"]:
    """Return losses of responses under the rows' own steering prompts, and under wrong ones."""
    return steered_losses(
        setup,
        [row.prompt for row in rows],
        responses,
        [[row.steering for row in rows], *wrong],
        teacher,
        [row.strength for row in rows],
        changes,
    )


def _contrasted_first(rows: Sequence[TrainingRow], loss: LossConfig) -> Sequence[TrainingRow]:
    """Bring the rows that the contrastive term is measured on to the front."""
    return sorted(rows, key=lambda row: not row.contrast) if loss.contrast else rows


def _contrasted(
    setup: Steered,
    loss: LossConfig,
    rows: Sequence[TrainingRow],
    responses: Sequence[list[int]],
    teacher: Tensor | None,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " W"]]:
    """Return losses under the right steering prompts, and the first W of them under wrong ones.

    Rows of which both are wanted run side by side, above states that are made once. Where not all
    are, both kinds run in every process and part, since processes meet in the hypernetwork: the
    first row stands in for one that is contrasted, with weight 0, and the last one, whose loss
    comes once more at the end, for one that is not.
    """
    count = sum(row.contrast > 0 for row in rows)
    if loss.contrast_share < 1 or loss.negated:
        count = max(1, count)
        rest = min(count, len(rows) - 1)
    else:
        rest = len(rows)
    border = sum(map(len, responses[:count]))
    wrong = [row.wrong for row in rows[:count]]
    taught = None if teacher is None else teacher[:border]
    both = _steered(setup, rows[:count], responses[:count], wrong, teacher=taught)
    if rest == len(rows):
        return both[0], both[1]
    border = sum(map(len, responses[:rest]))
    taught = None if teacher is None else teacher[border:]
    alone = _steered(setup, rows[rest:], responses[rest:], teacher=taught)
    return torch.cat([both[0], alone[0]]), both[1]


def _matched(setup: Steered, loss: LossConfig, rows: Sequence[TrainingRow]) -> StepLosses:
    """Match the prompted base LM's states, with no block above the last site."""
    prompted = [row.prompted for row in rows if row.prompted is not None]
    responses = [row.response for row in rows]
    wanted, plain = teacher_states(
        setup, prompted, [row.plain for row in rows], responses, loss.guidance
    )
    states = steered_states(
        setup,
        [row.prompt for row in rows],
        responses,
        [row.steering for row in rows],
        [row.strength for row in rows],
    )
    distance = matching(states, wanted, plain, [len(one) for one in responses], setup.excess)
    return StepLosses(loss.weight * distance, {"loss": distance})


def _preferred(
    setup: Steered, loss: LossConfig, rows: Sequence[TrainingRow], own: OwnAnswers
) -> StepLosses:
    """Return the preference objective; a negated row prefers the base LM's own answer."""
    pairs = [(row.response, own.answer(row)) for row in rows]
    pairs = [pair[::-1] if row.negated else pair for row, pair in zip(rows, pairs, strict=True)]
    wins, losers = [win for win, _ in pairs], [loser for _, loser in pairs]
    losses = _steered(setup, [*rows, *rows], [*wins, *losers])[0]
    win, lose = losses.chunk(2)
    reference = [
        (own.likelihood(row, w), own.likelihood(row, x))
        for row, (w, x) in zip(rows, pairs, strict=True)
    ]
    term = preference(win, lose, torch.tensor(reference, device=win.device))
    shown = {"loss": win.mean(), "preference": term, "training_gap": (lose - win).mean()}
    return StepLosses(loss.weight * term, shown)


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
