"""Several processes as one, and what is told when one of them fails: one clear error ends all."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from hypersteer.errors import CheckpointError, SteeringError, TrainingError, one_line

T = TypeVar("T")

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
"""What the transports between processes say when one of them has ended."""


class Diverged(Exception):
    """A loss or a gradient that is no number; `describe_failure` makes a message of it.

    Attributes:
        rate: the learning rate of the step.
    """

    def __init__(self, what: str, rate: float) -> None:
        super().__init__(what)
        self.rate = rate


def agree(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do something in every process, and wait until all have done it.

    Without this, a process that cannot continue leaves the others waiting for it.

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
    """Return this process's number and the number of processes."""
    return accelerator.process_index, accelerator.num_processes


def added(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes; one process leaves it as it is."""
    if accelerator.num_processes == 1:
        return tensor
    return accelerator.reduce(tensor.to(accelerator.device)).to(tensor.device)


def _told(failure: Exception | None) -> str:
    if failure is None:
        return ""
    kind = "" if isinstance(failure, SteeringError) else f"{type(failure).__name__}: "
    return kind + one_line(failure, limit=1000)


def same_newest(accelerator: Accelerator, run: Path, newest: Path | None) -> str | None:
    """Return the name of the newest checkpoint, or None without one: the same in all processes.

    Args:
        accelerator: knows the processes.
        run: the run's folder.
        newest: the newest checkpoint that this process finds in it.

    Raises:
        CheckpointError: in all of them, if they do not find the same one.
    """
    own = newest.name if newest else ""
    found = [own] if accelerator.num_processes == 1 else gather_object([own])
    for number, name in enumerate(found):
        if name != found[0]:
            raise CheckpointError(
                f"the run folder '{run}' is not the same for all processes: process 0 "
                f"finds {found[0] or 'no checkpoint'} in it, process {number} "
                f"{name or 'no checkpoint'}; put it on a disk that all nodes share, or copy it "
                "to each of them"
            )
    return found[0] or None


def describe_failure(error: BaseException, step: int, path: Path) -> SteeringError | None:
    """Return what to tell the user about an error in a run; None if it is not theirs to mend.

    Args:
        error: what went wrong.
        step: when, counted from 1.
        path: the run's folder.
    """
    text = str(error)
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "not enough memory" in text)
    )
    if isinstance(error, Diverged):
        return TrainingError(
            f"the {text} at step {step}; {_kept(path, 'nothing was saved yet')}; lower "
            f"optim.learning_rate (now {error.rate:.2g}) or optim.clip"
        )
    if out_of_memory:
        return TrainingError(
            f"out of memory at step {step}; {_kept(path)}; raise optim.accumulation, set "
            "optim.gradient_checkpointing, or lower optim.batch_size or data.max_response_tokens"
        )
    if isinstance(error, RuntimeError) and "without overflow" in text:
        return TrainingError(
            f"a number is too large for float32 at step {step}; {_kept(path)}; lower "
            "optim.learning_rate or optim.weight_decay"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return cannot_write(error, path, step)
    if any(sign in text for sign in LOST_PEER):
        return TrainingError(
            f"another process of this run ended at step {step}; its own message says why; "
            f"{_kept(path)}"
        )
    return None


def cannot_write(error: OSError, path: Path, step: int) -> TrainingError:
    """Return the error for a run's folder that takes no more, or nothing at all, at a step."""
    return TrainingError(
        f"cannot write to '{path}' at step {step}: {reason(error)}; {_kept(path)}; "
        "mend that and run the same command again"
    )


def _kept(path: Path, otherwise: str = "no checkpoint was due yet") -> str:
    found = sorted((path / "checkpoints").glob("step-*"))
    return f"the checkpoint '{found[-1]}' is intact" if found else otherwise


def reason(error: OSError) -> str:
    """Return why something could not be written."""
    full = error.errno in DISK_FULL or "No space left" in str(error)
    return "the disk is full" if full else one_line(error)
