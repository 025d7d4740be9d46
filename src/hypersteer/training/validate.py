"""Validation: losses of the unsteered, the prompted and the steered base LM, and concept gaps.

The concept gap is the loss with another row's steering prompt minus the loss with the right one.
The gap is what steering is: a plain gain may be no more than the teacher's style.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from hypersteer.data.batches import ValidationRow, chunks
from hypersteer.training.forward import Steered, plain_losses, steered_losses
from hypersteer.training.processes import added, share_of

Losses = Callable[[Sequence[ValidationRow]], Tensor]
"""Rows -> losses [K, B]: under the right steering prompt first, under the wrong one second."""


def steered(setup: Steered, rows: Sequence[ValidationRow]) -> Losses:
    """Return what measures losses under the hypernetwork's edits.

    Args:
        setup: the base LM and the hypernetwork.
        rows: all that it will be asked about. They decide how often the hypernetwork runs for some
            of them, so that this is the same in all processes.
    """
    together = all(v.row.prompt == v.wrong_prompt for v in rows)

    def losses(rows: Sequence[ValidationRow]) -> Tensor:
        responses = [v.row.response for v in rows]
        right, wrong = [v.row.steering for v in rows], [v.row.wrong for v in rows]
        prompts, wrong_prompts = [v.row.prompt for v in rows], [v.wrong_prompt for v in rows]
        if together:
            return steered_losses(setup, prompts, responses, [right, wrong])
        each = [(prompts, right), (wrong_prompts, wrong)]
        return torch.cat([steered_losses(setup, p, responses, [texts]) for p, texts in each])

    return losses


def prompted(setup: Steered) -> Losses:
    """Return what measures losses with the steering prompt in the user turn instead of an edit."""

    def losses(rows: Sequence[ValidationRow]) -> Tensor:
        responses = [v.row.response for v in rows]
        right = plain_losses(setup.lm, [v.prompted for v in rows], responses)
        wrong = plain_losses(setup.lm, [v.wrongly_prompted for v in rows], responses)
        return torch.stack([right, wrong])

    return losses


def unsteered(setup: Steered) -> Losses:
    """Return what measures losses of the plain base LM, which has no wrong steering prompt."""

    def losses(rows: Sequence[ValidationRow]) -> Tensor:
        prompts, responses = [v.row.plain for v in rows], [v.row.response for v in rows]
        return plain_losses(setup.lm, prompts, responses)[None]

    return losses


class Validation:
    """Measures losses on validation rows, over all processes.

    Args:
        accelerator: devices, processes and precision.
        rows: validation rows by name, each sorted by length.
        batch_size: rows per forward pass.
    """

    def __init__(
        self, accelerator: Accelerator, rows: dict[str, list[ValidationRow]], batch_size: int
    ) -> None:
        self._accelerator = accelerator
        self._rows = rows
        self._batch_size = batch_size

    def baselines(self, setup: Steered) -> dict[str, float]:
        """Return metrics of the unsteered and the prompted base LM."""
        found = {}
        for name, rows in self._rows.items():
            found |= metrics(name, self._means(unsteered(setup), rows), "unsteered_")
            found |= metrics(name, self._means(prompted(setup), rows), "prompted_")
        return found

    def steered(self, setup: Steered) -> dict[str, float]:
        """Return metrics of the steered base LM."""
        found = {}
        for name, rows in self._rows.items():
            found |= metrics(name, self._means(steered(setup, rows), rows))
        return found

    def _means(self, losses: Losses, rows: Sequence[ValidationRow]) -> list[float]:
        with self._accelerator.autocast():
            return mean_losses(
                losses,
                rows,
                batch_size=self._batch_size,
                reduce=partial(added, self._accelerator),
                share=share_of(self._accelerator),
            )


@torch.no_grad()
def mean_losses(
    losses: Losses,
    rows: Sequence[ValidationRow],
    *,
    batch_size: int,
    reduce: Callable[[Tensor], Tensor],
    share: tuple[int, int] = (0, 1),
) -> list[float]:
    """Return the mean loss over the rows for each of the K steering prompts.

    Args:
        losses: what to measure.
        rows: validation rows, sorted by length.
        batch_size: rows per forward pass.
        reduce: adds a tensor over all processes.
        share: this process's number and the number of processes. All of them measure equally often,
            since they meet in a hypernetwork that is split over them; what is left over for one
            that has no rows of its own does not count.
    """
    number, processes = share
    parts = list(chunks(rows, batch_size))
    sums = []
    for first in range(0, len(parts), processes):
        own = first + number < len(parts)
        summed = _summed(losses(parts[first + number] if own else parts[first]))
        sums.append(summed if own else torch.zeros_like(summed))
    return (reduce(torch.stack(sums).sum(0)) / len(rows)).tolist()


def _summed(losses: Tensor) -> Tensor:
    """Add up over rows in float64, which some devices do not have, so on the CPU."""
    return losses.cpu().double().sum(1)


def metrics(name: str, means: list[float], prefix: str = "") -> dict[str, float]:
    """Name mean losses: `held_out_loss` and `held_out_gap`, or with a prefix."""
    named = {f"{prefix}{name}_loss": means[0]}
    if len(means) > 1:
        named[f"{prefix}{name}_gap"] = means[1] - means[0]
    return named
