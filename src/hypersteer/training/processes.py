"""Several processes as one: what goes wrong in one of them ends all, with one clear error."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from hypersteer.errors import CheckpointError, SteeringError, TrainingError, one_line
from hypersteer.training.state import RunFolder

T = TypeVar("T")


def agree(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something in every process, and wait until all have done it.

    Without this, a process that cannot go on leaves the others waiting for it.

    Args:
        accelerator: knows the processes.
        work: what to do; the processes must not meet in it.

    Returns:
        what it gave in this process.

    Raises:
        Exception: what went wrong here.
        TrainingError: if nothing did, but something in another process; its message says what.
    """
    if accelerator.num_processes == 1:
        return work()
    result: list[T] = []
    failure: Exception | None = None
    try:
        result.append(work())
    except Exception as error:  # told to all, and raised below
        failure = error
    told = gather_object([_told(failure)])
    if failure is not None:
        raise failure
    for number, text in enumerate(told):
        if text:
            raise TrainingError(f"process {number} of {len(told)} cannot go on: {text}")
    return result[0]


def share_of(accelerator: Accelerator) -> tuple[int, int]:
    """This process's number and the number of processes."""
    return accelerator.process_index, accelerator.num_processes


def added(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """A tensor added over all processes, where it was; one process leaves it as it is."""
    if accelerator.num_processes == 1:
        return tensor
    return accelerator.reduce(tensor.to(accelerator.device)).to(tensor.device)


def _told(failure: Exception | None) -> str:
    if failure is None:
        return ""
    kind = "" if isinstance(failure, SteeringError) else f"{type(failure).__name__}: "
    return kind + one_line(failure, limit=1000)


def same_newest(accelerator: Accelerator, folder: RunFolder) -> str | None:
    """Name of the newest checkpoint, or None without one: the same in all processes.

    Raises:
        CheckpointError: in all of them, if they do not find the same one.
    """
    newest = folder.newest()
    own = newest.name if newest else ""
    found = [own] if accelerator.num_processes == 1 else gather_object([own])
    for number, name in enumerate(found):
        if name != found[0]:
            raise CheckpointError(
                f"the run folder '{folder.path}' is not the same for all processes: process 0 "
                f"finds {found[0] or 'no checkpoint'} in it, process {number} "
                f"{name or 'no checkpoint'}; put it on a disk that all nodes share, or copy it "
                "to each of them"
            )
    return found[0] or None
